//! `latency`: a protected device keeps its latency, and the others get back what they gave.

use std::collections::BTreeSet;
use std::time::Duration;

use fastrand::Rng;
use iomgr_core::Operation::{Flush, Read, Write};
use iomgr_core::policy::{LatencyConfig, PolicyConfig};

use crate::budget::for_seeds;
use crate::load::Load;
use crate::log::at_ms;
use crate::none::anything_under;
use crate::server::{Service, ServiceTime};
use crate::sim::{Dev, Rules, Sim};

const MS: Duration = Duration::from_millis(1);
const WINDOW_MS: u64 = 100;
const TARGET: Duration = Duration::from_millis(5);

fn config() -> LatencyConfig {
    LatencyConfig {
        protect: BTreeSet::from(["protected".to_owned()]),
        ..LatencyConfig::default()
    }
}

fn latency(config: &LatencyConfig) -> PolicyConfig {
    PolicyConfig::Latency(config.clone())
}

/// A protected device and a noisy one, which is silent yet, on one server.
struct Pair {
    sim: Sim,
    protected: Dev,
    noisy: Dev,
}

impl Pair {
    fn new(seed: u64, config: &LatencyConfig, service: Service, protected: Load, noisy: Load) -> Self {
        let mut sim = Sim::new(seed, Rules::default());
        sim.set(latency(config));
        let server = sim.add_server(service);
        let protected = sim.add("protected", server, protected);
        let noisy = sim.add("noisy", server, noisy);
        sim.turn(noisy, false);
        Self { sim, protected, noisy }
    }

    /// The latency in a window, counted from the start.
    fn p99(&self, window: u64) -> Option<Duration> {
        let span = at_ms(window * WINDOW_MS)..at_ms((window + 1) * WINDOW_MS);
        self.sim.log(self.protected).latency(span, 99)
    }

    /// How many the noisy one starts at the instant at which it begins, and in the millisecond after it.
    fn begin(&mut self) -> usize {
        let begins = self.sim.now();
        self.sim.turn(self.noisy, true);
        self.sim.run_for(MS / 10);
        self.sim.log(self.noisy).started(begins..begins + MS / 20).len()
    }
}

/// One request at a time, of some 200 µs: the depth of the noisy one is the latency of the protected one.
fn one_by_one() -> Service {
    Service {
        time: ServiceTime::Between(MS / 10, MS * 3 / 10),
        ..Service::shared(1, MS)
    }
}

#[test]
fn a_noisy_neighbour_is_quiet_within_five_windows() {
    let mut pair = Pair::new(1, &config(), one_by_one(), Load::open(400), Load::closed(128));
    pair.sim.run_until(at_ms(2000));
    assert_eq!(pair.begin(), 128);
    pair.sim.run_until(at_ms(12_000));
    let noisy = pair.sim.log(pair.noisy).ended(at_ms(3000)..at_ms(12_000)).len();
    assert!(noisy >= 9 * 3500, "{noisy}: there is place for 4600 a second");
    let above: Vec<_> = (20..120).filter(|window| pair.p99(*window).unwrap() > TARGET).collect();
    assert!(above.contains(&20), "it is a noisy one: {above:?}");
    assert!(!above.contains(&25), "five windows were enough: {above:?}");
    assert!(above.len() <= 10, "and it was rarely above after that: {above:?}");
    pair.sim.finish();
}

#[test]
fn depth_is_back_two_seconds_after_the_noise() {
    for window_ms in [10, 100, 250, 1000] {
        let config = LatencyConfig { window_ms, ..config() };
        let mut pair = Pair::new(1, &config, one_by_one(), Load::open(400), Load::closed(128));
        pair.sim.run_until(at_ms(2000));
        pair.begin();
        pair.sim.run_until(at_ms(12_000));
        pair.sim.turn(pair.noisy, false);
        let late = if window_ms > 250 { 2 * u64::from(window_ms) } else { 0 };
        pair.sim.run_until(at_ms(14_000 + late));
        let again = pair.begin();
        assert_eq!(again, 128, "with windows of {window_ms} ms");
        pair.sim.finish();
    }
}

#[test]
fn the_least_depth_is_kept_whatever_the_target() {
    let config = LatencyConfig {
        target_us: 1,
        min_depth: 3,
        ..config()
    };
    let mut pair = Pair::new(1, &config, Service::shared(16, MS), Load::closed(8), Load::closed(64));
    pair.begin();
    pair.sim.run_until(at_ms(1000));
    let before = pair.sim.log(pair.noisy).ends.len();
    pair.sim.run_until(at_ms(2000));
    let in_a_second = pair.sim.log(pair.noisy).ends.len() - before;
    assert!(
        (2995..=3005).contains(&in_a_second),
        "{in_a_second}: three at a time, each for a millisecond"
    );
    pair.sim.finish();
}

#[test]
fn what_never_ends_is_late_too() {
    let slow = Service::shared(1, MS * 20);
    let mut pair = Pair::new(1, &config(), slow, Load::closed(1), Load::closed(128));
    pair.begin();
    pair.sim.run_until(at_ms(20_000));
    let log = pair.sim.log(pair.protected);
    let last = log.ended(at_ms(18_000)..at_ms(20_000));
    assert!(
        last.iter().all(|end| end.at.since(end.head.arrival) <= MS * 60),
        "one of the other before it, at most"
    );
    assert!(last.len() >= 33);
    pair.sim.finish();
}

#[test]
fn the_protected_and_flushes_always_go() {
    let flushing = Load::closed(64).mix(&[(Write, 10), (Flush, 1)]);
    let mut pair = Pair::new(
        1,
        &config(),
        one_by_one(),
        Load::closed(16).mix(&[(Read, 5), (Flush, 1)]),
        flushing,
    );
    pair.begin();
    pair.sim.run_until(at_ms(5000));
    assert!(
        pair.sim
            .log(pair.protected)
            .starts
            .iter()
            .all(|start| start.wait().is_zero())
    );
    let flushes = pair
        .sim
        .log(pair.noisy)
        .starts
        .iter()
        .filter(|start| start.head.op == Flush);
    assert!(flushes.clone().count() > 50);
    assert!(flushes.clone().all(|start| start.wait().is_zero()));
    pair.sim.finish();
}

#[test]
fn other_parameters_count_for_what_waits() {
    let strict = LatencyConfig {
        target_us: 1,
        ..config()
    };
    let mut pair = Pair::new(1, &strict, one_by_one(), Load::open(400), Load::closed(128));
    pair.begin();
    pair.sim.run_until(at_ms(2000));
    let begun = |pair: &Pair| pair.sim.log(pair.noisy).starts.len();
    let few = begun(&pair);
    let deep = LatencyConfig {
        min_depth: 100,
        ..config()
    };
    pair.sim.set(latency(&deep));
    pair.sim.run_until(at_ms(2001));
    assert!(begun(&pair) - few >= 99, "{} more", begun(&pair) - few);
    pair.sim.finish();
}

/// A noisy neighbour comes, of any kind, where the target can be met: then it is, five windows later.
fn noise(seed: u64) -> u64 {
    let mut rng = Rng::with_seed(seed);
    let parallel = rng.usize(1..5);
    let slowest = Duration::from_micros(rng.u64(50..400));
    let service = Service {
        time: ServiceTime::Between(slowest / 2, slowest),
        ..Service::shared(parallel, MS)
    };
    let config = LatencyConfig {
        max_depth: rng.u32(16..256),
        ..config()
    };
    let (queues, depth) = (rng.u32(1..4), rng.u32(32..200));
    let noise = Load::closed(depth).queues(queues).mix(&[(Read, 1), (Write, 1)]);
    let mut pair = Pair::new(
        seed,
        &config,
        service,
        Load::open(rng.u64(300..1000)).queues(rng.u32(1..3)),
        noise,
    );
    let begins = rng.u64(20..30);
    pair.sim.run_until(at_ms(begins * WINDOW_MS + rng.u64(0..WINDOW_MS)));
    pair.begin();
    pair.sim.run_until(at_ms((begins + 12) * WINDOW_MS));
    let above: Vec<_> = (begins..begins + 12)
        .filter(|window| pair.p99(*window).unwrap() > TARGET)
        .collect();
    let met = (begins + 1..=begins + 5).any(|window| !above.contains(&window));
    let after = above.iter().filter(|window| **window > begins + 5).count();
    assert!(met && after <= 2, "{above:?} after {begins}: {config:?}, {service:?}");
    pair.sim.turn(pair.noisy, false);
    pair.sim.run_for(MS * 2000);
    let depth = config.max_depth.min(depth * queues);
    assert!(pair.begin() >= depth as usize, "{depth}");
    pair.sim.finish()
}

fn any_config(rng: &mut Rng) -> PolicyConfig {
    let min_depth = rng.u32(1..20);
    latency(&LatencyConfig {
        protect: (0..rng.u32(1..4)).map(|n| format!("disk{n}")).collect(),
        target_us: rng.u32(1..20_000),
        window_ms: rng.u32(10..200),
        min_depth,
        max_depth: min_depth + rng.u32(0..100),
    })
}

const KEPT: &[u64] = &[13_019_268_498_537_257_147];

#[test]
fn anything_goes_on_beside_the_protected() {
    for_seeds("anything_goes_on_beside_the_protected", KEPT, |seed| {
        anything_under(seed, any_config) + noise(seed)
    });
}
