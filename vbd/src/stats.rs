//! What a disk or a connection has done: operations, bytes, errors and latencies, per direction.
//!
//! Each queue keeps its own figures, which its thread records and a reader of statistics sums up.

use std::sync::Arc;

pub use iomgr_core::stats::Direction;
use iomgr_core::stats::{Figures, Precision, Tally};
use iomgr_core::{Operation, SECTOR_BYTES};
use serde::{Deserialize, Serialize};

/// Figures of one queue, shared between its thread, which alone records, and readers. Recording allocates nothing.
#[derive(Clone, Debug)]
pub(crate) struct QueueStats(Arc<[Tally; 4]>);

impl QueueStats {
    pub(crate) fn new() -> Self {
        Self(Arc::new(std::array::from_fn(|_| Tally::new(Precision::Percent))))
    }

    /// Counts a finished request.
    #[inline]
    pub(crate) fn record(&self, op: Operation, sectors: u64, ok: bool, latency_ns: u64) {
        self.0[Direction::from(op) as usize].record(sectors * SECTOR_BYTES, ok, latency_ns);
    }
}

/// Sums the queues' figures.
pub(crate) fn sum(queues: &[QueueStats]) -> [Figures; 4] {
    let mut sum: [Figures; 4] = std::array::from_fn(|_| Figures::new(Precision::Percent));
    for queue in queues {
        let parts = queue.0.iter().map(Tally::read);
        sum.iter_mut().zip(parts).for_each(|(sum, part)| sum.add(&part));
    }
    sum
}

/// What was done, per direction: a disk's, summed over its queues, or a connection's.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Stats {
    /// Reads.
    pub read: DirectionStats,
    /// Writes.
    pub write: DirectionStats,
    /// Flushes.
    pub flush: DirectionStats,
    /// Discards and write-zeroes.
    pub trim: DirectionStats,
}

/// Statistics of one direction.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DirectionStats {
    /// Requests ended.
    pub ops: u64,
    /// Bytes of those that ended well.
    pub bytes: u64,
    /// Requests ended with an error.
    pub errors: u64,
    /// Time from receipt to completion.
    pub latency: LatencyStats,
}

/// A latency distribution, in microseconds.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct LatencyStats {
    /// The median.
    pub p50_us: f64,
    /// 90 of 100 are not above it.
    pub p90_us: f64,
    /// 99 of 100 are not above it.
    pub p99_us: f64,
    /// 999 of 1000 are not above it.
    pub p999_us: f64,
    /// The longest.
    pub max_us: f64,
}

impl Stats {
    /// Of figures in the order of [`Direction::ALL`].
    pub(crate) fn new(figures: &[Figures; 4]) -> Self {
        let [read, write, flush, trim] = figures.each_ref().map(DirectionStats::new);
        Self {
            read,
            write,
            flush,
            trim,
        }
    }

    /// The figures of one direction.
    pub fn of(&self, direction: Direction) -> &DirectionStats {
        match direction {
            Direction::Read => &self.read,
            Direction::Write => &self.write,
            Direction::Flush => &self.flush,
            Direction::Trim => &self.trim,
        }
    }
}

impl DirectionStats {
    pub(crate) fn new(figures: &Figures) -> Self {
        let at = |quantile| figures.latency(quantile).as_secs_f64() * 1e6;
        let latency = LatencyStats {
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: at(1.0),
        };
        Self {
            ops: figures.ops(),
            bytes: figures.bytes(),
            errors: figures.errors(),
            latency,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_add_up() {
        let queues = [QueueStats::new(), QueueStats::new()];
        queues[0].record(Operation::Read, 8, true, 10_000);
        queues[1].record(Operation::Read, 8, true, 30_000);
        queues[1].record(Operation::WriteZeroes, 8, false, u64::MAX);
        let stats = Stats::new(&sum(&queues));
        assert_eq!((stats.read.ops, stats.read.bytes, stats.read.errors), (2, 8192, 0));
        assert!(
            (29.0..31.0).contains(&stats.read.latency.max_us),
            "{:?}",
            stats.read.latency
        );
        assert_eq!((stats.trim.ops, stats.trim.bytes, stats.trim.errors), (1, 0, 1));
        assert_eq!(stats.write.latency.max_us, 0.0);
    }
}
