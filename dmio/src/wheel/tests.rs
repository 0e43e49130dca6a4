//! The wheel against a list of deadlines that is searched from end to end.

use std::time::Duration;

use iomgr_core::Timestamp;
use proptest::prelude::*;

use super::{TICK_SHIFT, Wheel};

const KEYS: u32 = 8;
const TICK: u64 = 1 << TICK_SHIFT;

/// What is done to both.
#[derive(Clone, Debug)]
enum Step {
    Arm(u32, Duration),
    Disarm(u32),
    /// Time passes.
    Pass(Duration),
    /// Time passes until the wheel wants to be looked at.
    Next,
}

fn far() -> impl Strategy<Value = Duration> {
    // As many near as far ones: a random number of bits.
    (0..64_u32, any::<u64>()).prop_map(|(bits, any)| Duration::from_nanos(any >> bits))
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..KEYS, far()).prop_map(|(key, after)| Step::Arm(key, after)),
        1 => (0..KEYS).prop_map(Step::Disarm),
        1 => far().prop_map(Step::Pass),
        4 => Just(Step::Next),
    ]
}

/// The wheel, and what it should do.
struct Pair {
    wheel: Wheel,
    now: Timestamp,
    /// Deadlines, in the order in which they were armed.
    armed: Vec<(u32, Timestamp)>,
}

impl Pair {
    fn step(&mut self, step: Step) {
        match step {
            Step::Arm(key, after) => {
                self.armed.retain(|(armed, _)| *armed != key);
                self.armed.push((key, self.now + after));
                self.wheel.arm(key, self.now + after);
            }
            Step::Disarm(key) => {
                self.armed.retain(|(armed, _)| *armed != key);
                self.wheel.disarm(key);
            }
            Step::Pass(time) => self.pass(self.now + time),
            Step::Next => match self.wheel.next() {
                Some(next) => self.pass(self.now.max(next)),
                None => assert!(self.armed.is_empty(), "{:?} will never expire", self.armed),
            },
        }
        for key in 0..KEYS {
            let is_armed = self.armed.iter().any(|(armed, _)| *armed == key);
            assert_eq!(self.wheel.is_armed(key), is_armed, "{key}");
        }
    }

    fn pass(&mut self, now: Timestamp) {
        self.now = now;
        while let Some(key) = self.wheel.expire(now) {
            let tick = |(_, deadline): &(u32, Timestamp)| deadline.as_nanos().div_ceil(TICK);
            let first = (0..self.armed.len()).min_by_key(|&place| tick(&self.armed[place]));
            let (expected, deadline) = self.armed.remove(first.expect("it was armed"));
            assert_eq!(key, expected, "by ticks, then as armed");
            assert!(deadline <= now, "{key} is early: {deadline:?} at {now:?}");
        }
        for (key, deadline) in &self.armed {
            let latest = deadline.as_nanos().saturating_add(TICK);
            let is_late = now.as_nanos() >= latest && now.as_nanos() < u64::MAX - TICK;
            assert!(!is_late, "{key} is late: {deadline:?} at {now:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn deadlines_expire_in_order_never_early_and_within_a_tick(steps in prop::collection::vec(step(), 1..200), start in far()) {
        let now = Timestamp::ZERO + start;
        let mut pair = Pair { wheel: Wheel::new(KEYS), now, armed: Vec::new() };
        steps.into_iter().for_each(|step| pair.step(step));
    }

    #[test]
    fn a_far_deadline_is_looked_at_seven_times_at_most(after in far()) {
        let mut wheel = Wheel::new(1);
        wheel.arm(0, Timestamp::ZERO + after);
        for looks in 0.. {
            let next = wheel.next().expect("it is armed");
            if wheel.expire(next).is_some() {
                break;
            }
            prop_assert!(looks < 7);
        }
        prop_assert_eq!(wheel.next(), None);
    }
}
