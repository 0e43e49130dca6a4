//! What was done and how long it took: figures that every device and frontend keeps of requests.
//!
//! Recording allocates nothing and takes no lock. [`Figures`] belong to whoever records them; a [`Tally`] is one thread's, which
//! others read at any time.

use std::time::Duration;

use crate::Operation;
use crate::count::Count;
use crate::scale::Scale;

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

/// How exact latencies are kept, of those from 1 µs to 18 minutes; what lies outside counts as the nearest bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// An error below 1 %, for 15 KiB.
    Percent,
    /// An error below 10 %, for 2 KiB: where there may be thousands.
    TenPercent,
}

impl Precision {
    const fn scale(self) -> Scale {
        match self {
            Self::Percent => Scale::new(6),
            Self::TenPercent => Scale::new(3),
        }
    }
}

/// Figures of one direction.
#[derive(Clone, Debug, PartialEq)]
pub struct Figures {
    ops: u64,
    bytes: u64,
    errors: u64,
    scale: Scale,
    /// By bucket of the scale.
    latencies: Box<[u64]>,
}

/// Figures of one direction that one thread records, and others read. A read that races with a record may have seen a part of it.
#[derive(Debug)]
pub struct Tally {
    ops: Count,
    bytes: Count,
    errors: Count,
    scale: Scale,
    latencies: Box<[Count]>,
}

impl Tally {
    /// Nothing done so far. The only call that allocates.
    pub fn new(precision: Precision) -> Self {
        let scale = precision.scale();
        Self {
            ops: Count::default(),
            bytes: Count::default(),
            errors: Count::default(),
            scale,
            latencies: (0..scale.len()).map(|_| Count::default()).collect(),
        }
    }

    /// A request of `bytes` ended, `latency_ns` after it was received. Only one thread may say so.
    #[inline]
    pub fn record(&self, bytes: u64, ok: bool, latency_ns: u64) {
        self.latencies[self.scale.index(latency_ns)].bump();
        self.ops.bump();
        if ok {
            self.bytes.add(bytes);
        } else {
            self.errors.bump();
        }
    }

    /// What was recorded so far.
    pub fn read(&self) -> Figures {
        Figures {
            ops: self.ops.read(),
            bytes: self.bytes.read(),
            errors: self.errors.read(),
            scale: self.scale,
            latencies: self.latencies.iter().map(Count::read).collect(),
        }
    }
}

impl Figures {
    /// Nothing done so far. The only call that allocates.
    pub fn new(precision: Precision) -> Self {
        Tally::new(precision).read()
    }

    /// A request of `bytes` ended, `latency` after it was received.
    pub fn record(&mut self, bytes: u64, ok: bool, latency: Duration) {
        let ns = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.latencies[self.scale.index(ns)] += 1;
        self.ops += 1;
        if ok {
            self.bytes += bytes;
        } else {
            self.errors += 1;
        }
    }

    /// Adds what `other`, of the same precision, has counted.
    ///
    /// # Panics
    /// If the precisions differ.
    pub fn add(&mut self, other: &Self) {
        self.ops += other.ops;
        self.bytes += other.bytes;
        self.errors += other.errors;
        assert_eq!(self.scale, other.scale, "only what is as exact can be added");
        let counts = self.latencies.iter_mut().zip(&other.latencies);
        counts.for_each(|(count, more)| *count += more);
    }

    /// Takes away what `past`, an earlier state of these figures, had counted: what is left was done since.
    pub fn subtract(&mut self, past: &Self) {
        self.ops = self.ops.saturating_sub(past.ops);
        self.bytes = self.bytes.saturating_sub(past.bytes);
        self.errors = self.errors.saturating_sub(past.errors);
        let counts = self.latencies.iter_mut().zip(&past.latencies);
        counts.for_each(|(count, before)| *count = count.saturating_sub(*before));
    }

    /// Requests ended.
    pub fn ops(&self) -> u64 {
        self.ops
    }

    /// Bytes of those that ended well.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Requests ended with an error.
    pub fn errors(&self) -> u64 {
        self.errors
    }

    /// The latency that the share `quantile` (0 to 1) of all requests did not exceed; zero if there was none.
    pub fn latency(&self, quantile: f64) -> Duration {
        if self.ops == 0 {
            return Duration::ZERO;
        }
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rank between 0 and a count"
        )]
        let rank = |count: u64| (quantile.clamp(0.0, 1.0) * count as f64).ceil() as u64;
        let rank = rank(self.latencies.iter().sum()).max(1);
        let mut below = 0;
        let reached = self.latencies.iter().position(|count| {
            below += count;
            below >= rank
        });
        reached.map_or(Duration::ZERO, |index| {
            Duration::from_nanos(self.scale.middle_ns(index))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_requests_count_no_bytes() {
        let mut figures = Figures::new(Precision::TenPercent);
        figures.record(512, true, Duration::from_micros(10));
        figures.record(4096, false, Duration::from_micros(10));
        assert_eq!((figures.ops(), figures.bytes(), figures.errors()), (2, 512, 1));
    }

    #[test]
    fn a_tally_reads_as_the_figures_of_the_same_requests() {
        for precision in [Precision::Percent, Precision::TenPercent] {
            let (tally, mut figures) = (Tally::new(precision), Figures::new(precision));
            for (bytes, ok, us) in [
                (512, true, 10),
                (4096, false, 10),
                (4096, true, 5_000_000),
                (0, true, 0),
            ] {
                tally.record(bytes, ok, us * 1000);
                figures.record(bytes, ok, Duration::from_micros(us));
            }
            assert_eq!(tally.read(), figures);
        }
    }

    #[test]
    fn latencies_are_as_exact_as_asked_for() {
        for (precision, error) in [(Precision::Percent, 0.01), (Precision::TenPercent, 0.1)] {
            let mut figures = Figures::new(precision);
            assert_eq!(figures.latency(0.5), Duration::ZERO);
            (1..=1000).for_each(|us| figures.record(0, true, Duration::from_micros(us)));
            for (quantile, us) in [(0.5, 500.0), (0.99, 990.0), (1.0, 1000.0)] {
                let seen = figures.latency(quantile).as_secs_f64() * 1e6;
                assert!((seen - us).abs() <= us * error, "{precision:?}: {seen} for {us}");
            }
        }
    }

    #[test]
    fn what_was_done_since_is_a_difference() {
        let mut figures = Figures::new(Precision::Percent);
        (0..100).for_each(|_| figures.record(512, true, Duration::from_secs(1)));
        let past = figures.clone();
        figures.record(4096, true, Duration::from_micros(10));
        figures.record(4096, false, Duration::from_micros(10));
        figures.subtract(&past);
        assert_eq!((figures.ops(), figures.bytes(), figures.errors()), (2, 4096, 1));
        assert!(
            figures.latency(1.0) < Duration::from_micros(11),
            "{:?}",
            figures.latency(1.0)
        );
        figures.subtract(&past);
        assert_eq!((figures.ops(), figures.latency(1.0)), (0, Duration::ZERO));
    }

    #[test]
    fn what_is_out_of_bounds_counts_as_the_bound() {
        let mut figures = Figures::new(Precision::Percent);
        figures.record(0, true, Duration::from_secs(3600));
        assert!(figures.latency(1.0) >= Duration::from_secs(600));
    }
}
