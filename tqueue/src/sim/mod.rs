//! The simulated disk: files that lie in memory, forget what was not flushed, and do so the same way for the same seed.
//!
//! ```text
//!  SimHandle ── the machine: clock, random numbers, power ──┐
//!     │ create                                              │ EngineKind::Sim
//!     ▼                                                     ▼
//!  SimDisk ── one file: live content, log, durable content ◄── Queue
//!     ├─ Storage (blocking, live)
//!     └─ Fault: errors, delays, late completions, ops that hang
//! ```
//!
//! # Contract
//! - Ops take a random virtual time and so complete in random order. Transfers may come short, ops may be interrupted.
//! - A write is in the live content when it has completed. It becomes durable with the next flush that was issued after its
//!   completion; a durable write at its own completion, together with the size that is needed to read it.
//! - [`SimHandle::cut_power`]: of every write that is not durable, each sector of 512 bytes is kept or lost by itself. Changes
//!   of size are kept up to some point in their order; where the size was kept and the bytes were lost, zeros are read.
//! - [`SimHandle::kill`]: the process dies and the machine goes on. Ops that were issued happen, happen in part, or do not.
//! - A flush that fails makes nothing durable for certain, and no later flush will: Linux marks the pages clean.
//! - A write takes its bytes from memory when it is issued; one in [`take_late_every`](SimConfig::take_late_every) when it is done.
//! - An op that was issued cannot be cancelled, as on io_uring: it goes on to its own end, even if that is never.
//! - Time stands still except in a queue's wait.
//! - One seed is one run. What is switched off draws no random number.
//!
//! The same page with figures and examples for test authors: `docs/simulator.md`.

#![allow(
    clippy::cast_possible_truncation,
    reason = "content lies in memory, so its offsets fit a usize wherever they are used as one"
)]

mod config;
mod disk;
mod engine;
mod fault;
mod file;
mod op;
mod report;
mod sparse;
mod trace;
mod world;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use iomgr_core::Timestamp;

pub use config::SimConfig;
pub use disk::SimDisk;
pub(crate) use engine::SimEngine;
pub use fault::{Fault, OpKinds};
pub use report::PanicReport;
pub use trace::{Event, Happened, SimCall, Trace};
use world::World;

/// When machines are switched on.
const START: Timestamp = Timestamp::from_nanos(1_000_000_000);

/// A simulated machine. Clones are the same machine.
#[derive(Clone)]
pub struct SimHandle(Arc<Mutex<World>>);

impl SimHandle {
    /// Switches a machine on.
    pub fn new(config: SimConfig) -> Self {
        Self(Arc::new(Mutex::new(World::new(config))))
    }

    /// An empty file.
    pub fn create_file(&self) -> SimDisk {
        self.create(0, false)
    }

    /// A block device of zeros; its size never changes.
    pub fn create_block_device(&self, len: u64) -> SimDisk {
        self.create(len, true)
    }

    fn create(&self, len: u64, is_block_device: bool) -> SimDisk {
        let file = self.world().create(len, is_block_device);
        SimDisk::new(self.clone(), file)
    }

    /// The virtual time.
    pub fn now(&self) -> Timestamp {
        self.world().now()
    }

    /// Ops that have completed so far, by queues and by blocking calls.
    pub fn steps(&self) -> u64 {
        self.world().steps()
    }

    /// The most disk ops that one queue ever had in flight, merged ones as one.
    pub fn most_in_flight(&self) -> u32 {
        self.world().most_in_flight()
    }

    /// Lets the power fail when `steps` more ops have completed: from then on everything ends as `EIO` and changes nothing.
    /// Call [`cut_power`](Self::cut_power) then.
    pub fn fail_after(&self, steps: u64) {
        self.world().fail_after(steps);
    }

    /// Has the power failed?
    pub fn is_off(&self) -> bool {
        self.world().is_off()
    }

    /// Cuts the power and switches the machine on again: all files hold what a disk may hold then, chosen by `seed`. Queues
    /// made before end everything as `EIO`. Stalls are over; faults stay set.
    pub fn cut_power(&self, seed: u64) {
        self.world().cut_power(seed);
    }

    /// Kills the process: what was issued happens, happens in part, or does not. Queues made before end everything as `EIO`.
    pub fn kill(&self, seed: u64) {
        self.world().kill(seed);
    }

    /// No disk op completes until it is [released](Self::release). Timers go on.
    pub fn stall(&self) {
        self.world().stall(None, None);
    }

    /// Likewise, for so long.
    pub fn stall_for(&self, time: Duration) {
        self.world().stall(None, Some(time));
    }

    /// Ends all stalls, those of single files included, and lets ops go on that a fault held.
    pub fn release(&self) {
        self.world().release(None);
    }

    /// Lets submissions find no room in the ring from now on, or no more. The queue keeps what was refused and tries again.
    pub fn refuse_submissions(&self, refuse: bool) {
        self.world().refuse_submissions(refuse);
    }

    /// Keeps the last `most` events from now on, for [`trace`](Self::trace).
    pub fn record(&self, most: usize) {
        self.world().recorder().start(most);
    }

    /// What happened since [`record`](Self::record).
    pub fn trace(&self) -> Trace {
        self.world().recorder().trace()
    }

    fn world(&self) -> MutexGuard<'_, World> {
        // A panic elsewhere is that test's failure; the content is whole between calls.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for SimHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimHandle")
            .field("now", &self.now())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod golden;
#[cfg(test)]
mod tests;
