//! What a queue has counted since it was made, and how much is outstanding now.

use crate::Queue;

/// What a queue has counted since it was made. Plain numbers: take the difference of two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Ops taken, disk and network.
    pub pushed: u64,
    /// Completions made.
    pub completed: u64,
    /// Completions that carry an error.
    pub failed: u64,
    /// Ops that found the kernel's share full when they were pushed, and had to wait.
    pub deferrals: u64,
    /// Ops handed back because even waiting had no room.
    pub handed_back: u64,
    /// Calls of `io_uring_enter`; of `poll(2)` in the synchronous engine.
    pub enters: u64,
    /// Entries put into the submission ring; calls made by the synchronous engine.
    pub sqes: u64,
    /// Disk calls on files in memory that were made without the ring.
    pub plain_calls: u64,
    /// Entries taken from the completion ring.
    pub cqes: u64,
    /// Ops that went to the kernel as part of another one: a merged op of n counts n - 1.
    pub merges: u64,
    /// Merged ops that failed and were taken apart, so that each part was tried again alone.
    pub splits: u64,
    /// Disk ops handed to the engine again, for whatever reason.
    pub resubmissions: u64,
    /// Transfers that came short and were continued.
    pub continued: u64,
    /// Ops tried again: interrupted, no resources, a socket not ready, another way to zero.
    pub retried: u64,
    /// Ops that ended as never started.
    pub never_started: u64,
    /// Disk ops that the kernel kept for longer than [`Config::stuck_after`](crate::Config::stuck_after); each counts once.
    pub stuck: u64,
    /// Sends whose success cost no completion entry.
    pub quiet_sends: u64,
    /// Most disk ops in the kernel at the same time, merged ones as one: never more than the queue's size.
    pub max_in_kernel: u64,
    /// Most disk ops in the kernel at the same time, each for itself.
    pub max_ops_in_kernel: u64,
}

/// How much of a queue is taken at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Occupancy {
    /// Disk ops that wait to be issued.
    pub queued: u32,
    /// Those of them that the kernel's share would have no room for, as it is now.
    pub deferred: u32,
    /// Disk ops in the kernel, each for itself.
    pub ops_in_kernel: u32,
    /// The same with merged ones as one.
    pub merged_in_kernel: u32,
}

impl Queue {
    /// How many disk ops are where.
    pub fn occupancy(&self) -> Occupancy {
        let queued = u32::try_from(self.disk.len()).expect("bounded by `max_ops`");
        let room = self.bounds.size - self.load.disk_merged;
        Occupancy {
            queued,
            deferred: queued.saturating_sub(room),
            ops_in_kernel: self.load.disk_issued,
            merged_in_kernel: self.load.disk_merged,
        }
    }
}
