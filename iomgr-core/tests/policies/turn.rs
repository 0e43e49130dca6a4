//! `turn`: so many requests of each in a turn, and nobody waits for who has nothing to do.

use std::time::Duration;

use fastrand::Rng;
use iomgr_core::Timestamp;
use iomgr_core::policy::{PolicyConfig, TurnConfig};

use crate::budget::for_seeds;
use crate::load::Load;
use crate::log::at_ms;
use crate::none::anything_under;
use crate::server::{Service, ServiceTime};
use crate::sim::{Dev, Rules, Sim};

const MS: Duration = Duration::from_millis(1);

fn turn(share: u32, turn_ms: u32) -> PolicyConfig {
    PolicyConfig::Turn(TurnConfig { share, turn_ms })
}

/// By how much the lead of one device over the other changes at most, from 100 ms on.
fn sway(sim: &Sim, one: Dev, other: Dev, end: Timestamp) -> i64 {
    let starts = |dev, by: i64| {
        sim.log(dev)
            .started(at_ms(100)..end)
            .iter()
            .map(move |start| (start.at, by))
    };
    let mut steps: Vec<(Timestamp, i64)> = starts(one, 1).chain(starts(other, -1)).collect();
    steps.sort_by_key(|step| step.0);
    let (mut lead, mut least, mut most) = (0, 0, 0);
    for instant in steps.chunk_by(|one, other| one.0 == other.0) {
        lead += instant.iter().map(|step| step.1).sum::<i64>();
        least = least.min(lead);
        most = most.max(lead);
    }
    most - least
}

/// Devices that always wait: with exactly `share` each in a turn, none can get further ahead than a turn.
fn turns_of_busy_devices(seed: u64) -> u64 {
    let mut rng = Rng::with_seed(seed);
    let share = rng.u32(1..50);
    let mut sim = Sim::new(seed, Rules::default());
    sim.set(turn(share, 100_000));
    let server = sim.add_server(Service {
        parallel: rng.usize(1..40),
        time: ServiceTime::Random(MS),
        per_kib: Duration::ZERO,
    });
    let mut busy = |n: u32| {
        let load = Load::closed(share * 2 + rng.u32(2..60)).queues(rng.u32(1..4));
        sim.add(&format!("disk{n}"), server, load)
    };
    let devices = [busy(0), busy(1), busy(2)];
    let end = at_ms(2000);
    sim.run_until(end);
    for (one, other) in [(0, 1), (1, 2), (2, 0)] {
        let sway = sway(&sim, devices[one], devices[other], end);
        assert!(sway <= 2 * i64::from(share), "{sway}, with a share of {share}");
    }
    sim.finish()
}

#[test]
fn a_lone_busy_device_loses_nothing() {
    let throughput = |policy| {
        let mut sim = Sim::under(1, policy);
        let server = sim.add_server(Service::shared(16, MS));
        let was_busy = sim.add("was-busy", server, Load::closed(64));
        let idle = sim.add("idle", server, Load::closed(64));
        sim.turn(idle, false);
        let lone = sim.add("lone", server, Load::closed(64));
        sim.run_until(at_ms(1000));
        sim.turn(was_busy, false);
        sim.run_until(at_ms(10_000));
        let count = sim.log(lone).ended(at_ms(1200)..at_ms(10_000)).len();
        sim.finish();
        count as f64
    };
    let (alone, all) = (throughput(turn(8, 100)), throughput(PolicyConfig::None));
    assert!(alone >= 0.99 * all, "{alone} of {all}");
}

#[test]
fn who_has_little_to_do_gets_it_done_at_once() {
    let mut sim = Sim::under(1, turn(8, 100));
    let server = sim.add_server(Service::shared(16, MS));
    let few = sim.add("few", server, Load::open(100));
    let many = sim.add("many", server, Load::closed(256));
    sim.run_until(at_ms(5000));
    assert!(sim.log(few).starts.iter().all(|start| start.wait().is_zero()));
    let count = sim.log(many).ended(at_ms(0)..at_ms(5000)).len();
    assert!(count >= 76_000, "{count}, where there is place for 80 000 of both");
    sim.finish();
}

#[test]
fn who_went_away_holds_a_turn_up_for_its_time_at_most() {
    let mut sim = Sim::under(1, turn(8, 20));
    let server = sim.add_server(Service::shared(4, MS));
    let gone = sim.add("gone", server, Load::closed(64));
    let left = sim.add("left", server, Load::closed(64));
    sim.run_until(at_ms(1000));
    sim.detach(gone);
    sim.run_until(at_ms(3000));
    let count = sim.log(left).ended(at_ms(1100)..at_ms(3000)).len();
    assert!(count >= 4 * 1899, "{count}");
    sim.finish();
}

#[test]
fn anything_goes_on_in_turns() {
    for_seeds("anything_goes_on_in_turns", &[], |seed| {
        let any_config = |rng: &mut Rng| turn(1 << rng.u32(0..8), 1 << rng.u32(0..10));
        anything_under(seed, any_config) + turns_of_busy_devices(seed)
    });
}
