//! What was done and how long it took: figures that every device and frontend keeps of requests.
//!
//! Recording allocates nothing and takes no lock; who shares figures among threads brings the lock.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::Operation;

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

/// How exact latencies are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// An error below 1 %, for 25 KiB.
    Percent,
    /// An error below 10 %, for 3.5 KiB: where there may be thousands.
    TenPercent,
}

/// Figures of one direction.
#[derive(Clone, Debug, PartialEq)]
pub struct Figures {
    ops: u64,
    bytes: u64,
    errors: u64,
    latency_ns: Histogram<u64>,
}

impl Figures {
    /// Nothing done so far. The only call that allocates.
    pub fn new(precision: Precision) -> Self {
        let digits = match precision {
            Precision::Percent => 2,
            Precision::TenPercent => 1,
        };
        let latency_ns =
            Histogram::new_with_bounds(LATENCY_NS_MIN, LATENCY_NS_MAX, digits).expect("the bounds are valid");
        Self {
            ops: 0,
            bytes: 0,
            errors: 0,
            latency_ns,
        }
    }

    /// A request of `bytes` ended, `latency` after it was received.
    pub fn record(&mut self, bytes: u64, ok: bool, latency: Duration) {
        let ns = latency
            .as_secs()
            .saturating_mul(1_000_000_000)
            .saturating_add(latency.subsec_nanos().into());
        self.latency_ns
            .saturating_record(ns.clamp(LATENCY_NS_MIN, LATENCY_NS_MAX));
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
        self.latency_ns
            .add(&other.latency_ns)
            .expect("both histograms have the same bounds");
    }

    /// Takes away what `past`, an earlier state of these figures, had counted: what is left was done since.
    pub fn subtract(&mut self, past: &Self) {
        self.ops = self.ops.saturating_sub(past.ops);
        self.bytes = self.bytes.saturating_sub(past.bytes);
        self.errors = self.errors.saturating_sub(past.errors);
        if self.latency_ns.subtract(&past.latency_ns).is_err() {
            self.latency_ns.reset();
        }
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
        Duration::from_nanos(self.latency_ns.value_at_quantile(quantile))
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
