//! A stop that leaves alone what somebody uses, asked for by another thread than the server's owner.
//!
//! `TRY_STOP_DEV` waits for what is in flight, which may take as long as a policy or the storage likes. So it has a control device
//! of its own, and the owner can look at the server meanwhile, and end it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Server;
use crate::driver::Driver;
use crate::kernel::KernelDriver;
use crate::{Control, Error, ErrorKind};

/// Stops a server's device, from any thread.
#[derive(Clone, Debug)]
pub struct CarefulStop {
    id: u32,
    /// The server's: has it been stopped by this, so that it is the server's to delete?
    is_asked: Arc<AtomicBool>,
}

impl Server {
    /// The way to stop its device only if nobody uses it.
    pub fn careful_stop(&self) -> CarefulStop {
        CarefulStop {
            id: self.info.id,
            is_asked: Arc::clone(&self.is_asked),
        }
    }
}

impl CarefulStop {
    /// Makes the block device go away, unless anybody has it open, and ends what is in flight: then [`stop`](Server::stop) and
    /// [`delete`](Server::delete) the server. One at a time. It is fine if the device was stopped already.
    ///
    /// # Errors
    /// `Busy`, and the device is served as before. `Unsupported` before Linux 7.0, likewise.
    pub fn stop_unless_open(&self) -> Result<(), Error> {
        self.stop_on(&KernelDriver)
    }

    pub(crate) fn stop_on(&self, driver: &dyn Driver) -> Result<(), Error> {
        // Before the threads end.
        self.is_asked.store(true, Ordering::Release);
        let stopped = Control::on(driver).and_then(|mut control| control.stop_unless_open(self.id));
        if stopped.is_err() {
            self.is_asked.store(false, Ordering::Release);
        }
        match stopped {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            stopped => stopped,
        }
    }
}
