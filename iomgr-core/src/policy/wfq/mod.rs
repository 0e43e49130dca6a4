//! `wfq`: devices that have more to do than there is share it in proportion to their weights.
//!
//! Deficit round robin without a queue of its own: a manager sees no backlog, only who asks. A device *has a backlog* from
//! a "no" on until a request of the same class is granted. In a round each device with a backlog may spend its quantum,
//! which is in proportion to its weight; one request more than that is let go and owed in the next round, so that the
//! heads' costs need not be known. When no device with a backlog has anything left, whoever asks next begins a new round.
//!
//! ```text
//!  ask ─► fewer than `depth` in flight? ─no─► wait for a free
//!           │ yes
//!           ▼
//!         something left of my quantum? ─yes─► go
//!           │ no
//!           ▼
//!         has a device that was woken by a free, and is yet to ask, something left? ─yes─► wait for a free, or a grace
//!           │ no
//!           ▼
//!         is there one with something left that sleeps, since nothing was freed? ─yes─► go, and owe it; but after `depth`
//!           │ no                                                               such requests wait until it looks
//!           ▼
//!         a new round
//! ```
//!
//! # Parameters
//! - `weights`, `default-weight`: 1 to 10 000, by device name.
//! - `cost-base` and `cost-per-kib`: what a request costs, and each KiB that it moves besides. Discards and write-zeroes move
//!   nothing.
//! - `depth`: requests in flight on all devices together, from 1. A quantum is what the heaviest device needs to fill it with
//!   requests of 4 KiB. Weights act only where every device has more to do than this.
//!
//! # Contract
//! - In any time in which two devices have a backlog, what they got is in the proportion of their weights, but for two quanta
//!   and `depth` + 1 requests of each.
//! - Reads and writes in flight never exceed `depth`. Flushes always go, for nothing may hold them behind data; they cost
//!   the base, but between two other requests of a device no more than four quanta, or 16 of them.
//! - Work-conserving: as long as fewer than `depth` are in flight, a request waits only for one that was woken to go first, and
//!   only for a millisecond; or, if it is `depth` requests ahead, for one that looks by itself, which it does within 12 ms. A
//!   device that went away with requests waiting holds the others up once, for that long.
//! - A device that was idle comes back with what it owes, and with nothing saved up. One that had a backlog, but was not heard
//!   of while others went on (its thread got no time, say), comes back with four quanta at most.
//! - "No, until a free" is only said when `depth` requests are in flight, so a free will come.
//! - New parameters count from the next request on, those that wait included.
//!
//! # Cancellation
//! What is given back is refunded, at the prices of that moment.
//!
//! # References
//! M. Shreedhar, G. Varghese: Efficient Fair Queueing using Deficit Round Robin, 1995 (the debt instead of a look at the head is
//! known as surplus round robin). dm-ioband's weight policy (R. Tsuruta, H. Yoshikawa) has its tokens and its lesson about depth.

mod config;
mod rounds;
#[cfg(test)]
mod tests;

use std::sync::{Mutex, MutexGuard, PoisonError};

use self::rounds::Rounds;
use super::{Policy, PolicyConfig, PolicyName};
use crate::Timestamp;
use crate::manager::{DeviceInfo, Head, Manager, Refusal, Verdict};

pub use config::WfqConfig;

/// See the [module's page](self).
#[derive(Debug)]
pub(super) struct Wfq(Mutex<Rounds>);

impl Wfq {
    pub(super) fn new(config: WfqConfig) -> Self {
        Self(Mutex::new(Rounds::new(config)))
    }

    /// No hook leaves the rounds half changed, so poison means nothing.
    fn lock(&self) -> MutexGuard<'_, Rounds> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Policy for Wfq {
    fn config(&self) -> PolicyConfig {
        PolicyConfig::Wfq(self.lock().config().clone())
    }

    fn reconfigure(&self, config: &PolicyConfig) -> bool {
        match config {
            PolicyConfig::Wfq(config) => self.lock().reconfigure(config.clone()),
            _ => return false,
        }
        true
    }
}

impl Manager for Wfq {
    fn name(&self) -> &str {
        PolicyName::Wfq.as_str()
    }

    fn dev_start(&self, device: &DeviceInfo) -> Result<(), Refusal> {
        self.lock().start(device.id(), device.name());
        Ok(())
    }

    fn allow_request(&self, device: &DeviceInfo, head: &Head, now: Timestamp) -> Verdict {
        self.lock().ask(device.id(), head, now)
    }

    fn oo_abort_request(&self, device: &DeviceInfo, head: &Head, _: Timestamp) {
        self.lock().give_back(device.id(), head);
    }

    fn free_request(&self, device: &DeviceInfo, head: &Head, _: Timestamp) {
        self.lock().free(device.id(), head);
    }

    fn dev_stop(&self, device: &DeviceInfo) {
        self.lock().stop(device.id());
    }
}
