//! How long requests waited for their grants: a log-linear histogram that one thread counts and others read.
//!
//! Buckets are eighths of a power of two, from 1 µs to 18 minutes: a time is known within 12.5 %, in 2 KiB. Room for all of
//! them is there from the start; a request that did not wait touches none.
//!
//! Each bucket has one writer, and is read at any time: no lock is on the way of a request.

use std::ops::AddAssign;
use std::time::Duration;

use crate::count::Count;
use crate::scale::Scale;

/// Eighths of a power of two.
const SCALE: Scale = Scale::new(3);

/// How long requests waited, of those that did ([`Counters::waits`](super::Counters::waits)): a histogram whose bounds are
/// at most 12.5 % apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitTimes {
    counts: Box<[u64]>,
    sum_ns: u64,
}

impl WaitTimes {
    /// Requests that waited.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// All their waits together.
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum_ns)
    }

    /// What the share `quantile` (0 to 1) of all waits did not exceed, rounded up to the next bound; zero if there was
    /// none.
    pub fn quantile(&self, quantile: f64) -> Duration {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rank between 0 and a count"
        )]
        let rank = (quantile.clamp(0.0, 1.0) * self.count() as f64).ceil() as u64;
        let mut below = 0;
        let reached = self.buckets().find(|(_, count)| {
            below += count;
            below >= rank
        });
        reached.map_or(Duration::ZERO, |(bound, _)| bound)
    }

    /// The buckets that are not empty, in ascending order: the time that no wait of the bucket reaches, and how many
    /// waits are in it. Whatever is longer than 18 minutes is in the last one.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> {
        let counts = self.counts.iter().copied().enumerate();
        let filled = counts.filter(|(_, count)| *count != 0);
        filled.map(|(index, count)| (Duration::from_nanos(SCALE.bound_ns(index)), count))
    }
}

impl Default for WaitTimes {
    fn default() -> Self {
        Self {
            counts: vec![0; SCALE.len()].into(),
            sum_ns: 0,
        }
    }
}

impl AddAssign<&Self> for WaitTimes {
    fn add_assign(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.sum_ns = self.sum_ns.saturating_add(other.sum_ns);
    }
}

/// One intake's histogram under one generation. Only the intake's thread may count.
#[derive(Debug)]
pub(super) struct QueueWaits {
    counts: Box<[Count]>,
    sum_ns: Count,
}

impl QueueWaits {
    pub(super) fn new() -> Self {
        Self {
            counts: (0..SCALE.len()).map(|_| Count::default()).collect(),
            sum_ns: Count::default(),
        }
    }

    /// A request was granted after this long.
    pub(super) fn record(&self, wait: Duration) {
        let ns = u64::try_from(wait.as_nanos())
            .unwrap_or(u64::MAX)
            .clamp(1, Scale::MAX_NS);
        self.counts[SCALE.index(ns)].bump();
        self.sum_ns.add(ns);
    }

    pub(super) fn snapshot(&self) -> WaitTimes {
        WaitTimes {
            counts: self.counts.iter().map(Count::read).collect(),
            sum_ns: self.sum_ns.read(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_what_was_recorded() {
        let waits = QueueWaits::new();
        assert_eq!(waits.snapshot().quantile(0.5), Duration::ZERO);
        (1..=1000).for_each(|us| waits.record(Duration::from_micros(us)));
        let mut seen = waits.snapshot();
        seen += &waits.snapshot();
        assert_eq!((seen.count(), seen.sum()), (2000, Duration::from_micros(1_001_000)));
        for (quantile, us) in [(0.5, 500), (0.99, 990), (1.0, 1000)] {
            let (us, seen) = (Duration::from_micros(us), seen.quantile(quantile));
            assert!(us <= seen && seen <= us * 9 / 8, "{seen:?} for {us:?}");
        }
    }

    #[test]
    fn what_is_out_of_bounds_counts_in_the_nearest_bucket() {
        let waits = QueueWaits::new();
        waits.record(Duration::from_nanos(1));
        waits.record(Duration::MAX);
        let seen = waits.snapshot();
        let buckets: Vec<_> = seen.buckets().collect();
        assert_eq!(buckets[0], (Duration::from_nanos(1152), 1));
        assert_eq!((buckets.len(), buckets[1].1), (2, 1));
    }
}
