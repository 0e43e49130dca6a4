//! What a disk has done: operations, bytes, errors and latencies, per direction.
//!
//! Each queue keeps its own figures behind its own mutex, which only its thread and a reader of statistics ever take.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use iomgr_core::{Operation, SECTOR_BYTES};
use serde::{Deserialize, Serialize};

/// What requests are counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Reads and prefetches.
    Read,
    /// Writes.
    Write,
    /// Flushes.
    Flush,
    /// Discards and write-zeroes.
    Trim,
}

impl Direction {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Read, Self::Write, Self::Flush, Self::Trim];

    /// The word for it in JSON and text.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Flush => "flush",
            Self::Trim => "trim",
        }
    }
}

impl From<Operation> for Direction {
    fn from(op: Operation) -> Self {
        match op {
            Operation::Read | Operation::Prefetch => Self::Read,
            Operation::Write => Self::Write,
            Operation::Flush => Self::Flush,
            Operation::Discard | Operation::WriteZeroes => Self::Trim,
        }
    }
}

/// Latencies from 1 µs to 10 minutes in nanoseconds; what lies outside counts as the nearest bound.
const LATENCY_NS_MIN: u64 = 1_000;
const LATENCY_NS_MAX: u64 = 600_000_000_000;
/// Two significant digits: an error below 1 %.
const DIGITS: u8 = 2;

/// Figures of one direction.
#[derive(Clone, Debug)]
struct Figures {
    ops: u64,
    bytes: u64,
    errors: u64,
    latency_ns: Histogram<u64>,
}

impl Figures {
    fn new() -> Self {
        let latency_ns =
            Histogram::new_with_bounds(LATENCY_NS_MIN, LATENCY_NS_MAX, DIGITS).expect("the bounds are valid");
        Self {
            ops: 0,
            bytes: 0,
            errors: 0,
            latency_ns,
        }
    }

    fn add(&mut self, other: &Self) {
        self.ops += other.ops;
        self.bytes += other.bytes;
        self.errors += other.errors;
        self.latency_ns
            .add(&other.latency_ns)
            .expect("all histograms have the same bounds");
    }
}

/// Figures of one queue, shared between its thread and readers. Recording allocates nothing.
#[derive(Clone, Debug)]
pub(crate) struct QueueStats(Arc<Mutex<[Figures; 4]>>);

impl QueueStats {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(std::array::from_fn(|_| Figures::new()))))
    }

    /// Counts a finished request.
    pub(crate) fn record(&self, op: Operation, sectors: u64, ok: bool, latency: Duration) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let figures = &mut all[Direction::from(op) as usize];
        let ns = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        figures
            .latency_ns
            .saturating_record(ns.clamp(LATENCY_NS_MIN, LATENCY_NS_MAX));
        figures.ops += 1;
        if ok {
            figures.bytes += sectors * SECTOR_BYTES;
        } else {
            figures.errors += 1;
        }
    }
}

/// A disk's statistics, summed over its queues.
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
    /// Sums the queues' figures.
    pub(crate) fn sum(queues: &[QueueStats]) -> Self {
        let mut sum: [Figures; 4] = std::array::from_fn(|_| Figures::new());
        for queue in queues {
            let figures = queue.0.lock().unwrap_or_else(PoisonError::into_inner);
            sum.iter_mut().zip(figures.iter()).for_each(|(sum, part)| sum.add(part));
        }
        let [read, write, flush, trim] = sum.map(|figures| DirectionStats::new(&figures));
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
    fn new(figures: &Figures) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "latencies are below 2^52 ns")]
        let us = |ns: u64| if figures.ops == 0 { 0.0 } else { ns as f64 / 1e3 };
        let at = |quantile| us(figures.latency_ns.value_at_quantile(quantile));
        let latency = LatencyStats {
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: us(figures.latency_ns.max()),
        };
        Self {
            ops: figures.ops,
            bytes: figures.bytes,
            errors: figures.errors,
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
        queues[0].record(Operation::Read, 8, true, Duration::from_micros(10));
        queues[1].record(Operation::Read, 8, true, Duration::from_micros(30));
        queues[1].record(Operation::WriteZeroes, 8, false, Duration::from_secs(3600));
        let stats = Stats::sum(&queues);
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
