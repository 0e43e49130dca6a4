//! `wfq`: shares in proportion to weights, nothing wasted, nobody held up by who is gone.

use std::collections::BTreeMap;
use std::time::Duration;

use fastrand::Rng;
use iomgr_core::Operation;
use iomgr_core::policy::{PolicyConfig, WfqConfig};

use crate::budget::for_seeds;
use crate::load::Load;
use crate::log::{at_ms, jain};
use crate::none::any_sim;
use crate::server::{Service, ServiceTime};
use crate::sim::{Dev, Rules, Sim};

const MS: Duration = Duration::from_millis(1);
/// When shares are measured: not in the first round.
const SETTLED_MS: u64 = 1000;

fn weights(weights: &[(&str, u16)]) -> WfqConfig {
    WfqConfig {
        weights: weights
            .iter()
            .map(|(name, weight)| ((*name).to_owned(), *weight))
            .collect(),
        ..WfqConfig::default()
    }
}

fn wfq(config: &WfqConfig) -> PolicyConfig {
    PolicyConfig::Wfq(config.clone())
}

/// What the requests that `dev` started cost in this time.
fn cost(sim: &Sim, dev: Dev, config: &WfqConfig, from_ms: u64, to_ms: u64) -> f64 {
    let started = sim.log(dev).started(at_ms(from_ms)..at_ms(to_ms));
    let base = u64::from(config.cost_base) * started.len() as u64;
    let bytes: u64 = started.iter().map(|start| start.head.range.len_bytes()).sum();
    base as f64 + bytes as f64 / 1024.0 * f64::from(config.cost_per_kib)
}

/// "No" is said at most twice a class, queue and request that ended, and once more a grace.
fn assert_no_storm(sim: &Sim, queues: u64) {
    let counters = sim.governor.registry().counters();
    let (asked, most) = (counters.ngs.total(), counters.grants * queues * 4);
    assert!(
        asked <= most,
        "{asked} times no for {} grants, {queues} queues",
        counters.grants
    );
}

/// Runs two devices, of weight 300 and 100, and says how the costs of what they did compare.
fn three_to_one(service: Service, heavy: Load, light: Load) -> f64 {
    let config = weights(&[("heavy", 300), ("light", 100)]);
    let mut sim = Sim::under(1, wfq(&config));
    let server = sim.add_server(service);
    let queues = u64::from(heavy.queues + light.queues);
    let heavy = sim.add("heavy", server, heavy);
    let light = sim.add("light", server, light);
    sim.run_until(at_ms(20_000));
    assert!(sim.in_flight_max() <= 16);
    assert_no_storm(&sim, queues);
    let cost = |dev| cost(&sim, dev, &config, SETTLED_MS, 20_000);
    let ratio = cost(heavy) / cost(light);
    sim.finish();
    ratio
}

fn assert_three(ratio: f64) {
    assert!((2.97..=3.03).contains(&ratio), "{ratio}");
}

#[test]
fn weights_three_to_one_share_so() {
    assert_three(three_to_one(
        Service::shared(16, MS),
        Load::closed(64),
        Load::closed(64),
    ));
}

#[test]
fn shares_hold_when_service_times_vary() {
    let random = Service {
        time: ServiceTime::Random(MS),
        ..Service::shared(8, MS)
    };
    assert_three(three_to_one(random, Load::closed(32), Load::closed(32)));
}

#[test]
fn shares_are_of_cost() {
    let large = Load::closed(32).bytes(512..=1 << 20);
    let service = Service {
        per_kib: Duration::from_nanos(500),
        ..Service::shared(16, MS / 10)
    };
    assert_three(three_to_one(service, large, Load::closed(64)));
}

#[test]
fn all_queues_of_a_device_share_its_quantum() {
    let light = Load::closed(32).queues(3);
    assert_three(three_to_one(Service::shared(16, MS), Load::closed(64), light));
    let mix = [(Operation::Read, 2), (Operation::Write, 1)];
    let heavy = Load::closed(64).mix(&mix).queues(2);
    let light = Load::closed(64).mix(&mix);
    assert_three(three_to_one(Service::shared(16, MS / 10), heavy, light));
}

#[test]
fn eight_devices_of_one_weight_get_the_same() {
    let mut sim = Sim::under(1, wfq(&WfqConfig::default()));
    let server = sim.add_server(Service::shared(16, MS));
    let devices: Vec<_> = (1..=8)
        .map(|n| sim.add(&format!("disk{n}"), server, Load::closed(16 * n)))
        .collect();
    sim.run_until(at_ms(10_000));
    let count = |dev: &Dev| sim.log(*dev).started(at_ms(SETTLED_MS)..at_ms(10_000)).len() as f64;
    let index = jain(&devices.iter().map(count).collect::<Vec<_>>());
    assert!(index >= 0.999, "{index}");
    assert_no_storm(&sim, 8);
    sim.finish();
}

/// How many requests these loads get through in 5 s, on a server that takes 16 at a time.
fn throughput(policy: PolicyConfig, time: ServiceTime, loads: &[Load]) -> f64 {
    let mut sim = Sim::under(1, policy);
    let server = sim.add_server(Service {
        time,
        ..Service::shared(16, MS)
    });
    let devices: Vec<_> = (0..)
        .zip(loads)
        .map(|(n, load)| sim.add(&format!("disk{n}"), server, load.clone()))
        .collect();
    sim.run_until(at_ms(5000));
    let total: usize = devices.iter().map(|dev| sim.log(*dev).ends.len()).sum();
    sim.finish();
    total as f64
}

#[test]
fn what_is_shared_is_all_there_is() {
    let names: BTreeMap<String, u16> = (0..4).map(|n| (format!("disk{n}"), [1, 10, 100, 1000][n])).collect();
    let config = WfqConfig {
        weights: names,
        ..WfqConfig::default()
    };
    let busy = vec![Load::closed(64); 4];
    let phased = Load::closed(64).phases(MS * 7, MS * 11);
    let mixed = vec![Load::closed(32), phased, Load::open(3000), Load::closed(2).queues(2)];
    for time in [
        ServiceTime::Always(MS),
        ServiceTime::Random(MS),
        ServiceTime::Always(MS / 20),
    ] {
        for loads in [&busy, &mixed] {
            let all = throughput(PolicyConfig::None, time, loads);
            let shared = throughput(wfq(&config), time, loads);
            assert!(shared >= 0.97 * all, "{shared} of {all}: {time:?}, {loads:?}");
        }
    }
}

#[test]
fn a_new_weight_counts_for_what_waits() {
    let mut sim = Sim::under(1, wfq(&weights(&[("a", 100), ("b", 100)])));
    let server = sim.add_server(Service::shared(16, MS));
    let (a, b) = (
        sim.add("a", server, Load::closed(256)),
        sim.add("b", server, Load::closed(256)),
    );
    sim.run_until(at_ms(2000));
    let config = weights(&[("a", 100), ("b", 900)]);
    sim.set(wfq(&config));
    sim.run_until(at_ms(4000));
    let cost = |dev| cost(&sim, dev, &config, 2010, 4000);
    let ratio = cost(b) / cost(a);
    assert!((8.9..=9.1).contains(&ratio), "{ratio}");
    sim.finish();
}

#[test]
fn who_went_away_holds_nobody_up() {
    for depth in [1, 2, 16] {
        let config = WfqConfig {
            depth,
            ..weights(&[("gone", 10_000), ("left", 1)])
        };
        let mut sim = Sim::under(1, wfq(&config));
        let server = sim.add_server(Service::shared(4, MS));
        let gone = sim.add("gone", server, Load::closed(64));
        let left = sim.add("left", server, Load::closed(64));
        sim.run_until(at_ms(1000));
        sim.detach(gone);
        sim.run_until(at_ms(1010));
        let count = sim.log(left).started(at_ms(1005)..at_ms(1010)).len();
        assert!(count >= 4 * depth.min(4) as usize, "{count} at depth {depth}");
        assert!(sim.log(gone).handed_back > 0);
        sim.finish();
    }
}

#[test]
fn flushes_always_go() {
    let mut sim = Sim::under(1, wfq(&WfqConfig::default()));
    let server = sim.add_server(Service::shared(16, MS * 100));
    sim.add("busy", server, Load::closed(64));
    let disk = Sim::add_server(&mut sim, Service::constant(MS));
    let flushing = sim.add("flushing", disk, Load::open(100).mix(&[(Operation::Flush, 1)]));
    sim.run_until(at_ms(2000));
    let starts = &sim.log(flushing).starts;
    assert!(starts.len() >= 198);
    assert!(starts.iter().all(|start| start.wait().is_zero()));
    sim.finish();
}

fn any_config(rng: &mut Rng) -> WfqConfig {
    let shift = rng.u32(0..14);
    let mut weight = || (rng.u16(1..=10_000) >> shift).max(1);
    WfqConfig {
        weights: (0..3).map(|n| (format!("disk{n}"), weight())).collect(),
        default_weight: rng.u16(1..=10_000),
        cost_base: rng.u32(1..100),
        cost_per_kib: rng.u32(0..10),
        depth: rng.u32(1..40),
    }
}

/// Devices that always have more to do than the depth: any weights, sizes, queues and times of service.
fn shares_of_busy_devices(seed: u64) -> u64 {
    let mut rng = Rng::with_seed(seed);
    let config = any_config(&mut rng);
    let mut sim = Sim::new(
        seed,
        Rules {
            pass: Duration::from_micros(rng.u64(0..5)),
            ..Rules::default()
        },
    );
    sim.set(wfq(&config));
    let server = sim.add_server(Service {
        parallel: rng.usize(1..40),
        ..Service::random(&mut rng)
    });
    let devices: Vec<_> = (0..rng.u32(2..5))
        .map(|n| {
            let load = Load::closed(config.depth * 2 + 2)
                .queues(rng.u32(1..3))
                .bytes(512..=1 << rng.u32(9..18));
            sim.add(&format!("disk{n}"), server, load)
        })
        .collect();
    sim.run_until(at_ms(2000));
    let weight = |n: usize| {
        f64::from(
            *config
                .weights
                .get(&format!("disk{n}"))
                .unwrap_or(&config.default_weight),
        )
    };
    let heaviest = (0..devices.len()).map(weight).fold(0.0, f64::max);
    let quantum = f64::from(config.depth * (config.cost_base + 4 * config.cost_per_kib)) / heaviest;
    let request = f64::from(config.cost_base + config.cost_per_kib * 128);
    let share = |n: usize| cost(&sim, devices[n], &config, 0, 2000) / weight(n);
    for (one, other) in (0..devices.len()).flat_map(|one| (0..one).map(move |other| (one, other))) {
        let most = 2.0 * quantum + f64::from(config.depth + 2) * request / weight(one).min(weight(other));
        let off = (share(one) - share(other)).abs();
        assert!(off <= most, "{one} and {other} are {off} apart, not {most}: {config:?}");
    }
    sim.finish()
}

#[test]
fn anything_goes_on_under_wfq() {
    for_seeds(
        "anything_goes_on_under_wfq",
        &[737_557_228_354_323_160, 3_950_183_641_744_236_480],
        |seed| {
            let mut rng = Rng::with_seed(seed);
            let (mut sim, devices) = any_sim(seed);
            sim.set(wfq(&any_config(&mut rng)));
            sim.run_for(MS * rng.u32(1..400));
            sim.set(wfq(&any_config(&mut rng)));
            sim.run_for(MS * rng.u32(1..400));
            if rng.bool() {
                sim.detach(devices[0]);
            }
            sim.run_for(MS * 300);
            sim.finish() + shares_of_busy_devices(seed)
        },
    );
}
