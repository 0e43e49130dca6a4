//! Counts of what passed the hooks, without a read-modify-write per request.
//!
//! Each intake is the only writer of its own counters; readers sum over all of them. A sum is exact whenever the threads
//! that count are quiet, and never counts a free before its alloc.

use std::iter::Sum;
use std::ops::Add;
use std::sync::atomic::{AtomicU64, Ordering};

/// What passed the hooks so far, of one device or of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests that were allowed.
    pub grants: u64,
    /// Times that a manager said no, to a request or to a device queue.
    pub ngs: u64,
    /// Grants given back for want of resources.
    pub aborts: u64,
    /// Requests that started.
    pub allocs: u64,
    /// Requests that ended.
    pub frees: u64,
}

impl Counters {
    /// Requests that started and have not ended.
    pub fn pending(&self) -> u64 {
        self.allocs.saturating_sub(self.frees)
    }
}

impl Add for Counters {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            grants: self.grants + other.grants,
            ngs: self.ngs + other.ngs,
            aborts: self.aborts + other.aborts,
            allocs: self.allocs + other.allocs,
            frees: self.frees + other.frees,
        }
    }
}

impl Sum for Counters {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::default(), Add::add)
    }
}

/// One intake's counters. Only the intake's thread may count. On cache lines of their own.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct QueueCounters {
    pub(super) grants: Count,
    pub(super) ngs: Count,
    pub(super) aborts: Count,
    pub(super) allocs: Count,
    pub(super) frees: Count,
}

impl QueueCounters {
    /// Reads what was counted. `frees` first: a free seen here implies that its alloc is seen too.
    pub(super) fn snapshot(&self) -> Counters {
        let frees = self.frees.read();
        Counters {
            frees,
            allocs: self.allocs.read(),
            aborts: self.aborts.read(),
            ngs: self.ngs.read(),
            grants: self.grants.read(),
        }
    }
}

/// A number that one thread counts up and others read.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    /// Counts one more; for the single writer. Release, so that who sees this count sees every earlier one.
    #[inline]
    pub(super) fn bump(&self) {
        self.0.store(self.0.load(Ordering::Relaxed) + 1, Ordering::Release);
    }

    fn read(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}
