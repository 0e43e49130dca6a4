//! Devices of users without privilege: their nodes are root's at first. A rule of udev's gives them to who made the device,
//! in its own time.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::Server;
use crate::driver::Driver;
use crate::{Error, ErrorKind, Features, block_path, char_path};

/// udev has so long to obey its rules.
const UDEV_MAX: Duration = Duration::from_secs(10);
/// Between two looks.
const LOOK_AFTER: Duration = Duration::from_millis(10);

impl Server {
    /// Waits until the character device is this user's: before, the driver takes no command about the device, not even the one that
    /// deletes it.
    pub(super) fn await_ownership(&self, driver: &dyn Driver) -> Result<(), Error> {
        self.await_node(
            driver,
            &char_path(self.info.id),
            "; the device is there, and only root can delete it",
        )
    }

    /// The same for the block device.
    pub(super) fn await_block_device(&self, driver: &dyn Driver) -> Result<(), Error> {
        self.await_node(driver, &block_path(self.info.id), "")
    }

    fn await_node(&self, driver: &dyn Driver, node: &Path, harm: &str) -> Result<(), Error> {
        let is_ours = || driver.may_use(node);
        if !self.info.features.contains(Features::UNPRIVILEGED_DEV) || is_soon(is_ours) {
            return Ok(());
        }
        let node = node.display();
        let what = format!("{node} does not become this user's, which takes a rule of udev's (docs/ublk.md){harm}");
        Err(Error::new(ErrorKind::Denied, what))
    }
}

fn is_soon(look: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + UDEV_MAX;
    while !look() {
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(LOOK_AFTER);
    }
    true
}
