//! Throttling a loop device for one process, by cgroup v1's blkio controller.

use std::fs;
use std::path::{Path, PathBuf};

use crate::cleanup::Cleanup;
use crate::loopdev::Loop;
use crate::{dir, wait};

/// Where the controller is mounted.
pub(crate) const ROOT: &str = "/sys/fs/cgroup/blkio";

/// The control files for bytes a second, written and read.
const WRITE_BPS: &str = "blkio.throttle.write_bps_device";
const READ_BPS: &str = "blkio.throttle.read_bps_device";

/// A control group whose members' writes to one device are slowed down; dropping it lifts the throttle.
///
/// A stalled writer survives SIGKILL until the throttle is lifted, so lifting comes first on every way out.
#[derive(Debug)]
pub struct Blkio {
    group: PathBuf,
    number: String,
    _cleanup: Cleanup,
}

impl Blkio {
    /// A group without a limit yet.
    pub fn new(device: &Loop) -> Blkio {
        let group = Path::new(ROOT).join(dir::unique_name());
        fs::create_dir(&group).unwrap();
        let removed = group.clone();
        let cleanup = Cleanup::new(move || lift_and_remove(&removed));
        Blkio {
            group,
            number: device.number(),
            _cleanup: cleanup,
        }
    }

    /// Puts a process and all its threads into the group.
    pub fn add(&self, pid: u32) {
        fs::write(self.procs(), pid.to_string()).unwrap();
    }

    /// Puts the calling thread alone into the group, with the I/O that it submits from now on.
    pub fn add_this_thread(&self) {
        let thread = rustix::thread::gettid().as_raw_nonzero();
        fs::write(self.group.join("tasks"), thread.to_string()).unwrap();
    }

    /// The control file that takes process ids.
    pub fn procs(&self) -> PathBuf {
        self.group.join("cgroup.procs")
    }

    /// Stalls writes: one byte a second.
    pub fn stall(&self) {
        self.limit(WRITE_BPS, 1);
    }

    /// Stalls reads.
    pub fn stall_reads(&self) {
        self.limit(READ_BPS, 1);
    }

    /// Lets everything go; what waits goes on within milliseconds.
    pub fn lift(&self) {
        self.limit(WRITE_BPS, 0);
        self.limit(READ_BPS, 0);
    }

    fn limit(&self, file: &str, bytes_per_second: u64) {
        let line = format!("{} {bytes_per_second}", self.number);
        fs::write(self.group.join(file), line).unwrap();
    }
}

/// Lifts every throttle of a group, waits for its members to be gone and removes it.
pub(crate) fn lift_and_remove(group: &Path) {
    for file in [WRITE_BPS, READ_BPS].map(|file| group.join(file)) {
        let limits = fs::read_to_string(&file).unwrap_or_default();
        for number in limits.lines().filter_map(|line| line.split(' ').next()) {
            let _ = fs::write(&file, format!("{number} 0"));
        }
    }
    // Members that live on go back to the root group, which has no limits: these threads alone, as others of our process may
    // be in other tests' groups.
    for thread in fs::read_to_string(group.join("tasks")).unwrap_or_default().lines() {
        let _ = fs::write(Path::new(ROOT).join("tasks"), thread);
    }
    wait::until(|| fs::remove_dir(group).is_ok() || !group.exists());
}
