//! What a test needs from the machine; a test that lacks something prints `skipped: reason` and ends.
//!
//! ```
//! # fn nbd_copy_both_ways() {
//! if !iomgr_tests::need::tools(&["nbdcopy", "qemu-img"]) {
//!     return;
//! }
//! # }
//! ```

use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Resource, getrlimit};

/// Prints why the test does not run. `cargo xtask test` counts and lists these lines.
pub fn skip(reason: &str) {
    println!("skipped: {reason}");
}

/// Whether all these programs are installed.
pub fn tools(programs: &[&str]) -> bool {
    let missing: Vec<_> = programs
        .iter()
        .copied()
        .filter(|program| which(program).is_none())
        .collect();
    said(missing.is_empty(), || format!("not installed: {}", missing.join(" ")))
}

/// Whether libnbd can be scripted: `nbdsh`, with the Python that its library belongs to.
pub fn nbdsh() -> bool {
    let version = || {
        Command::new("nbdsh")
            .arg("--version")
            .env("PATH", system_path())
            .output()
    };
    tools(&["nbdsh"])
        && said(version().is_ok_and(|ended| ended.status.success()), || {
            "nbdsh finds no python3-libnbd".into()
        })
}

/// `PATH` with the system's own Python before any other.
pub fn system_path() -> String {
    format!("/usr/bin:/bin:{}", std::env::var("PATH").unwrap_or_default())
}

/// Whether a process may open so many descriptors, if it raises its limit.
pub fn descriptors(count: u64) -> bool {
    let limit = getrlimit(Resource::Nofile).maximum;
    said(limit.is_none_or(|limit| limit >= count), || {
        format!("no process may open {count} descriptors")
    })
}

/// Whether we may set up devices and mounts.
pub fn root() -> bool {
    said(rustix::process::geteuid().is_root(), || "needs root".into())
}

/// Whether loop devices can be had.
pub fn loop_devices() -> bool {
    root()
        && said(Path::new("/dev/loop-control").exists(), || "no loop devices".into())
        && tools(&["losetup", "mkfs.ext4"])
}

/// Whether FUSE can be had, with nbdfuse to use it.
pub fn fuse() -> bool {
    root() && said(Path::new("/dev/fuse").exists(), || "no /dev/fuse".into()) && tools(&["nbdfuse"])
}

/// Whether a loop device can be throttled.
pub fn blkio() -> bool {
    let there = Path::new(crate::blkio::ROOT)
        .join("blkio.throttle.io_serviced")
        .exists();
    loop_devices() && said(there, || "no cgroup v1 blkio controller".into())
}

/// The folder of images by other people's tools, which is not part of a clone.
pub fn shared_images() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/vhd-images");
    said(folder.is_dir(), || "../shared/vhd-images is not there".into()).then_some(folder)
}

fn said(there: bool, reason: impl FnOnce() -> String) -> bool {
    if !there {
        skip(&reason());
    }
    there
}

fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let sbin = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(sbin)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}
