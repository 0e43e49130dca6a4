//! Taking ops from devices, and taking them back: the queue as an [`OpQueue`].

use iomgr_core::{Action, Data, Errno, FileHandle, FileSlot, Full, Lease, Op, OpError, OpQueue, Token};

use crate::Queue;
use crate::buf::{Access, AlignedBuf, Held};
use crate::engine::Engine;
use crate::files::FileIndex;
use crate::inflight::Work;

/// An op that ends before it begins: what it comes to.
type AtOnce = Result<u32, OpError>;

impl OpQueue for Queue {
    fn add_file(&mut self, file: &FileHandle) -> Result<FileSlot, Errno> {
        let simulated = matches!(file, FileHandle::Simulated(_));
        if simulated != self.engine.is_simulated() {
            return Err(Errno::NFILE);
        }
        let index = self.files.add(file).ok_or(Errno::NFILE)?;
        self.engine.register_file(&mut self.files, index);
        let slot = self.files.slot(index);
        self.tell_of_file(slot, file);
        Ok(slot)
    }

    fn remove_file(&mut self, slot: FileSlot) {
        if let Some(index) = self.files.close(slot) {
            self.forget(index);
        }
    }

    fn push(&mut self, op: Op) -> Result<(), Full> {
        if self.load.disk >= self.bounds.max_ops {
            self.counters.handed_back += 1;
            return Err(Full(op));
        }
        self.counters.pushed += 1;
        self.load.disk += 1;
        match self.admit(op) {
            Ok((work, file, held)) => {
                let waiting = self.load.disk_merged as usize + self.disk.len();
                self.counters.deferrals += u64::from(waiting >= self.bounds.size as usize);
                let key = self.ops.insert(op.token, work, Some(file), held);
                if self.filters.is_none() || self.drivers.zeros() == Some(op.file) {
                    self.disk.push_back(key);
                } else {
                    self.enter_filters(key, op);
                }
            }
            Err(result) => self.complete(op.token, result, true),
        }
        Ok(())
    }

    fn cancel(&mut self, token: Token) -> usize {
        Self::cancel(self, token).never_started
    }

    fn alloc(&mut self, len: u32) -> Option<Lease> {
        self.arena.alloc(len)
    }

    fn free(&mut self, lease: Lease) {
        self.arena.free(lease);
    }

    fn bytes(&self, data: Data) -> Option<&[u8]> {
        self.arena.bytes(data)
    }

    fn fill_zeros(&mut self, data: Data) -> bool {
        self.arena.fill_zeros(data)
    }

    fn zeros(&self) -> Option<FileSlot> {
        self.drivers.zeros()
    }

    fn bytes_mut(&mut self, data: Data) -> Option<&mut [u8]> {
        self.arena.bytes_mut(data)
    }
}

impl Queue {
    /// Leases `len` bytes of those that are kept for large leases ([`Config::large_bytes`](crate::Config::large_bytes)). It goes
    /// back as any lease does.
    pub fn alloc_large(&mut self, len: u32) -> Option<Lease> {
        self.arena.alloc_large(len)
    }

    /// Takes in a buffer, and leases all of it, or hands it back where there is no room for it ([`Config::lent`](crate::Config::lent)).
    /// Such a lease works like any other; [`take_back`](Self::take_back) ends it, or [`free`](OpQueue::free), which drops the buffer as
    /// soon as no op holds it.
    pub fn lend(&mut self, buf: AlignedBuf) -> Result<Lease, AlignedBuf> {
        self.arena.lend(buf)
    }

    /// Gives a buffer back that was [lent](Self::lend), or its lease while an op holds it.
    pub fn take_back(&mut self, lease: Lease) -> Result<AlignedBuf, Lease> {
        self.arena.take_back(lease)
    }

    /// Registers the first `len` bytes of a lease with the ring, for as many leases as [`Config::registered_leases`](crate::Config)
    /// says: for ops on them no page is looked up. It touches these bytes, and locks them into memory until the queue ends. Where
    /// it cannot be had, nothing else changes; nor for memory that was lent, which does not stay.
    pub fn register(&mut self, lease: &Lease, len: u32) {
        let run = self.arena.front(lease, len);
        if let (Some(run), Engine::Ring(ring)) = (run, &mut self.engine)
            && let Some(place) = ring.register_run(run, &self.arena)
        {
            self.arena.note_registered(lease, place, run.len());
        }
    }

    /// Checks an op and takes hold of what it needs; else how it ends.
    fn admit(&mut self, op: Op) -> Result<(Work, FileIndex, Option<Held>), AtOnce> {
        let file = self.files.take(op.file).ok_or(Err(OpError::Os(Errno::BADF)))?;
        let admitted = self.work(op.action);
        if admitted.is_err() {
            self.file_done(file);
        }
        admitted.map(|(work, held)| (work, file, held))
    }

    fn work(&mut self, action: Action) -> Result<(Work, Option<Held>), AtOnce> {
        let nothing = Err(Ok(0));
        let nowhere = Err(OpError::Os(Errno::INVAL));
        match action {
            Action::Read { data, .. } | Action::Write { data, .. } if data.len == 0 => nothing,
            Action::Discard { len: 0, .. } | Action::WriteZeroes { len: 0, .. } | Action::Prefetch { len: 0, .. } => {
                nothing
            }
            // The kernel's offsets are signed, and -1 is its word for the descriptor's own position.
            Action::Read { offset, .. } | Action::Write { offset, .. } if offset > i64::MAX as u64 => {
                Err(Err(OpError::Os(Errno::INVAL)))
            }
            Action::Read { offset, data } => {
                let (run, held) = self.hold(data, Access::Fills).ok_or(nowhere)?;
                Ok((Work::Read { offset, run }, held))
            }
            Action::Write { offset, data, durable } => {
                let (run, held) = self.hold(data, Access::Reads).ok_or(nowhere)?;
                Ok((Work::Write { offset, run, durable }, held))
            }
            Action::Flush => Ok((Work::Flush, None)),
            Action::Discard { offset, len } => Ok((Work::Discard { offset, len }, None)),
            Action::WriteZeroes {
                offset,
                len,
                unmap,
                fast,
            } => {
                let work = Work::Zero {
                    offset,
                    len,
                    unmap,
                    fast,
                };
                Ok((work, None))
            }
            Action::Prefetch { offset, len } => Ok((Work::Prefetch { offset, len }, None)),
        }
    }
}
