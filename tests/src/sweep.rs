//! Clearing up after tests that were killed before they could.
//!
//! Everything that outlives a process is named after it: `iomgr-test-PID-N` under `/dev/shm` (with the backing files
//! of loop devices and the mount points inside) and under the blkio cgroup. What carries the number of a process that
//! is gone is undone, throttles first: a stalled device would stall the rest.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{blkio, dir, loopdev};

/// How every name of ours starts.
pub(crate) const PREFIX: &str = "iomgr-test-";

/// Undoes what dead processes left. Runs before the first guard of a process is set up.
pub(crate) fn leftovers() {
    for group in abandoned(Path::new(blkio::ROOT)) {
        blkio::lift_and_remove(&group);
    }
    for folder in abandoned(&dir::base()) {
        unmount_below(&folder);
        loopdev::detach_all_backed_by(&folder);
        let _ = fs::remove_dir_all(&folder);
    }
}

/// Our folders below `root` whose process is gone.
fn abandoned(root: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(root) else {
        return Vec::new();
    };
    let entries = entries.filter_map(Result::ok);
    entries
        .filter(|entry| entry.file_name().to_str().is_some_and(is_abandoned))
        .map(|entry| entry.path())
        .collect()
}

fn is_abandoned(name: &str) -> bool {
    let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
    pid.is_some_and(|pid| pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists())
}

/// Lazily: whatever served the mount may be dead.
fn unmount_below(folder: &Path) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(Path::new);
    let below: Vec<_> = points.filter(|point| point.starts_with(folder)).collect();
    for point in below.iter().rev() {
        let _ = Command::new("umount").arg("--lazy").arg(point).status();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_dead_processes_are_abandoned() {
        let mine = format!("{PREFIX}{}-0", std::process::id());
        assert!(!is_abandoned(&mine));
        assert!(
            is_abandoned(&format!("{PREFIX}4194305-3")),
            "above the kernel's highest process id"
        );
        assert!(!is_abandoned("somebody-elses-1-2"));
    }
}
