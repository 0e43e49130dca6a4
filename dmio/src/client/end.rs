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
        while let Err(error) = self.refuse_inside().and_then(|()| self.check_quiet()) {
            let is_late = deadline.is_some_and(|deadline| deadline <= self.queue.now());
            let polled = if is_late {
                Err(error)
            } else {
                self.poll_until(deadline).map(drop)
            };
            if let Err(error) = polled {
                remote.watch(false);
                let client = Box::new(self);
                return Err(NotDestroyed { error, client });
            }
        }
        self.close();
        Ok(())
    }

    fn check_quiet(&mut self) -> Result<(), Error> {
        let Occupancy { requests, orphans, .. } = self.occupancy();
        if requests == 0 && self.runner().is_idle() {
            return Ok(());
        }
        let what =
            format!("{requests} requests are under way or have handles, and devices owe answers for {orphans} regions");
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
        // Who has a handle sees the end. What devices have, they keep: the queue waits for it a short time, and leaks it then.
        for number in 0.. {
            let device = DeviceIndex(number);
            if self.runner().place(device).is_none() || shared.cancel_device(device, true).is_err() {
                break;
            }
        }
        self.close();
    }
}
