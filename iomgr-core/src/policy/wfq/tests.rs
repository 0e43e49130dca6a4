//! The rounds alone, against what an ideal fluid would share out; and each corner of the contract.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::grace::GRACE;
use super::rounds::Rounds;
use crate::manager::{DeviceId, Head, Verdict, Wait};
use crate::policy::WfqConfig;
use crate::{Operation, Sector, SectorCount, SectorRange, Timestamp};

const NOW: Timestamp = Timestamp::from_nanos(1_000_000_000);
const FREED: Verdict = Verdict::No(Wait::Freed);

fn head(op: Operation, sectors: u64) -> Head {
    let range = SectorRange::new(Sector(0), SectorCount(sectors)).unwrap();
    Head::new(op, range, Timestamp::ZERO)
}

fn read(sectors: u64) -> Head {
    head(Operation::Read, sectors)
}

/// Rounds of devices with these weights; a request of 4 KiB costs 20.
fn rounds(depth: u32, weights: &[u16]) -> Rounds {
    let names = (0..).map(|n| format!("disk{n}"));
    let mut rounds = Rounds::new(WfqConfig {
        weights: names.clone().zip(weights.iter().copied()).collect(),
        depth,
        ..WfqConfig::default()
    });
    for ((n, name), _) in (0..).zip(names).zip(weights) {
        rounds.start(DeviceId(n), &name);
    }
    rounds
}

fn ask(rounds: &mut Rounds, device: u32, head: &Head) -> Verdict {
    rounds.ask(DeviceId(device), head, NOW)
}

/// As many grants as it gets now.
fn fill(rounds: &mut Rounds, device: u32) -> usize {
    std::iter::from_fn(|| (ask(rounds, device, &read(8)) == Verdict::Go).then_some(())).count()
}

#[test]
fn the_depth_is_for_all_devices_and_never_exceeded() {
    let mut rounds = rounds(3, &[100, 100]);
    assert_eq!((fill(&mut rounds, 0), ask(&mut rounds, 1, &read(8))), (3, FREED));
    rounds.free(DeviceId(0), &read(8));
    assert_eq!((fill(&mut rounds, 1), fill(&mut rounds, 0)), (1, 0));
}

#[test]
fn a_device_alone_is_never_held_below_the_depth() {
    let mut rounds = rounds(16, &[1, 10_000]);
    for _ in 0..1000 {
        assert_eq!(fill(&mut rounds, 0), 16);
        (0..16).for_each(|_| rounds.free(DeviceId(0), &read(8)));
    }
}

#[test]
fn who_was_woken_goes_first_while_it_has_something_left() {
    let mut rounds = rounds(1, &[100, 100]);
    assert_eq!(ask(&mut rounds, 0, &read(8)), Verdict::Go);
    assert_eq!(ask(&mut rounds, 1, &read(8)), FREED);
    assert_eq!(ask(&mut rounds, 0, &read(8)), FREED);
    rounds.free(DeviceId(0), &read(8));
    // Its quantum is spent, so is the other's: a round begins, and the other is to ask.
    assert_eq!(ask(&mut rounds, 0, &read(8)), Verdict::Go);
    rounds.free(DeviceId(0), &read(8));
    assert_eq!(ask(&mut rounds, 0, &read(8)), Verdict::No(Wait::FreedOr(NOW + GRACE)));
    assert_eq!(ask(&mut rounds, 1, &read(8)), Verdict::Go);
}

#[test]
fn who_never_asks_again_holds_the_others_up_once_and_for_a_grace() {
    let mut rounds = rounds(1, &[1, 10_000]);
    assert_eq!(ask(&mut rounds, 0, &read(8)), Verdict::Go);
    assert_eq!(ask(&mut rounds, 1, &read(8)), FREED);
    rounds.free(DeviceId(0), &read(8));
    let verdict = ask(&mut rounds, 0, &read(8));
    assert_eq!(verdict, Verdict::No(Wait::FreedOr(NOW + GRACE)));
    let (id, later) = (DeviceId(0), NOW + GRACE);
    for _ in 0..100 {
        assert_eq!(rounds.ask(id, &read(8), later), Verdict::Go);
        rounds.free(id, &read(8));
    }
}

#[test]
fn who_was_not_heard_of_catches_up_some_of_it() {
    let mut rounds = rounds(1, &[100, 100]);
    assert_eq!(ask(&mut rounds, 0, &read(8)), Verdict::Go);
    assert_eq!(ask(&mut rounds, 1, &read(8)), FREED);
    rounds.free(DeviceId(0), &read(8));
    for later in (0..100).map(|n| NOW + GRACE * n) {
        if rounds.ask(DeviceId(0), &read(8), later) == Verdict::Go {
            rounds.free(DeviceId(0), &read(8));
        }
    }
    let mut caught_up = 0;
    while ask(&mut rounds, 1, &read(8)) == Verdict::Go {
        caught_up += 1;
        assert_eq!(ask(&mut rounds, 0, &read(8)), FREED);
        rounds.free(DeviceId(1), &read(8));
    }
    assert_eq!(caught_up, 5, "four quanta, of a request each, and that of a new round");
}

#[test]
fn a_stopped_device_holds_nobody_up() {
    let mut rounds = rounds(1, &[1, 10_000]);
    assert_eq!(ask(&mut rounds, 0, &read(8)), Verdict::Go);
    assert_eq!(ask(&mut rounds, 1, &read(8)), FREED);
    rounds.free(DeviceId(0), &read(8));
    rounds.stop(DeviceId(1));
    assert_eq!(ask(&mut rounds, 0, &read(8)), Verdict::Go);
}

#[test]
fn what_is_given_back_is_not_spent() {
    let mut rounds = rounds(16, &[100, 100]);
    for _ in 0..1000 {
        assert_eq!(ask(&mut rounds, 0, &read(2048)), Verdict::Go);
        rounds.give_back(DeviceId(0), &read(2048));
    }
    assert_eq!((fill(&mut rounds, 0), fill(&mut rounds, 1)), (16, 0));
    (0..16).for_each(|_| rounds.free(DeviceId(0), &read(8)));
    assert_eq!(
        fill(&mut rounds, 1),
        16,
        "the first one has had its quantum, and no debt holds the other"
    );
}

#[test]
fn a_flush_always_goes() {
    let mut rounds = rounds(1, &[100, 100]);
    assert_eq!(fill(&mut rounds, 0), 1);
    for device in [0, 1] {
        assert_eq!(ask(&mut rounds, device, &head(Operation::Flush, 0)), Verdict::Go);
    }
    rounds.free(DeviceId(0), &head(Operation::Flush, 0));
    assert_eq!(fill(&mut rounds, 0), 0, "it took no place, so it leaves none");
}

#[test]
fn the_most_absurd_requests_and_prices_do_no_harm() {
    let most = head(Operation::Write, u64::MAX >> 9);
    let mut rounds = Rounds::new(WfqConfig {
        weights: BTreeMap::from([("a".into(), 1)]),
        default_weight: 10_000,
        cost_base: u32::MAX,
        cost_per_kib: u32::MAX,
        depth: u32::MAX,
    });
    rounds.start(DeviceId(0), "a");
    rounds.start(DeviceId(1), "b");
    for _ in 0..100 {
        for device in [0, 1] {
            let verdict = ask(&mut rounds, device, &most);
            assert_ne!(verdict, FREED);
            if verdict == Verdict::Go {
                rounds.free(DeviceId(device), &most);
            }
        }
    }
}

/// What happens between two instants: a device's requests end, then all devices ask, this one first.
#[derive(Clone, Copy, Debug)]
struct Step {
    ends: u32,
    frees: usize,
    first: u32,
    sectors: u64,
    /// Requests that the devices without a constant backlog have to do.
    wants: [u32; 2],
}

const SECTORS_MAX: u64 = 255;

fn steps(firsts: impl Strategy<Value = u32>) -> impl Strategy<Value = Vec<Step>> {
    let sectors = prop_oneof![Just(8), 1..=SECTORS_MAX];
    let wants = [0..3u32, 0..3u32];
    let step = (0..4u32, 0..6usize, firsts, sectors, wants);
    let step = step.prop_map(|(ends, frees, first, sectors, wants)| Step {
        ends,
        frees,
        first,
        sectors,
        wants,
    });
    prop::collection::vec(step, 200..1000)
}

/// In an order that is never the same, and in one that always is.
fn histories() -> impl Strategy<Value = Vec<Step>> {
    prop_oneof![steps(0..4u32), (0..4u32).prop_flat_map(|first| steps(Just(first)))]
}

/// Four devices that ask, and what they got.
struct Share {
    rounds: Rounds,
    weights: [u16; 4],
    depth: u32,
    /// Those below always have more to do.
    greedy: u32,
    now: Timestamp,
    in_flight: [Vec<Head>; 4],
    /// What each was granted, divided by its weight.
    spent: [f64; 4],
    /// For each pair, the least and the most that one had got more than the other.
    apart: [[(f64, f64); 4]; 4],
}

impl Share {
    /// All that always have more to do have said so.
    fn new(weights: [u16; 4], depth: u32, greedy: u32) -> Self {
        let mut share = Self {
            rounds: rounds(depth, &weights),
            weights,
            depth,
            greedy,
            now: NOW,
            in_flight: Default::default(),
            spent: [0.0; 4],
            apart: [[(0.0, 0.0); 4]; 4],
        };
        (0..greedy).for_each(|device| _ = share.ask(device, &read(8), &mut { u32::MAX }));
        share.spent = [0.0; 4];
        share
    }

    fn run(&mut self, step: Step) {
        let ended = ended_by(&mut self.in_flight[step.ends as usize], step.frees);
        ended
            .iter()
            .for_each(|head| self.rounds.free(DeviceId(step.ends), head));
        let mut wants = [u32::MAX, u32::MAX, step.wants[0], step.wants[1]];
        wants[..self.greedy as usize].fill(u32::MAX);
        let mut looks: [Option<Timestamp>; 4] = [Some(self.now); 4];
        // Whoever waits for an instant looks then.
        while let Some(now) = looks.iter().flatten().min().copied() {
            self.now = now;
            for device in (step.first..4).chain(0..step.first) {
                let n = device as usize;
                if looks[n].is_some_and(|at| at <= now) {
                    looks[n] = self.ask(device, &read(step.sectors), &mut wants[n]);
                }
            }
        }
        self.measure();
    }

    /// It asks until it has no more to do, or is told no; until when, unless it waits for a free.
    fn ask(&mut self, device: u32, head: &Head, wants: &mut u32) -> Option<Timestamp> {
        while *wants > 0 {
            match self.rounds.ask(DeviceId(device), head, self.now) {
                Verdict::Go => self.granted(device, *head),
                Verdict::No(wait) => return wait.until(),
            }
            *wants -= 1;
        }
        None
    }

    fn granted(&mut self, device: u32, head: Head) {
        let n = device as usize;
        self.in_flight[n].push(head);
        self.spent[n] += cost(head.range.count().0) / f64::from(self.weights[n]);
    }

    fn measure(&mut self) {
        for (one, other) in pairs(self.greedy) {
            let ahead = self.spent[one] - self.spent[other];
            let (least, most) = &mut self.apart[one][other];
            (*least, *most) = (least.min(ahead), most.max(ahead));
        }
    }

    fn in_flight(&self) -> usize {
        self.in_flight.iter().map(Vec::len).sum()
    }

    /// The contract, for any time since these devices have a backlog.
    fn check(&self) -> Result<(), TestCaseError> {
        let heaviest = self.weights.into_iter().max().unwrap();
        let quantum = f64::from(self.depth) * cost(8) / f64::from(heaviest);
        for (one, other) in pairs(self.greedy) {
            let (least, most) = self.apart[one][other];
            let requests = |n: usize| f64::from(self.depth + 1) * cost(SECTORS_MAX) / f64::from(self.weights[n]);
            let bound = 2.0 * quantum + requests(one) + requests(other);
            prop_assert!(
                most - least <= bound,
                "{one} and {other}: {} apart, not {bound}",
                most - least
            );
        }
        Ok(())
    }
}

fn cost(sectors: u64) -> f64 {
    16.0 + sectors as f64 / 2.0
}

fn pairs(devices: u32) -> impl Iterator<Item = (usize, usize)> {
    let devices = devices as usize;
    (0..devices).flat_map(|one| (0..one).map(move |other| (one, other)))
}

fn ended_by(in_flight: &mut Vec<Head>, frees: usize) -> Vec<Head> {
    in_flight.drain(..frees.min(in_flight.len())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Some devices always have more to do: no two of them are ever further apart than the contract says, whoever else comes and
    /// goes. And no place stays empty.
    #[test]
    fn shares_are_those_of_a_fluid(
        history in histories(),
        weights in prop::array::uniform4(1..10_000u16),
        depth in 1..20u32,
        greedy in 2..=4u32,
    ) {
        let mut share = Share::new(weights, depth, greedy);
        for step in history {
            share.run(step);
            prop_assert_eq!(share.in_flight(), depth as usize);
            share.check()?;
        }
    }
}

#[test]
fn what_is_owed_for_flushes_does_not_starve_a_device() {
    let mut rounds = rounds(4, &[100, 100]);
    (0..100_000).for_each(|_| assert_eq!(ask(&mut rounds, 0, &head(Operation::Flush, 0)), Verdict::Go));
    // Nor does it gain by those that are given back.
    let flush = head(Operation::Flush, 0);
    for _ in 0..1000 {
        assert_eq!(ask(&mut rounds, 0, &flush), Verdict::Go);
        rounds.give_back(DeviceId(0), &flush);
    }
    let mut got = [0; 2];
    for _ in 0..200 {
        let granted = [1, 0].map(|device| (device, fill(&mut rounds, device)));
        for (device, granted) in granted {
            got[device as usize] += granted;
            (0..granted).for_each(|_| rounds.free(DeviceId(device), &read(8)));
        }
    }
    assert!(got[0] < got[1] && got[0] * 10 > got[1] * 9, "{got:?}");
}

#[test]
fn the_largest_costs_do_not_overflow_the_smallest_quantum() {
    let mut rounds = rounds(1, &[1, 10_000]);
    let prices = |cost_base, weights: [u16; 2]| WfqConfig {
        weights: (0..).map(|n| format!("disk{n}")).zip(weights).collect(),
        cost_base,
        cost_per_kib: 0,
        depth: 1,
        ..WfqConfig::default()
    };
    rounds.reconfigure(prices(u32::MAX, [1, 10_000]));
    (0..200_000).for_each(|_| assert_eq!(ask(&mut rounds, 0, &head(Operation::Flush, 0)), Verdict::Go));
    rounds.reconfigure(prices(1, [1, 10_000]));
    assert_eq!(ask(&mut rounds, 0, &read(8)), Verdict::Go);
}
