//! How a client ends.

use std::fmt;

use iomgr_core::Timestamp;

use super::Client;
use crate::{DeviceIndex, Error, ErrorKind, Occupancy};

/// The client is still in use: here it is back.
pub struct NotDestroyed {
    /// Why.
    pub error: Error,
    /// The client, as it was.
    pub client: Box<Client>,
}

impl fmt::Debug for NotDestroyed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl Client {
    /// Ends the client, if nothing is under way, nobody has a handle, and no device owes an answer.
    pub fn destroy(mut self) -> Result<(), NotDestroyed> {
        match self.check_quiet() {
            Ok(()) => {
                self.close();
                Ok(())
            }
            Err(error) => Err(NotDestroyed {
                error,
                client: Box::new(self),
            }),
        }
    }

    /// Likewise, as soon as that is so, or not at all by the deadline.
    pub fn destroy_wait(mut self, deadline: Option<Timestamp>) -> Result<(), NotDestroyed> {
        let remote = self.remote();
        remote.watch(true);
        let waited = self.refuse_inside().and_then(|()| self.wait_until_quiet(deadline));
        if let Err(error) = waited {
            remote.watch(false);
            let client = Box::new(self);
            return Err(NotDestroyed { error, client });
        }
        self.close();
        Ok(())
    }

    /// What devices do on their own ends without anything to tell: so this looks after every pass.
    fn wait_until_quiet(&mut self, deadline: Option<Timestamp>) -> Result<(), Error> {
        loop {
            self.pass();
            let Err(error) = self.check_quiet() else { return Ok(()) };
            if deadline.is_some_and(|deadline| deadline <= self.queue.now()) {
                return Err(error);
            }
            self.sleep(deadline)?;
        }
    }

    fn check_quiet(&mut self) -> Result<(), Error> {
        let Occupancy { requests, orphans, .. } = self.occupancy();
        let what = match (requests, orphans) {
            (0, 0) if self.runner().is_idle() => return Ok(()),
            (0, 0) => "devices have work of their own to end".to_owned(),
            _ => format!(
                "{requests} requests are under way or have handles, and devices owe answers for {orphans} regions"
            ),
        };
        Err(Error::new(ErrorKind::Busy, what))
    }

    fn close(&mut self) {
        if let Some(runner) = self.runner.take() {
            runner.close(&mut self.queue);
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let Some(runner) = &self.runner else { return };
        let shared = std::sync::Arc::clone(runner.shared());
        // Who has a handle sees the end, but of what a device does on memory that it cannot be parted from. What devices have, they
        // keep: the queue waits for it a short time, and leaks it then.
        for number in 0.. {
            let device = DeviceIndex(number);
            if self.runner().place(device).is_none() || shared.cancel_device(device, true).is_err() {
                break;
            }
        }
        self.close();
    }
}
