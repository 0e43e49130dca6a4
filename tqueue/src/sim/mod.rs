//! The simulated disk: files that lie in memory, forget what was not flushed, and do so the same way for the same seed.
//!
//! ```text
//!  SimHandle ── the machine: clock, random numbers, power ──┐
//!     │ create                                              │ EngineKind::Sim
//!     ▼                                                     ▼
//!  SimDisk ── one file: live content, log, durable content ◄── Queue
//!     └─ Storage (blocking, live)
//! ```
//!
//! # Contract
//! - Ops take a random virtual time and so complete in random order. Transfers may come short, ops may be interrupted.
//! - A write is in the live content when it has completed. It becomes durable with the next flush that was issued after its
//!   completion; a durable write at its own completion, together with the size that is needed to read it.
//! - [`SimHandle::cut_power`]: of every write that is not durable, each sector of 512 bytes is kept or lost by itself. Changes
//!   of size are kept up to some point in their order; where the size was kept and the bytes were lost, zeros are read.
//! - [`SimHandle::kill`]: the process dies and the machine goes on. Ops that were issued happen, happen in part, or do not.
//! - A flush that fails makes nothing durable, and no later flush will: Linux marks the pages clean.
//! - Time stands still except in a queue's wait.
//!
//! The same page with figures and examples for test authors: `docs/simulator.md`.

#![allow(
    clippy::cast_possible_truncation,
    reason = "content lies in memory, so its offsets fit a usize wherever they are used as one"
)]

mod engine;
mod file;
mod sparse;
mod world;

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use iomgr_core::{FileHandle, SimFile, Storage, Timestamp};
use rustix::io::Errno;

pub(crate) use engine::SimEngine;
use world::World;

/// How a simulated machine behaves.
#[derive(Clone, Debug)]
pub struct SimConfig {
    /// Everything random comes from here.
    pub seed: u64,
    /// How long an op takes.
    pub latency: Range<Duration>,
    /// One op in this many takes a hundred times as long; 0 for none.
    pub stall_every: u32,
    /// One transfer in this many comes short; 0 for none.
    pub short_every: u32,
    /// One op in this many is interrupted (`EINTR`) before it did anything; 0 for none.
    pub interrupt_every: u32,
}

impl SimConfig {
    /// A machine with all its moods.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            latency: Duration::from_micros(20)..Duration::from_millis(2),
            stall_every: 100,
            short_every: 20,
            interrupt_every: 100,
        }
    }
}

/// A simulated machine. Clones are the same machine.
#[derive(Clone)]
pub struct SimHandle(Arc<Mutex<World>>);

/// A file of a simulated machine. Clones are the same file.
#[derive(Clone)]
pub struct SimDisk {
    machine: SimHandle,
    file: SimFile,
}

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
        SimDisk {
            machine: self.clone(),
            file,
        }
    }

    /// The virtual time.
    pub fn now(&self) -> Timestamp {
        self.world().now()
    }

    /// Ops that have completed so far, by queues and by blocking calls.
    pub fn steps(&self) -> u64 {
        self.world().steps()
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
    /// made before end everything as `EIO`.
    pub fn cut_power(&self, seed: u64) {
        self.world().cut_power(seed);
    }

    /// Kills the process: what was issued happens, happens in part, or does not. Queues made before end everything as `EIO`.
    pub fn kill(&self, seed: u64) {
        self.world().kill(seed);
    }

    fn world(&self) -> MutexGuard<'_, World> {
        // A panic elsewhere is that test's failure; the content is whole between calls.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SimDisk {
    /// For queues of [`EngineKind::Sim`](crate::EngineKind::Sim).
    pub fn handle(&self) -> FileHandle {
        FileHandle::Simulated(self.file)
    }

    /// The machine it belongs to.
    pub fn machine(&self) -> &SimHandle {
        &self.machine
    }

    /// Lets every flush fail from now on (`EIO`), or no more.
    pub fn fail_flushes(&self, fail: bool) {
        self.machine.world().file(self.file).fail_flushes = fail;
    }

    /// Lets writes that would make the file longer than this come short or fail (`ENOSPC`).
    pub fn limit_len(&self, limit: Option<u64>) {
        self.machine.world().file(self.file).limit = limit;
    }

    /// Lets reads and writes that touch these bytes fail (`EIO`); an empty range for none.
    pub fn fail_range(&self, bytes: Range<u64>) {
        self.machine.world().file(self.file).bad = bytes;
    }

    /// Lets holes and zeroed ranges be refused (`EOPNOTSUPP`), as by a file system without them.
    pub fn refuse_holes(&self, refuse: bool) {
        self.machine.world().file(self.file).no_holes = refuse;
    }

    /// Changes that a power cut may still undo.
    pub fn volatile_changes(&self) -> usize {
        self.machine.world().file(self.file).volatile_changes()
    }

    /// Does something with the file, if the power is on. Counts as a step.
    fn step<T>(&self, act: impl FnOnce(&mut file::File) -> Result<T, Errno>) -> io::Result<T> {
        let mut world = self.machine.world();
        if world.is_off() {
            return Err(Errno::IO.into());
        }
        let done = act(world.file(self.file));
        world.count_step();
        Ok(done?)
    }
}

impl Storage for SimDisk {
    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.machine.world().file(self.file).len())
    }

    fn is_block_device(&self) -> bool {
        self.machine.world().file(self.file).is_block_device
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let read = self.step(|file| file.read(offset, buf))?;
        if read < buf.len() {
            Err(io::ErrorKind::UnexpectedEof.into())
        } else {
            Ok(())
        }
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let written = self.step(|file| file.write(offset, buf, false))?;
        if written < buf.len() {
            Err(Errno::NOSPC.into())
        } else {
            Ok(())
        }
    }

    fn zero_range(&self, offset: u64, len: u64) -> io::Result<()> {
        self.step(|file| {
            file.zero(offset, len);
            Ok(())
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.step(|file| {
            let covered = file.position();
            file.flush(covered, &mut fastrand::Rng::with_seed(covered))
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if self.is_block_device() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        self.step(|file| file.set_len(len))
    }
}

impl fmt::Debug for SimHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimHandle")
            .field("now", &self.now())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SimDisk").field(&self.file.0).finish()
    }
}

#[cfg(test)]
mod tests;
