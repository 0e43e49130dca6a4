//! A loop device over a file.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cleanup::Cleanup;
use crate::tool::Tool;
use crate::wait;

/// An attached loop device; dropping it detaches it and waits until the kernel has let go of the file.
#[derive(Debug)]
pub struct Loop {
    device: PathBuf,
    cleanup: Cleanup,
}

impl Loop {
    /// Attaches the file, with direct I/O to it.
    pub fn attach(file: &Path) -> Loop {
        Loop::attach_with(file, &[])
    }

    /// Attaches the file with further arguments for `losetup`, as `--sector-size 4096`.
    pub fn attach_with(file: &Path, args: &[&str]) -> Loop {
        let tool = Tool::new("losetup").args(["--find", "--show", "--direct-io=on"]);
        let device = PathBuf::from(tool.args(args).arg(file).run().trim());
        let detached = device.clone();
        let cleanup = Cleanup::new(move || detach(&detached));
        Loop { device, cleanup }
    }

    /// Detaches it as soon as its last user lets go of it, and waits for nobody: that may be this process's end.
    pub fn leave(self) {
        Tool::new("losetup").arg("--detach").arg(&self.device).run();
        self.cleanup.forget();
    }

    /// `/dev/loopN`
    pub fn path(&self) -> &Path {
        &self.device
    }

    /// `MAJOR:MINOR`, as the kernel's control files want it.
    pub fn number(&self) -> String {
        fs::read_to_string(sys(&self.device).join("dev"))
            .unwrap()
            .trim()
            .to_owned()
    }
}

/// Detaching is lazy: the device lives on while somebody has it open.
fn detach(device: &Path) {
    let _ = Command::new("losetup").arg("--detach").arg(device).status();
    wait::until(|| !sys(device).join("loop/backing_file").exists());
}

/// Detaches what dead tests left in a folder.
pub(crate) fn detach_all_backed_by(folder: &Path) {
    let Ok(devices) = fs::read_dir("/sys/block") else {
        return;
    };
    for name in devices.filter_map(Result::ok).map(|entry| entry.file_name()) {
        let device = Path::new("/dev").join(&name);
        let backing = fs::read_to_string(sys(&device).join("loop/backing_file")).unwrap_or_default();
        if Path::new(&backing).starts_with(folder) {
            let _ = Command::new("losetup").arg("--detach").arg(&device).status();
        }
    }
}

fn sys(device: &Path) -> PathBuf {
    Path::new("/sys/block").join(device.file_name().expect("a device below /dev"))
}
