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

/// One turn of a device: it frees some of what it has in flight, then asks until it is told no.
#[derive(Clone, Copy, Debug)]
struct Step {
    device: u32,
    frees: usize,
    sectors: u64,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (0..4u32, 0..6usize, prop_oneof![Just(8), 1..256u64]);
    prop::collection::vec(
        step.prop_map(|(device, frees, sectors)| Step { device, frees, sectors }),
        200..600,
    )
}

fn ended_by(in_flight: &mut Vec<Head>, frees: usize) -> Vec<Head> {
    in_flight.drain(..frees.min(in_flight.len())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// All devices always have more to do. After each turn in which something was freed all of them ask, in an order that is
    /// never the same. Nobody is ever further from its share than the contract says, and no place is left empty.
    #[test]
    fn shares_are_those_of_a_fluid(
        steps in steps(),
        weights in prop::collection::vec(1..10_000u16, 4),
        depth in 1..20u32,
    ) {
        let mut rounds = rounds(depth, &weights);
        let mut in_flight = [const { Vec::new() }; 4];
        let mut spent = [0.0; 4];
        for Step { device: first, frees, sectors } in steps {
            let head = read(sectors);
            let ended = ended_by(&mut in_flight[first as usize], frees);
            ended.iter().for_each(|head| rounds.free(DeviceId(first), head));
            for device in (first..4).chain(0..first) {
                while ask(&mut rounds, device, &head) == Verdict::Go {
                    in_flight[device as usize].push(head);
                    spent[device as usize] += (16.0 + sectors as f64 / 2.0) / f64::from(weights[device as usize]);
                }
            }
            prop_assert_eq!(in_flight.iter().map(Vec::len).sum::<usize>(), depth as usize);
            let heaviest = f64::from(*weights.iter().max().unwrap());
            let lightest = f64::from(*weights.iter().min().unwrap());
            let most = 2.0 * f64::from(depth) * 20.0 / heaviest + f64::from(depth + 2) * 144.0 / lightest;
            let (least, best) = spent.iter().fold((f64::MAX, 0.0f64), |(least, best), one| (least.min(*one), best.max(*one)));
            prop_assert!(best - least <= most, "{:?}, not {most} apart", spent);
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
