//! Buffers of a driver's: the pages of requests, which a driver registers with the ring when it delivers them and takes away
//! when they are committed (ublk's zero copy).
//!
//! ```text
//!  Data { Registered(index), offset, len } ─► Run of buffer `index` ─► READ_FIXED, WRITE_FIXED, address = offset
//! ```
//!
//! Nobody here ever sees their bytes. What has to be zeros is read from a file that has nothing else: `/dev/zero`, whose reads
//! fill registered buffers of any kind within the very enter that submits them.
//!
//! # Contract
//! - The driver keeps the pages until the kernel has let go of them, whatever becomes of the index. So there is nothing to hold.
//! - An index that names no buffer now ends the op with `EFAULT`: the kernel finds it out.
//! - An entry names one such buffer: ops on them are never merged.
//! - Engines other than io_uring have none. (Tests of frontends play the driver, with memory of the arena.)

use std::fs::File;

use iomgr_core::{Data, DataHome, FileHandle, FileSlot, OpQueue};

use crate::buf::{Access, Held};
use crate::config::Config;
use crate::engine::Engine;
use crate::run::Run;
use crate::{Errno, Error, ErrorKind, Queue};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct DriverBuffers {
    count: u16,
    /// `/dev/zero`.
    zeros: Option<FileSlot>,
    /// What stands for them where the driver is played.
    #[cfg(feature = "test-utils")]
    played: Box<[Option<Data>]>,
}

impl DriverBuffers {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            count: config.driver_buffers,
            zeros: None,
            #[cfg(feature = "test-utils")]
            played: vec![None; config.driver_buffers.into()].into(),
        }
    }

    /// Where ops are to leave zeros alone; see [`OpQueue::zeros`].
    pub(crate) fn zeros(&self) -> Option<FileSlot> {
        self.zeros
    }

    fn index(&self, index: u32) -> Option<u16> {
        u16::try_from(index).ok().filter(|&index| index < self.count)
    }
}

impl Queue {
    /// Gets to know the file of zeros, if there is anything that it would be needed for.
    pub(crate) fn open_zeros(&mut self) -> Result<(), Error> {
        if self.drivers.count == 0 || self.engine.is_simulated() {
            return Ok(());
        }
        let fail = |errno| Error::new(ErrorKind::Os, "opening /dev/zero", errno);
        let file = File::open("/dev/zero").map_err(|error| fail(Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
        self.drivers.zeros = Some(self.add_file(&FileHandle::new(file)).map_err(fail)?);
        Ok(())
    }

    /// Checks `data` and takes hold of the memory behind it, if it is ours. `None`: it names none, neither of ours nor a driver's.
    pub(crate) fn hold(&mut self, data: Data, access: Access) -> Option<(Run, Option<Held>)> {
        let DataHome::Registered(index) = data.home else {
            return self.arena.hold(data, access);
        };
        let index = self.drivers.index(index)?;
        if let Engine::Ring(_) = self.engine {
            return Some((Run::new(data.offset.into(), data.len).of_driver(index), None));
        }
        let (run, held) = self.hold_played(index, data, access)?;
        Some((run.of_driver(index), held))
    }

    #[cfg(feature = "test-utils")]
    fn hold_played(&mut self, index: u16, data: Data, access: Access) -> Option<(Run, Option<Held>)> {
        let whole = self.drivers.played[usize::from(index)]?;
        let is_inside = data.offset.checked_add(data.len)? <= whole.len;
        is_inside
            .then(|| whole.slice(data.offset, data.len))
            .and_then(|data| self.arena.hold(data, access))
    }

    #[cfg(not(feature = "test-utils"))]
    #[expect(clippy::unused_self, reason = "tests have something here")]
    fn hold_played(&mut self, _: u16, _: Data, _: Access) -> Option<(Run, Option<Held>)> {
        None
    }

    /// Plays the driver, on engines other than io_uring: registers `memory` of the arena as its buffer `index`, or takes it away.
    #[cfg(feature = "test-utils")]
    pub fn play_driver_buffer(&mut self, index: u16, memory: Option<Data>) {
        self.drivers.played[usize::from(index)] = memory;
    }
}

#[cfg(test)]
#[cfg(feature = "test-utils")]
mod tests;
