//! `turn`: devices take turns of so many requests.
//!
//! In a turn each device may start `share` reads and writes. The turn is over when every device that has work has started
//! as many, or when its time is; then the next begins, for all of them. A device has work when it was told no and got no
//! grant since, or when requests of it are in flight and it asked in this turn or the one before: one that has both behind it
//! is idle, and nobody waits for it.
//!
//! # Parameters
//! - `share`: requests of a device in one turn, from 1.
//! - `turn-ms`: milliseconds that a turn lasts at most, from 1.
//!
//! # Contract
//! - No device starts more than `share` in a turn, and each that waits all the time starts exactly as many.
//! - While only one device has work it waits for nobody.
//! - A device that has work but does not start it, because its frontend is busy or gone, holds a turn up to its end; gone for
//!   a whole turn, it has no work any more.
//! - Flushes always go and are not counted, though a flush in flight is work.
//! - New parameters count at once: requests that were started in this turn count against the new share.
//!
//! # Cancellation
//! What is given back was not started in this turn, unless that turn is over already.
//!
//! # References
//! The sample that came with the I/O request manager for Xen (S. Uchida, xen-devel, July 2007) let devices take turns.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::config::{BadConfig, at_least};
use super::per_device::PerDevice;
use super::{Policy, PolicyConfig, PolicyName};
use crate::manager::{DeviceId, DeviceInfo, Head, Manager, Refusal, Verdict, Wait};
use crate::{Class, Timestamp};

/// `turn`: N requests for each device and turn.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct TurnConfig {
    /// Requests of a device in one turn, from 1.
    pub share: u32,
    /// Milliseconds that a turn lasts at most, from 1.
    pub turn_ms: u32,
}

impl Default for TurnConfig {
    fn default() -> Self {
        Self {
            share: 32,
            turn_ms: 100,
        }
    }
}

impl TurnConfig {
    pub(super) fn check(&self) -> Result<(), BadConfig> {
        at_least(1, [("share", self.share), ("turn-ms", self.turn_ms)])
    }
}

/// See the [module's page](self).
#[derive(Debug)]
pub(super) struct Turn(Mutex<Turns>);

/// The current turn, and how far each device is in it.
#[derive(Debug)]
struct Turns {
    config: TurnConfig,
    devices: PerDevice<Player>,
    /// Counts turns, from 1.
    turn: u64,
    begun: Timestamp,
}

/// A device.
#[derive(Debug, Default)]
struct Player {
    /// The last turn in which it asked.
    turn: u64,
    /// What it started in that one.
    used: u32,
    in_flight: u32,
    /// The classes that were told no and got no grant since.
    held: u8,
}

impl Turn {
    pub(super) fn new(config: TurnConfig) -> Self {
        Self(Mutex::new(Turns {
            config,
            devices: PerDevice::default(),
            turn: 1,
            begun: Timestamp::ZERO,
        }))
    }

    /// No hook leaves the turns half changed, so poison means nothing.
    fn lock(&self) -> MutexGuard<'_, Turns> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Policy for Turn {
    fn config(&self) -> PolicyConfig {
        PolicyConfig::Turn(self.lock().config.clone())
    }

    fn reconfigure(&self, config: &PolicyConfig) -> bool {
        match config {
            PolicyConfig::Turn(config) => self.lock().config = config.clone(),
            _ => return false,
        }
        true
    }
}

impl Manager for Turn {
    fn name(&self) -> &str {
        PolicyName::Turn.as_str()
    }

    fn dev_start(&self, device: &DeviceInfo) -> Result<(), Refusal> {
        self.lock().devices.insert(device.id(), Player::default());
        Ok(())
    }

    fn allow_request(&self, device: &DeviceInfo, head: &Head, now: Timestamp) -> Verdict {
        self.lock().ask(device.id(), head, now)
    }

    fn oo_abort_request(&self, device: &DeviceInfo, head: &Head, _: Timestamp) {
        let mut turns = self.lock();
        let turn = turns.turn;
        let player = turns.devices.of(device.id());
        player.in_flight -= 1;
        if player.turn == turn && !is_flush(head) {
            player.used = player.used.saturating_sub(1);
        }
    }

    fn free_request(&self, device: &DeviceInfo, _: &Head, _: Timestamp) {
        self.lock().devices.of(device.id()).in_flight -= 1;
    }

    fn dev_stop(&self, device: &DeviceInfo) {
        self.lock().devices.remove(device.id());
    }
}

impl Turns {
    /// May this request go?
    fn ask(&mut self, id: DeviceId, head: &Head, now: Timestamp) -> Verdict {
        if is_flush(head) {
            // It asks in this turn, whatever is left of it.
            self.left_of(id);
            self.devices.of(id).in_flight += 1;
            return Verdict::Go;
        }
        let end = self.begun + Duration::from_millis(self.config.turn_ms.into());
        if now >= end || (self.left_of(id) == 0 && !self.others_have_work(id)) {
            self.begin(now);
        }
        let left = self.left_of(id);
        let player = self.devices.of(id);
        let class = 1 << head.class.index();
        if left == 0 {
            player.held |= class;
            return Verdict::No(Wait::FreedOr(end));
        }
        player.held &= !class;
        player.used += 1;
        player.in_flight += 1;
        Verdict::Go
    }

    /// What a device that asks may start yet in this turn.
    fn left_of(&mut self, id: DeviceId) -> u32 {
        let (turn, share) = (self.turn, self.config.share);
        let player = self.devices.of(id);
        if player.turn != turn {
            player.turn = turn;
            player.used = 0;
        }
        player.left(turn, share)
    }

    fn others_have_work(&mut self, id: DeviceId) -> bool {
        let (turn, share) = (self.turn, self.config.share);
        self.devices
            .others(id)
            .any(|other| other.has_work(turn) && other.left(turn, share) > 0)
    }

    fn begin(&mut self, now: Timestamp) {
        let turn = self.turn;
        for absent in self.devices.iter_mut().filter(|player| player.turn != turn) {
            absent.held = 0;
        }
        self.turn += 1;
        self.begun = now;
    }
}

impl Player {
    /// Whose requests last for turns (its storage is slow, or it is paused) may be waited for in vain.
    fn has_work(&self, turn: u64) -> bool {
        self.held != 0 || (self.in_flight > 0 && self.turn + 1 >= turn)
    }

    fn left(&self, turn: u64, share: u32) -> u32 {
        match self.turn == turn {
            true => share.saturating_sub(self.used),
            false => share,
        }
    }
}

fn is_flush(head: &Head) -> bool {
    head.class == Class::Other
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Operation, SectorRange};

    const READ: Operation = Operation::Read;

    fn turns(share: u32, devices: u32) -> Turns {
        let policy = Turn::new(TurnConfig { share, turn_ms: 100 });
        let mut turns = policy.0.into_inner().unwrap();
        (0..devices).for_each(|n| turns.devices.insert(DeviceId(n), Player::default()));
        turns
    }

    fn ms(ms: u64) -> Timestamp {
        Timestamp::from_nanos(ms * 1_000_000)
    }

    fn ask(turns: &mut Turns, device: u32, now: Timestamp) -> Verdict {
        turns.ask(DeviceId(device), &Head::new(READ, SectorRange::default(), now), now)
    }

    /// How many it gets now, of at most `most`.
    fn fill(turns: &mut Turns, device: u32, most: usize) -> usize {
        (0..most)
            .take_while(|_| ask(turns, device, ms(1)) == Verdict::Go)
            .count()
    }

    #[test]
    fn all_who_wait_start_their_share_and_no_more() {
        let mut turns = turns(5, 3);
        fill(&mut turns, 0, 1);
        fill(&mut turns, 1, 1);
        assert_eq!(
            (fill(&mut turns, 0, 100), fill(&mut turns, 1, 100)),
            (4, 9),
            "the last one begins a turn"
        );
        for _ in 0..10 {
            assert_eq!(
                fill(&mut turns, 0, 100),
                10,
                "the rest of this turn, and the next, which it begins"
            );
            assert_eq!(fill(&mut turns, 1, 100), 10);
        }
        assert_eq!(
            fill(&mut turns, 2, 3),
            3,
            "who had no work until now is in this turn as all are"
        );
    }

    #[test]
    fn a_lone_device_waits_for_nobody() {
        let mut turns = turns(5, 3);
        assert_eq!(fill(&mut turns, 1, 10_000), 10_000);
    }

    #[test]
    fn who_has_become_idle_is_not_waited_for() {
        let mut turns = turns(5, 2);
        assert_eq!((fill(&mut turns, 1, 2), fill(&mut turns, 0, 100)), (2, 5));
        turns.devices.of(DeviceId(1)).in_flight -= 2;
        assert_eq!(fill(&mut turns, 0, 100), 100);
    }

    #[test]
    fn a_turn_ends_with_its_time() {
        let mut turns = turns(5, 2);
        assert_eq!(ask(&mut turns, 1, ms(200)), Verdict::Go);
        assert_eq!(turns.begun, ms(200));
        while ask(&mut turns, 0, ms(200)) == Verdict::Go {}
        assert_eq!(ask(&mut turns, 0, ms(299)), Verdict::No(Wait::FreedOr(ms(300))));
        assert_eq!(ask(&mut turns, 0, ms(300)), Verdict::Go);
        assert_eq!(turns.devices.of(DeviceId(1)).left(turns.turn, 5), 5);
    }

    #[test]
    fn who_is_gone_for_a_turn_has_no_work() {
        let mut turns = turns(5, 2);
        fill(&mut turns, 0, 1);
        fill(&mut turns, 1, 1);
        fill(&mut turns, 0, 100);
        turns.devices.of(DeviceId(1)).held = 1;
        turns.devices.of(DeviceId(1)).in_flight = 0;
        assert_eq!(
            ask(&mut turns, 0, ms(100)),
            Verdict::Go,
            "a turn, of which it may be part"
        );
        fill(&mut turns, 0, 100);
        assert_ne!(ask(&mut turns, 0, ms(199)), Verdict::Go);
        assert_eq!(ask(&mut turns, 0, ms(200)), Verdict::Go);
        assert_eq!(fill(&mut turns, 0, 1000), 1000);
    }

    #[test]
    fn whose_requests_last_for_turns_is_not_waited_for() {
        let mut turns = turns(5, 2);
        fill(&mut turns, 0, 1);
        fill(&mut turns, 1, 1);
        fill(&mut turns, 0, 100);
        assert_eq!(ask(&mut turns, 0, ms(100)), Verdict::Go, "a turn, in which it may end");
        fill(&mut turns, 0, 100);
        assert_ne!(ask(&mut turns, 0, ms(199)), Verdict::Go);
        assert_eq!(ask(&mut turns, 0, ms(200)), Verdict::Go);
        assert_eq!(fill(&mut turns, 0, 1000), 1000);
    }

    /// A device wants so much, another sees three requests end, and so many milliseconds go by.
    fn steps() -> impl Strategy<Value = Vec<(u32, usize, u32, u64)>> {
        prop::collection::vec((2..4u32, 0..9usize, 0..4u32, 0..3u64), 1..300)
    }

    /// What each device started in the current turn.
    #[derive(Default)]
    struct Counted {
        started: [u32; 4],
        turns: u32,
    }

    impl Counted {
        /// Asks as often as a device wants, or until it is told no; what a turn ends with is right.
        fn fill(&mut self, turns: &mut Turns, device: u32, most: usize, now: Timestamp) {
            for _ in 0..most {
                let (turn, end) = (turns.turn, turns.begun + Duration::from_millis(100));
                let verdict = ask(turns, device, now);
                if turns.turn != turn {
                    let share = turns.config.share;
                    let by_time = now >= end;
                    assert!(
                        by_time || self.turns < 2 || self.started[..2] == [share; 2],
                        "{:?}",
                        self.started
                    );
                    self.turns += 1;
                    self.started = [0; 4];
                }
                if verdict != Verdict::Go {
                    return;
                }
                self.started[device as usize] += 1;
                assert!(self.started[device as usize] <= turns.config.share);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

        /// Two devices always want more, two want something now and then.
        #[test]
        fn every_turn_has_exactly_the_shares_of_who_waits(steps in steps(), share in 1..10u32) {
            let (mut turns, mut counted, mut now) = (turns(share, 4), Counted::default(), ms(1000));
            counted.fill(&mut turns, 0, 1, now);
            counted.fill(&mut turns, 1, 1, now);
            for (device, wanted, ended, later) in steps {
                counted.fill(&mut turns, 0, usize::MAX, now);
                counted.fill(&mut turns, device, wanted, now);
                counted.fill(&mut turns, 1, usize::MAX, now);
                let player = turns.devices.of(DeviceId(ended));
                player.in_flight = player.in_flight.saturating_sub(3);
                now = now + Duration::from_millis(later);
            }
            prop_assert!(counted.turns > 0);
        }
    }
}
