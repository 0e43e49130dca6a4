//! What a queue is made from, and what came of it.

use std::fmt;
use std::time::Duration;

use crate::Error;
use crate::buf::PLACES_MAX;
use crate::filter::FilterConfig;

/// How large a queue is and what runs it. Everything is allocated when the queue is made, from these numbers.
#[derive(Clone, Debug)]
pub struct Config {
    /// Disk ops in the kernel at the same time, merged ones as one.
    pub size: u32,
    /// Disk ops outstanding in all: queued, deferred, in the kernel, and done but not delivered.
    pub max_ops: u32,
    /// Socket, poll and timer ops outstanding in all. They do not count into `size`, as they may wait for ever.
    pub net_ops: u32,
    /// Sends of more than one part outstanding at the same time.
    pub sends: u32,
    /// Bytes of buffers; a multiple of 4096. The largest lease is the largest power of two in it.
    pub arena_bytes: usize,
    /// Bytes of buffers besides, a multiple of 4096, for [`Queue::alloc_large`](crate::Queue::alloc_large) alone: what is leased
    /// from there is never in the way of what is leased by [`alloc`](iomgr_core::OpQueue::alloc), nor the other way round.
    pub large_bytes: usize,
    /// Buffers of others that may be here at the same time, 1024 at most: [lent](crate::Queue::lend), or
    /// [borrowed](crate::Queue::borrowed).
    pub lent: u16,
    /// What runs the ops.
    pub engine: EngineKind,
    /// Features of the kernel that must not be used, so that tests can see the queue do without.
    pub mask: Features,
    /// Files known at the same time.
    pub files: u32,
    /// Leases that may be registered with the ring one by one, by [`Queue::register`](crate::Queue::register).
    pub registered_leases: u16,
    /// Buffers of requests that a driver registers with the ring, and takes away again: those named by
    /// [`DataHome::Registered`](iomgr_core::DataHome::Registered) below this number. Where there are any, none of the queue's own are
    /// registered. Needs io_uring (Linux 5.19).
    pub driver_buffers: u16,
    /// Threads of the kernel's for ops that a file takes only by waiting (flushes, discards and zeroes of block devices), at most; 0
    /// leaves it to the kernel: four for each CPU. They serve all files, so that one that stalls keeps others waiting when it has all.
    pub workers: u32,
    /// Bounds for merging.
    pub plan: PlanLimits,
    /// How long a disk op may be in the kernel before that is reported: by a line in the log, and [`Counters::stuck`](crate::Counters::stuck).
    pub stuck_after: Duration,
    /// What sees every disk op before it is planned and after it ended, in this order and back; 32 at most.
    pub filters: Vec<FilterConfig>,
    /// How long dropping the queue waits for ops that the disk is at. Then it leaks its ring and its buffers.
    pub drain_max: Duration,
}

impl Default for Config {
    /// 128 ops in flight, 48 MiB of buffers (a run of 32 MiB and one of 16 MiB).
    fn default() -> Self {
        Self {
            size: 128,
            max_ops: 1024,
            net_ops: 256,
            sends: 64,
            arena_bytes: 48 << 20,
            large_bytes: 0,
            lent: 0,
            engine: EngineKind::Auto,
            mask: Features::empty(),
            files: 64,
            registered_leases: 0,
            driver_buffers: 0,
            workers: 0,
            plan: PlanLimits::default(),
            stuck_after: Duration::from_secs(10),
            filters: Vec::new(),
            drain_max: Duration::from_secs(30),
        }
    }
}

impl Config {
    /// Ops that filters may hold: as many as there are, each by a timer.
    pub(crate) fn held_max(&self) -> u32 {
        if self.filters.is_empty() { 0 } else { self.max_ops }
    }

    /// Refuses numbers that nothing could be made from.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let bad = |text: &str| Err(Error::config(text));
        if !(1..=16384).contains(&self.size) {
            return bad("size is 1 to 16384");
        }
        if self.max_ops < self.size || self.max_ops > 16384 {
            return bad("max_ops is at least size and at most 16384");
        }
        if !(1..=8192).contains(&self.net_ops) || self.sends > self.net_ops {
            return bad("net_ops is 1 to 8192, and no fewer than sends");
        }
        let bytes = self.arena_bytes.saturating_add(self.large_bytes);
        let whole_pages = self.arena_bytes.is_multiple_of(4096) && self.large_bytes.is_multiple_of(4096);
        if self.arena_bytes == 0 || !whole_pages || !(1 << 20..=4 << 30).contains(&bytes) {
            return bad("arena_bytes and large_bytes are 1 MiB to 4 GiB together, in pages of 4096 bytes");
        }
        let names = bytes / 4096 + usize::from(self.lent);
        if self.lent > PLACES_MAX || names > 1 << 20 {
            return bad("lent is 1024 at most, and no more than 2^20 together with the pages of buffers");
        }
        if !(1..=32768).contains(&self.files) {
            return bad("files is 1 to 32768");
        }
        if !(1..=1024).contains(&self.plan.max_segments) {
            return bad("plan.max_segments is 1 to 1024");
        }
        if self.driver_buffers.max(self.registered_leases) > 8192 {
            return bad("driver_buffers and registered_leases are 8192 at most");
        }
        if self.filters.len() > 32 {
            return bad("filters are 32 at most");
        }
        Ok(())
    }
}

/// What runs the ops.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum EngineKind {
    /// io_uring; where it cannot be had, the synchronous engine, with a warning in the log.
    #[default]
    Auto,
    /// io_uring, or an error.
    Uring,
    /// Blocking calls, one after the other.
    Sync,
    /// The simulated disk.
    #[cfg(feature = "test-utils")]
    Sim(crate::sim::SimHandle),
}

bitflags::bitflags! {
    /// Features of the kernel's io_uring that the queue uses where it finds them.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Features: u32 {
        /// One thread submits: the kernel may skip locks (Linux 6.0).
        const SINGLE_ISSUER = 1 << 0;
        /// Completions are worked off when we wait, never in between (Linux 6.1); needs `SINGLE_ISSUER`.
        const DEFER_TASKRUN = 1 << 1;
        /// No interrupts between processors for completions (Linux 5.19); used where `DEFER_TASKRUN` is not.
        const COOP_TASKRUN = 1 << 2;
        /// The first 4 MiB of buffers are registered: no page is looked up per op. They are locked into memory, so the limit
        /// on that counts. Longer ops and fuller arenas use the rest, which is not registered.
        const REGISTERED_BUFFERS = 1 << 3;
        /// The files are registered: no reference is taken per op.
        const REGISTERED_FILES = 1 << 4;
        /// A send that went through at once posts no completion of its own (Linux 5.17).
        const QUIET_SENDS = 1 << 5;
        /// Files that lie in memory (tmpfs) are worked on by plain calls when they are issued: io_uring would hand each op to
        /// a worker thread, as tmpfs cannot promise not to wait, which costs four times as much as the op itself.
        const PLAIN_MEMORY_FILES = 1 << 6;
        /// Merged ops use registered buffers, too (Linux 6.15); needs `REGISTERED_BUFFERS`.
        const REGISTERED_VECTORS = 1 << 7;
    }
}

/// Bounds for merging: ops that are contiguous in their file become one op for the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlanLimits {
    /// Bytes in one merged op. A longer op goes as it is.
    pub max_bytes: u32,
    /// Ops in one merged op, 1 to 1024. 1 keeps every op as it is.
    pub max_segments: u32,
}

impl Default for PlanLimits {
    /// 1 MiB, 64 ops.
    fn default() -> Self {
        Self {
            max_bytes: 1 << 20,
            max_segments: 64,
        }
    }
}

/// What a queue turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueInfo {
    /// `io_uring`, `sync` or `sim`.
    pub engine: &'static str,
    /// What of the kernel is in use.
    pub features: Features,
    /// Why it is not io_uring although that was tried, or why buffers are not registered although that was tried.
    pub notes: Vec<String>,
    /// Bytes of buffers.
    pub arena_bytes: usize,
    /// Disk ops in the kernel at the same time.
    pub size: u32,
}

impl fmt::Display for QueueInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}, size {}, {} MiB of buffers",
            self.engine,
            self.size,
            self.arena_bytes >> 20
        )?;
        for (name, _) in self.features.iter_names() {
            write!(f, ", {}", name.to_lowercase())?;
        }
        self.notes.iter().try_for_each(|note| write!(f, "; {note}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_merged_op_is_of_one_to_1024_ops() {
        let check = |max_segments| {
            let plan = PlanLimits {
                max_segments,
                ..PlanLimits::default()
            };
            let config = Config {
                plan,
                ..Config::default()
            };
            config.check().map_err(|error| error.to_string())
        };
        assert_eq!((check(1), check(1024)), (Ok(()), Ok(())));
        for bad in [0, 1025] {
            assert_eq!(
                check(bad),
                Err("bad queue configuration: plan.max_segments is 1 to 1024".into())
            );
        }
    }
}
