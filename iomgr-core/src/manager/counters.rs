//! Counts of what passed the hooks, without a read-modify-write per request.
//!
//! Each page of counters has one writer, its intake; readers sum over all of them. A sum is exact whenever the threads
//! that count are quiet, and never counts a free before its alloc.

use std::ops::AddAssign;

use super::Wait;
use crate::count::Count;

/// What passed the hooks so far: of one device, of one generation, or of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests that were allowed.
    pub grants: u64,
    /// Those of them that were allowed in a later pass than the one in which they came; how long they waited is in
    /// [`WaitTimes`](super::WaitTimes).
    pub waits: u64,
    /// Times that a manager said no, to a request or to a device queue.
    pub ngs: Ngs,
    /// Grants given back for want of resources.
    pub aborts: u64,
    /// Requests that started.
    pub allocs: u64,
    /// Requests that ended.
    pub frees: u64,
}

/// Times that a manager said no, by what that holds and until when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ngs {
    /// A whole device queue, until an instant.
    pub device_until: u64,
    /// A whole device queue, until something is freed.
    pub device_freed: u64,
    /// One class of it, until an instant.
    pub class_until: u64,
    /// One class of it, until something is freed.
    pub class_freed: u64,
}

/// What a "no" holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// Said by `waiting_request`.
    Device,
    /// Said by `allow_request`.
    Class,
}

impl Counters {
    /// Requests that started and have not ended.
    pub fn pending(&self) -> u64 {
        self.allocs.saturating_sub(self.frees)
    }
}

impl Ngs {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.device_until + self.device_freed + self.class_until + self.class_freed
    }
}

impl AddAssign for Counters {
    fn add_assign(&mut self, other: Self) {
        self.grants += other.grants;
        self.waits += other.waits;
        self.ngs += other.ngs;
        self.aborts += other.aborts;
        self.allocs += other.allocs;
        self.frees += other.frees;
    }
}

impl AddAssign for Ngs {
    fn add_assign(&mut self, other: Self) {
        self.device_until += other.device_until;
        self.device_freed += other.device_freed;
        self.class_until += other.class_until;
        self.class_freed += other.class_freed;
    }
}

/// One intake's counters under one generation. Only the intake's thread may count. On cache lines of their own.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct QueueCounters {
    pub(super) grants: Count,
    pub(super) aborts: Count,
    pub(super) allocs: Count,
    pub(super) frees: Count,
    pub(super) waits: Count,
    ngs: [[Count; 2]; 2],
}

impl QueueCounters {
    /// A manager said no.
    pub(super) fn ng(&self, scope: Scope, wait: Wait) {
        self.ngs[scope as usize][usize::from(wait.ends_with_free())].bump();
    }

    /// Reads what was counted. `frees` first: a free seen here implies that its alloc is seen too.
    pub(super) fn snapshot(&self) -> Counters {
        let frees = self.frees.read();
        let [device, class] = &self.ngs;
        Counters {
            frees,
            allocs: self.allocs.read(),
            aborts: self.aborts.read(),
            ngs: Ngs {
                device_until: device[0].read(),
                device_freed: device[1].read(),
                class_until: class[0].read(),
                class_freed: class[1].read(),
            },
            waits: self.waits.read(),
            grants: self.grants.read(),
        }
    }
}
