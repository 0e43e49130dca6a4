//! Buckets against a naive oracle.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use super::Rate;
use super::bucket::{Meter, SLACK_MS};
use crate::Timestamp;

/// Remembers everything that was taken, and looks at every window there is.
struct Oracle {
    rate: u64,
    /// In thousandths.
    bucket: u64,
    taken: Vec<(u64, u64)>,
}

impl Oracle {
    /// May something go now? Not if what went before is too much for any window that ends now, or if the rate's slack was not
    /// there yet at the beginning.
    fn lets_go(&self, now: u64, unsaved: u64) -> bool {
        let billionths = |units: u64| u128::from(units) * 1_000_000_000;
        let room = |since: u64| u128::from(self.bucket) * 1_000_000 + u128::from(self.rate) * u128::from(now - since);
        let windows = (0..self.taken.len()).all(|from| {
            let taken = self.taken[from..]
                .iter()
                .map(|(_, units)| billionths(*units))
                .sum::<u128>();
            taken <= room(self.taken[from].0)
        });
        let all = self.taken.iter().map(|(_, units)| billionths(*units)).sum::<u128>();
        windows && all + u128::from(unsaved) * 1_000_000 <= room(0)
    }
}

/// Asks as often as the steps say; what may go does.
fn compare(rate: Rate, steps: &[(u64, u64)]) {
    let max = rate.max.unwrap_or(rate.average);
    let slack = max * SLACK_MS;
    let burst = (max - rate.average) * u64::from(rate.max_length_ms.unwrap_or(0));
    let oracle = |rate, bucket| Oracle {
        rate,
        bucket,
        taken: Vec::new(),
    };
    let mut oracles = [oracle(rate.average, slack + burst), oracle(max, slack)];
    let mut meter = Meter::new(rate);
    meter.drain(Timestamp::ZERO);
    let mut now = 0;
    for (gap, units) in steps {
        now += gap;
        let instant = Timestamp::from_nanos(now);
        meter.drain(instant);
        let expected = oracles.iter().all(|oracle| oracle.lets_go(now, slack));
        let due = meter.due(0);
        assert_eq!(due <= instant, expected, "at {now}");
        if expected {
            meter.take(*units);
            oracles.iter_mut().for_each(|oracle| oracle.taken.push((now, *units)));
        } else {
            check_due(&oracles, due.as_nanos(), slack);
        }
    }
}

/// The instant that was told is the first at which it may go.
fn check_due(oracles: &[Oracle], due: u64, slack: u64) {
    assert!(oracles.iter().all(|oracle| oracle.lets_go(due, slack)));
    assert!(!oracles.iter().all(|oracle| oracle.lets_go(due - 1, slack)));
}

fn any_rate() -> impl Strategy<Value = Rate> {
    let average = prop_oneof![1..100_u64, 1..100_000_u64];
    (average, 1..5_u64, 1..3000_u32).prop_map(|(average, times, length)| match times {
        1 => Rate::new(average),
        _ => Rate::new(average).with_burst(average * times, length),
    })
}

proptest! {
    #[test]
    fn a_meter_does_what_every_window_allows(
        rate in any_rate(),
        steps in vec((0..200_000_000_u64, 0..20_u64), 1..60),
    ) {
        compare(rate, &steps);
    }
}

#[test]
fn nothing_drifts_in_a_year() {
    let mut meter = Meter::new(Rate::new(3));
    meter.drain(Timestamp::ZERO);
    let mut now = Timestamp::ZERO;
    for _ in 0..1_000_000 {
        meter.take(1);
        now = meter.due(0);
        meter.drain(now);
    }
    // A third of a second is no whole number of nanoseconds; each is rounded up, and what that gives is not lost.
    let exact = Duration::from_nanos(1_000_000_000_000_000_u64.div_ceil(3));
    assert_eq!(now.since(Timestamp::ZERO), exact);
}

#[test]
fn what_was_given_back_was_never_taken() {
    let mut meter = Meter::new(Rate::new(1).with_burst(2, 1000));
    meter.drain(Timestamp::ZERO);
    meter.take(1000);
    assert!(meter.due(0) > Timestamp::from_nanos(900_000_000_000));
    meter.give_back(1000);
    assert_eq!(meter.due(0), Timestamp::ZERO);
}

#[test]
fn the_largest_rates_and_the_smallest_do_not_overflow() {
    for rate in [
        Rate::new(1),
        Rate::new(Rate::MAX),
        Rate::new(1).with_burst(Rate::MAX, Rate::LENGTH_MS_MAX),
    ] {
        let mut meter = Meter::new(rate);
        meter.drain(Timestamp::ZERO);
        for _ in 0..10 {
            meter.take(u64::MAX);
        }
        assert!(meter.due(u64::MAX) > Timestamp::ZERO);
        meter.drain(Timestamp::from_nanos(u64::MAX));
        assert!(meter.span(u64::MAX).as_nanos() > 0);
        meter.retune(Rate::new(7), true);
        meter.give_back(u64::MAX);
    }
}
