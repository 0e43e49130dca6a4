//! Leaky buckets: how much was taken lately, in whole numbers, without drift.
//!
//! What is taken raises a bucket's level at once; it drains at the rate. A request may be taken while the level is not
//! above the capacity, whatever its own size: the level may rise above the capacity by that one request, and the next one
//! waits until that has drained. So in any time T no more than rate · T + capacity is taken, and one request.
//!
//! Levels are in billionths of a unit: a rate per second is then just as many billionths per nanosecond.

use std::time::Duration;

use crate::Timestamp;
use crate::policy::Rate;

/// Billionths in a unit.
const NANO: u128 = 1_000_000_000;
const MS_NANOS: u128 = 1_000_000;
/// How late a thread may be, in milliseconds, without losing any of its rate.
pub(super) const SLACK_MS: u64 = 50;
const BURST_MS: u32 = 1000;
/// Fractional bits of a span.
const SPAN_BITS: u32 = 20;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Bucket {
    /// Units per second.
    rate: u64,
    /// In billionths, as the level.
    capacity: u128,
    level: u128,
    /// When the level was that, once that is known: nothing drains before the first look.
    at: Option<Timestamp>,
    /// After a change of the rate: what the time before the next look counts at.
    rate_before: Option<u64>,
}

impl Bucket {
    fn new(rate: u64, capacity: u128, level: u128) -> Self {
        Self {
            rate,
            capacity,
            level,
            at: None,
            rate_before: None,
        }
    }

    #[inline]
    fn drain(&mut self, now: Timestamp) {
        let nanos = now.as_nanos().saturating_sub(self.at.unwrap_or(now).as_nanos());
        let rate = self.rate_before.take().unwrap_or(self.rate);
        self.level = self.level.saturating_sub(u128::from(rate) * u128::from(nanos));
        self.at = self.at.max(Some(now));
    }

    /// When a request may go if others take `ahead` units before it.
    #[inline]
    fn due(&self, ahead: u64) -> Timestamp {
        let level = self.level + u128::from(ahead) * NANO;
        match level.saturating_sub(self.capacity) {
            0 => Timestamp::ZERO,
            excess => {
                let nanos = excess.div_ceil(u128::from(self.rate));
                let nanos = u64::try_from(nanos).unwrap_or(u64::MAX);
                self.at.unwrap_or_default() + Duration::from_nanos(nanos)
            }
        }
    }

    /// Goes on where `old` was: with what was saved up there, as far as there is room for it, or with what is owed still. So
    /// nobody gains by changing to and fro. The time since the last look counts at the old rate if it `was_awaited`, for
    /// then the next look is now.
    fn inherit(&mut self, old: &Self, was_awaited: bool) {
        let saved = old.capacity.saturating_sub(old.level).min(self.capacity);
        let owed = old.level.saturating_sub(old.capacity);
        self.level = self.capacity - saved + owed;
        self.at = old.at;
        self.rate_before = was_awaited.then(|| old.rate_before.unwrap_or(old.rate));
    }
}

/// The buckets of one [`Rate`]. With a burst there are two: the first bounds the average, and holds what a burst of the full
/// length takes above it; the second bounds the burst.
#[derive(Clone, Debug)]
pub(super) struct Meter {
    rate: Rate,
    average: Bucket,
    peak: Option<Bucket>,
    /// What a unit spans.
    unit: u128,
}

impl Meter {
    /// With a whole burst saved up, and no slack: who begins at once does not begin with more than his rate.
    pub(super) fn new(rate: Rate) -> Self {
        let max = rate.max.unwrap_or(rate.average);
        let of = |per_second: u64, ms: u64| u128::from(per_second) * u128::from(ms) * MS_NANOS;
        let slack = of(max, SLACK_MS);
        let burst = of(max - rate.average, rate.max_length_ms.unwrap_or(BURST_MS).into());
        Self {
            rate,
            average: Bucket::new(rate.average, slack + burst, slack),
            peak: (max > rate.average).then(|| Bucket::new(max, slack, slack)),
            unit: (NANO << SPAN_BITS) / u128::from(rate.average),
        }
    }

    /// Goes on with another rate. Does somebody wait, who will look at once?
    pub(super) fn retune(&mut self, rate: Rate, is_awaited: bool) {
        if rate == self.rate {
            return;
        }
        let old = std::mem::replace(self, Self::new(rate));
        self.average.inherit(&old.average, is_awaited);
        if let (Some(peak), Some(old)) = (&mut self.peak, &old.peak) {
            peak.inherit(old, is_awaited);
        }
    }

    /// Lets time pass.
    #[inline]
    pub(super) fn drain(&mut self, now: Timestamp) {
        self.buckets().for_each(|bucket| bucket.drain(now));
    }

    /// When a request may go if others take `ahead` units before it; an instant of the past means now.
    #[inline]
    pub(super) fn due(&self, ahead: u64) -> Timestamp {
        let peak = self.peak.as_ref().map_or(Timestamp::ZERO, |peak| peak.due(ahead));
        self.average.due(ahead).max(peak)
    }

    #[inline]
    pub(super) fn take(&mut self, units: u64) {
        self.buckets()
            .for_each(|bucket| bucket.level += u128::from(units) * NANO);
    }

    pub(super) fn give_back(&mut self, units: u64) {
        self.buckets()
            .for_each(|bucket| bucket.level = bucket.level.saturating_sub(u128::from(units) * NANO));
    }

    /// How long so many units last at the average.
    #[inline]
    pub(super) fn span(&self, units: u64) -> Span {
        Span(self.unit * u128::from(units))
    }

    fn buckets(&mut self) -> impl Iterator<Item = &mut Bucket> {
        [Some(&mut self.average), self.peak.as_mut()].into_iter().flatten()
    }
}

/// A time that work takes at some rate; finer than nanoseconds, so that nothing is lost in long sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Span(u128);

impl Span {
    /// After both.
    pub(super) fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// What is left of it without `other`.
    pub(super) fn minus(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// Rounded down.
    pub(super) fn as_nanos(self) -> u64 {
        u64::try_from(self.0 >> SPAN_BITS).unwrap_or(u64::MAX)
    }
}
