//! Freed slots on their way to be used again.
//!
//! ```text
//!  BAT entry cleared ──► limbo ──(clear durable, every queue past the epoch)──► punched ──► free
//! ```

use iomgr_core::epoch::EpochDomain;

use super::flush::Flushes;

/// Tells when every queue has ended the I/O that it began under an old mapping.
///
/// [`EpochDomain`] is one; tests have their own.
pub trait Fence {
    /// Begins a new epoch, after a mapping was changed, and names it.
    fn advance(&mut self) -> u64;

    /// Has every queue ended all that it began before it could see `epoch`?
    fn drained(&self, epoch: u64) -> bool;
}

impl Fence for EpochDomain {
    fn advance(&mut self) -> u64 {
        Self::advance(self).into()
    }

    fn drained(&self, epoch: u64) -> bool {
        Self::drained(self, epoch.into())
    }
}

#[derive(Clone, Copy, Debug)]
struct Freed {
    entry: u32,
    /// The flush that makes the BAT clear durable.
    need: u64,
    epoch: u64,
}

/// From so many slots on a flush is made for them: 64 MiB of space to be given back with blocks of 2 MiB.
const LONG: usize = 32;

/// The freed slots that must not be touched yet, oldest first: need and epoch only grow.
#[derive(Debug)]
pub(super) struct Limbo {
    freed: std::collections::VecDeque<Freed>,
    capacity: usize,
}

impl Limbo {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            freed: std::collections::VecDeque::with_capacity(capacity),
            capacity,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.freed.is_empty()
    }

    /// Takes a slot in, or not, if there is no room: then it is lost until the image is opened again.
    pub(super) fn push(&mut self, entry: u32, need: u64, epoch: u64) {
        if self.freed.len() < self.capacity {
            self.freed.push_back(Freed { entry, need, epoch });
        }
    }

    /// A slot that nobody can reach any more, neither now nor after a power cut.
    pub(super) fn pop(&mut self, flushes: &Flushes, fence: &dyn Fence) -> Option<u32> {
        if !self.can_pop(flushes, fence) {
            return None;
        }
        self.freed.pop_front().map(|freed| freed.entry)
    }

    /// Is there such a slot?
    pub(super) fn can_pop(&self, flushes: &Flushes, fence: &dyn Fence) -> bool {
        self.freed
            .front()
            .is_some_and(|freed| flushes.is_durable(freed.need) && fence.drained(freed.epoch))
    }

    /// The flush that would let the oldest slot go, if a flush is all that it waits for.
    pub(super) fn waits_for_flush(&self, flushes: &Flushes, fence: &dyn Fence) -> Option<u64> {
        let freed = self.freed.front()?;
        (!flushes.is_durable(freed.need) && fence.drained(freed.epoch)).then_some(freed.need)
    }

    /// Are there so many that a flush is worth its while, to give their space back to the host?
    pub(super) fn is_long(&self) -> bool {
        self.freed.len() >= LONG
    }

    pub(super) fn clear(&mut self) {
        self.freed.clear();
    }
}
