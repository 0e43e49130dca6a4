//! One file of a machine: its faults, and blocking access to it.

use std::fmt;
use std::io;
use std::ops::Range;
use std::time::Duration;

use iomgr_core::{FileHandle, Limits, SectorCount, SimFile, Storage};
use rustix::io::Errno;

use super::SimHandle;
use super::fault::{Fault, OpKinds};
use super::file::File;
use super::trace::SimCall;

/// A file of a simulated machine. Clones are the same file.
#[derive(Clone)]
pub struct SimDisk {
    machine: SimHandle,
    file: SimFile,
}

impl SimDisk {
    pub(crate) fn new(machine: SimHandle, file: SimFile) -> Self {
        Self { machine, file }
    }

    /// For queues of [`EngineKind::Sim`](crate::EngineKind::Sim).
    pub fn handle(&self) -> FileHandle {
        FileHandle::Simulated(self.file)
    }

    /// What a device that is this file, as large as it is now, can take.
    pub fn limits(&self) -> Limits {
        Limits {
            size: SectorCount::from_bytes_floor(self.with(|file| file.len())),
            logical_block_bytes: 512,
            physical_block_bytes: 4096,
            optimal_io_bytes: 0,
            discard_granularity_bytes: 4096,
            read_only: false,
            volatile_cache: true,
            needs_bytes: false,
            rotational: false,
        }
    }

    /// The machine it belongs to.
    pub fn machine(&self) -> &SimHandle {
        &self.machine
    }

    /// Sets a fault, besides those that are set. It hits ops that are issued from now on, and errors hit blocking calls.
    pub fn inject(&self, fault: Fault) {
        self.with(|file| file.faults.push(fault));
    }

    /// Takes all faults back that were [injected](Self::inject). What was held is still to be [released](Self::release).
    pub fn heal(&self) {
        self.with(|file| file.faults.clear());
    }

    /// Lets every flush fail from now on (`EIO`), or no more.
    pub fn fail_flushes(&self, fail: bool) {
        self.with(|file| file.fail_flushes = fail);
    }

    /// Lets writes that would make the file longer than this come short or fail (`ENOSPC`).
    pub fn limit_len(&self, limit: Option<u64>) {
        self.with(|file| file.limit = limit);
    }

    /// Lets reads and writes that touch these bytes fail (`EIO`) when they are done; an empty range for none.
    pub fn fail_range(&self, bytes: Range<u64>) {
        self.with(|file| file.bad = bytes);
    }

    /// Lets holes and zeroed ranges be refused (`EOPNOTSUPP`), as by a file system without them.
    pub fn refuse_holes(&self, refuse: bool) {
        self.with(|file| file.no_holes = refuse);
    }

    /// Nothing that queues have issued on this file completes until it is [released](Self::release).
    pub fn stall(&self) {
        self.machine.world().stall(Some(self.file), None);
    }

    /// Likewise, for so long.
    pub fn stall_for(&self, time: Duration) {
        self.machine.world().stall(Some(self.file), Some(time));
    }

    /// Ends a stall, and lets ops go on that a fault held.
    pub fn release(&self) {
        self.machine.world().release(Some(self.file));
    }

    /// Ops that queues have issued on this file and that have not completed.
    pub fn in_flight(&self) -> usize {
        self.machine.world().in_flight(self.file)
    }

    /// Changes that a power cut may still undo.
    pub fn volatile_changes(&self) -> usize {
        self.with(|file| file.volatile_changes())
    }

    fn with<T>(&self, act: impl FnOnce(&mut File) -> T) -> T {
        act(self.machine.world().file(self.file))
    }

    /// Does something with the file, if the power is on. Counts as a step.
    fn step<T>(&self, call: SimCall, act: impl FnOnce(&mut File) -> Result<T, Errno>) -> io::Result<T> {
        let mut world = self.machine.world();
        if world.is_off() {
            return Err(Errno::IO.into());
        }
        let done = match world.blocking_failure(self.file, call) {
            Some(errno) => Err(errno),
            None => act(world.file(self.file)),
        };
        world.blocking_done(self.file, call, done.as_ref().map(drop).map_err(|errno| *errno));
        Ok(done?)
    }
}

impl SimCall {
    /// What faults go by; `None` for what has none.
    pub(crate) fn touches(self) -> Option<(OpKinds, Range<u64>)> {
        match self {
            Self::Read(offset, len) => Some((OpKinds::READ, offset..offset.saturating_add(len))),
            Self::Write(offset, len, _) => Some((OpKinds::WRITE, offset..offset.saturating_add(len))),
            Self::Zero(offset, len) => Some((OpKinds::ZERO, offset..offset.saturating_add(len))),
            Self::Flush => Some((OpKinds::FLUSH, 0..0)),
            Self::SetLen(_) | Self::Timer(_) | Self::Other => None,
        }
    }
}

impl Storage for SimDisk {
    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.with(|file| file.len()))
    }

    fn is_block_device(&self) -> bool {
        self.with(|file| file.is_block_device)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let read = self.step(SimCall::Read(offset, buf.len() as u64), |file| file.read(offset, buf))?;
        if read < buf.len() {
            Err(io::ErrorKind::UnexpectedEof.into())
        } else {
            Ok(())
        }
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let call = SimCall::Write(offset, buf.len() as u64, false);
        let written = self.step(call, |file| file.write(offset, buf, false))?;
        if written < buf.len() {
            Err(Errno::NOSPC.into())
        } else {
            Ok(())
        }
    }

    fn zero_range(&self, offset: u64, len: u64) -> io::Result<()> {
        self.step(SimCall::Zero(offset, len), |file| {
            file.zero(offset, len);
            Ok(())
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.step(SimCall::Flush, |file| {
            let covered = file.position();
            file.flush(covered, file.fail_flushes, &mut fastrand::Rng::with_seed(covered))
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if self.is_block_device() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        self.step(SimCall::SetLen(len), |file| file.set_len(len))
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SimDisk").field(&self.file.0).finish()
    }
}
