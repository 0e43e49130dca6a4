//! What was counted, and how much is taken.

/// What a machine has counted since it was made. Plain numbers: take the difference of two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Requests taken.
    pub requests: u64,
    /// Regions of them: always the regions that run, and those that ended as `ok`, `failed` or `cancelled`.
    pub regions: u64,
    /// Regions that ended well.
    pub ok: u64,
    /// Regions that ended with an error, failed fast ones among them.
    pub failed: u64,
    /// Regions that were cancelled, for whatever reason.
    pub cancelled: u64,
    /// Cancelled regions of which the device has seen nothing.
    pub never_started: u64,
    /// Regions whose time was up while they ran on.
    pub timeouts: u64,
    /// Regions handed to devices.
    pub submitted: u64,
    /// Answers for regions that had been cancelled.
    pub late: u64,
    /// Candidates of a choice that started while an earlier one ran on.
    pub hedged: u64,
    /// Regions that waited for bounce memory.
    pub quota_waits: u64,
    /// Writes that waited for another one, overlapping, to end.
    pub hold_waits: u64,
    /// Regions that failed because their device is degraded or fenced.
    pub failed_fast: u64,
    /// Reads of sectors that an orphan's write may change yet.
    pub indeterminate: u64,
    /// Regions handed back by a device that was busy.
    pub busy: u64,
}

/// How much of a machine is taken at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Occupancy {
    /// Requests that are not over, or that somebody still has a handle of, or that orphans belong to.
    pub requests: u32,
    /// Regions that are not over.
    pub running: u32,
    /// Regions that a device owes an answer for, although they are over.
    pub orphans: u32,
    /// Cells of bounce memory that are free.
    pub cells_free: u32,
    /// Cells of regions that run.
    pub cells_used: u32,
    /// Cells that only orphans use.
    pub cells_orphaned: u32,
}
