//! `cargo xtask bench --merging`: what merging gains on this machine, beside fio's io_uring engine.
//!
//! The device is a loop device on tmpfs, which costs the kernel about as much per op as a fast disk does.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::rivals::{self, Load};
use crate::scratch::Scratch;
use crate::{Result, cmd};

/// Neighbours, many at a time: at least twice fio's throughput.
pub(super) const LOAD: Load = Load {
    pattern: "sequential-write",
    depth: 128,
    ratio_max: 0.5,
    is_hard: false,
};

/// Ops of one measurement: about a second of fio's.
const OPS: u32 = 200_000;

const DISK_BYTES: u64 = 256 << 20;

/// Builds the load, takes turns, prints the table; a ratio above its bound is an error.
pub(super) fn run(pairs: usize) -> Result {
    let load = rivals::build()?;
    let scratch = Scratch::new(Path::new("/dev/shm"), "iomgr-bench-")?;
    let (script, disk) = (scratch.join("rivals.sh"), scratch.join("disk"));
    std::fs::write(&script, rivals::SCRIPT)?;
    scratch.random_file(&disk, DISK_BYTES)?;
    let device = LoopDevice::new(&disk)?;
    let mut sh = Command::new("sh");
    sh.arg(&script)
        .arg(&device.path)
        .args([pairs.to_string(), OPS.to_string()]);
    sh.args(rivals::words(&[LOAD])).env("PATH", with_folder_of(&load)?);
    let mut text = String::new();
    let ok = cmd::tee(&mut sh, |line| text += &format!("{line}\n"))?;
    if !ok {
        return Err("a load failed".into());
    }
    rivals::judge(&text, &[LOAD], "ns")
}

/// `PATH` with the folder of this program before the others.
fn with_folder_of(program: &Path) -> Result<std::ffi::OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folder = program.parent().into_iter().map(Path::to_path_buf);
    Ok(std::env::join_paths(folder.chain(std::env::split_paths(&path)))?)
}

/// A loop device that goes with us, however we end: it is detached at once, which the kernel does when nobody has it
/// open any more.
#[derive(Debug)]
struct LoopDevice {
    path: PathBuf,
    _open: File,
}

impl LoopDevice {
    fn new(file: &Path) -> Result<LoopDevice> {
        let path = cmd::capture(Command::new("losetup").args(["--find", "--show"]).arg(file))?;
        let path = PathBuf::from(path.trim());
        let open = File::open(&path);
        cmd::capture(Command::new("losetup").arg("--detach").arg(&path))?;
        Ok(LoopDevice { path, _open: open? })
    }
}
