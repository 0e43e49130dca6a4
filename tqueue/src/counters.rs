//! What a queue has counted since it was made.

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
    /// Transfers that came short and were continued.
    pub continued: u64,
    /// Ops tried again: interrupted, no resources, a socket not ready, another way to zero.
    pub retried: u64,
    /// Ops that ended as never started.
    pub never_started: u64,
    /// Sends whose success cost no completion entry.
    pub quiet_sends: u64,
    /// Most disk ops in the kernel at the same time.
    pub max_in_kernel: u64,
}
