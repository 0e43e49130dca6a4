//! How long requests waited for their grants: a log-linear histogram that one thread counts and others read.
//!
//! Buckets are eighths of a power of two, from 1 µs to 18 minutes: a time is known within 12.5 %, in 2 KiB. Room for all of
//! them is there from the start; a request that did not wait touches none.
//!
//! Not [`crate::stats`]' `hdrhistogram`: its counts are plain integers behind `&mut`, so who reads while the queue thread counts
//! would need a lock on the way of every request. Here each bucket is an atomic with one writer, counted up by a load and a
//! store, and read at any time.

use std::ops::AddAssign;
use std::time::Duration;

use super::counters::Count;

/// The first and the last power of two, in nanoseconds; what lies outside counts in the nearest bucket.
const FIRST_LOG2: u32 = 10;
const LAST_LOG2: u32 = 39;
/// Each power of two has so many buckets, as a power of two.
const PARTS_LOG2: u32 = 3;
const PARTS: usize = 1 << PARTS_LOG2;
const BUCKETS: usize = (LAST_LOG2 - FIRST_LOG2 + 1) as usize * PARTS;

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
        filled.map(|(index, count)| (Duration::from_nanos(bound_ns(index)), count))
    }
}

impl Default for WaitTimes {
    fn default() -> Self {
        Self {
            counts: [0; BUCKETS].into(),
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
            counts: (0..BUCKETS).map(|_| Count::default()).collect(),
            sum_ns: Count::default(),
        }
    }

    /// A request was granted after this long.
    pub(super) fn record(&self, wait: Duration) {
        let ns = u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX).clamp(1, MAX_NS);
        self.counts[index(ns)].bump();
        self.sum_ns.add(ns);
    }

    pub(super) fn snapshot(&self) -> WaitTimes {
        WaitTimes {
            counts: self.counts.iter().map(Count::read).collect(),
            sum_ns: self.sum_ns.read(),
        }
    }
}

const MAX_NS: u64 = (2 << LAST_LOG2) - 1;

/// The bucket of a time of at most `MAX_NS`.
fn index(ns: u64) -> usize {
    let ns = ns.max(1 << FIRST_LOG2);
    let log2 = ns.ilog2();
    // Its highest bits: one that is set, then those that count the part.
    let part = usize::try_from(ns >> (log2 - PARTS_LOG2)).expect("below two times the parts") - PARTS;
    (log2 - FIRST_LOG2) as usize * PARTS + part
}

/// The first time that is too long for a bucket.
fn bound_ns(index: usize) -> u64 {
    let (octave, part) = (index / PARTS, index % PARTS);
    ((PARTS + part + 1) as u64) << octave << (FIRST_LOG2 - PARTS_LOG2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_is_below_the_bound_of_its_bucket_and_not_far() {
        let mut ns: u64 = 1 << FIRST_LOG2;
        while ns <= MAX_NS {
            let bound = bound_ns(index(ns));
            assert!(
                ns < bound && bound - ns <= bound / 8,
                "{ns} in the bucket below {bound}"
            );
            assert_eq!(index(bound - 1), index(ns), "{bound} is where the next one begins");
            ns += ns / 100 + 1;
        }
        assert_eq!(index(MAX_NS), BUCKETS - 1);
    }

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
