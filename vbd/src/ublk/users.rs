//! Who has a block device open, as far as another process can see.
//!
//! The kernel tells nobody its count of openers before Linux 7.0 (`TRY_STOP_DEV`). What is mounted, swapped on or a part of
//! another device holds it exclusively; who else has it open, or a partition of it, is in `/proc`, and behind which file a
//! loop device is, in `/sys`. Not seen are processes of other users, if this one may not look at them, those outside of its
//! pid namespace, and the kernel's own users, like an NVMe target.

use std::collections::BTreeSet;
use std::fs::{self, DirEntry};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use blkdev_ublk::block_path;

/// The processes and loop devices that have the block device open, or a partition of it.
pub(super) fn users_of(id: u32) -> Vec<String> {
    let nodes = nodes(id);
    let numbers: Vec<_> = nodes.iter().filter_map(|node| number(node)).collect();
    let processes = entries("/proc").filter_map(|process| process_with(&process, &numbers));
    let loops = entries("/sys/block").filter_map(|disk| loop_over(&disk, &nodes));
    processes.chain(loops).collect()
}

/// The device and its partitions.
fn nodes(id: u32) -> BTreeSet<PathBuf> {
    let disk = block_path(id);
    let name = disk.file_name().expect("it has one");
    let partition = |entry: DirEntry| {
        let is_one = entry.path().join("partition").exists();
        is_one.then(|| Path::new("/dev").join(entry.file_name()))
    };
    let mut nodes: BTreeSet<_> = entries(Path::new("/sys/block").join(name))
        .filter_map(partition)
        .collect();
    nodes.insert(disk);
    nodes
}

/// A process that has one of the devices of these numbers open: its own number, and its name.
fn process_with(process: &DirEntry, numbers: &[u64]) -> Option<String> {
    let pid: u32 = process.file_name().to_str()?.parse().ok()?;
    let has_one = entries(process.path().join("fd"))
        .filter_map(|fd| number(&fd.path()))
        .any(|number| numbers.contains(&number));
    if !has_one || pid == std::process::id() {
        return None;
    }
    let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
    Some(format!("process {pid} ({})", name.trim()))
}

/// A loop device that has one of them behind it.
fn loop_over(disk: &DirEntry, nodes: &BTreeSet<PathBuf>) -> Option<String> {
    let file = fs::read_to_string(disk.path().join("loop/backing_file")).ok()?;
    let is_over = nodes.contains(Path::new(file.trim_end()));
    is_over.then(|| format!("/dev/{}", disk.file_name().display()))
}

/// The number of a block device's node.
fn number(node: &Path) -> Option<u64> {
    let meta = fs::metadata(node).ok()?;
    meta.file_type().is_block_device().then(|| meta.rdev())
}

/// What cannot be read has none: it has gone, or belongs to somebody else.
fn entries(folder: impl AsRef<Path>) -> impl Iterator<Item = DirEntry> {
    fs::read_dir(folder).into_iter().flatten().flatten()
}
