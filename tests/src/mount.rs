//! Mounted file systems.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cleanup::Cleanup;
use crate::tool::Tool;

/// A mount; dropping it unmounts, lazily if it must.
#[derive(Debug)]
pub struct Mount {
    point: PathBuf,
    _cleanup: Cleanup,
}

impl Mount {
    /// Mounts a block device on a folder, which is made.
    pub fn device(device: &Path, point: &Path, options: &str) -> Mount {
        Mount::by(Tool::new("mount").args(["-o", options]).arg(device), point)
    }

    /// Mounts a file system in memory of at most this size (as `mount` takes it: `8M`).
    pub fn tmpfs(point: &Path, size: &str) -> Mount {
        Mount::by(
            Tool::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]),
            point,
        )
    }

    fn by(tool: Tool, point: &Path) -> Mount {
        std::fs::create_dir_all(point).unwrap();
        tool.arg(point).run();
        let gone = point.to_owned();
        let cleanup = Cleanup::new(move || unmount(&gone));
        Mount {
            point: point.to_owned(),
            _cleanup: cleanup,
        }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.point
    }

    /// The path of something in it.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.point.join(name)
    }

    /// Gives a file system in memory another size.
    pub fn resize(&self, size: &str) {
        Tool::new("mount")
            .args(["-o", &format!("remount,size={size}")])
            .arg(&self.point)
            .run();
    }

    /// Writes everything back and unmounts; a failure is the test's.
    pub fn unmount(self) {
        Tool::new("sync").arg("-f").arg(&self.point).run();
        Tool::new("umount").arg(&self.point).run();
    }
}

/// Called as well after [`Mount::unmount`], when there is nothing left to do.
pub(crate) fn unmount(point: &Path) {
    if !is_mounted(point) {
        return;
    }
    let ended = |args: &[&str]| {
        Command::new("umount")
            .args(args)
            .arg(point)
            .status()
            .is_ok_and(|status| status.success())
    };
    if !ended(&["--quiet"]) {
        ended(&["--quiet", "--lazy"]);
    }
}

/// Whether something is mounted on the path (a folder, or a file as nbdfuse does it).
pub(crate) fn is_mounted(point: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mounts
        .lines()
        .any(|line| line.split(' ').nth(4).map(Path::new) == Some(point))
}
