//! `deadline`: bounded waits, reads first, writes not starved.

use std::time::Duration;

use fastrand::Rng;
use iomgr_core::Operation::{self, Flush, Read, Write};
use iomgr_core::Timestamp;
use iomgr_core::policy::{DeadlineConfig, PolicyConfig};

use crate::budget::for_seeds;
use crate::load::{Arrivals, Load};
use crate::log::at_ms;
use crate::none::anything_under;
use crate::server::{Service, ServiceTime};
use crate::sim::{Dev, Rules, Sim};

const MS: Duration = Duration::from_millis(1);
/// Two threads that wait for each other do so for a grace each.
const GRACES: Duration = Duration::from_millis(2);

/// Reads have 100 ms, writes 400; 16 places.
fn config() -> DeadlineConfig {
    DeadlineConfig {
        read_expire_ms: 100,
        write_expire_ms: 400,
        ..DeadlineConfig::default()
    }
}

fn deadline(config: &DeadlineConfig) -> PolicyConfig {
    PolicyConfig::Deadline(config.clone())
}

fn expire(config: &DeadlineConfig, op: Operation) -> Duration {
    match op.is_write() {
        true => MS * config.write_expire_ms,
        false => MS * config.read_expire_ms,
    }
}

/// How much longer than its time any request waited.
fn late(sim: &Sim, devices: &[Dev], config: &DeadlineConfig) -> Duration {
    let starts = devices.iter().flat_map(|dev| &sim.log(*dev).starts);
    let late = starts.map(|start| start.wait().saturating_sub(expire(config, start.head.op)));
    late.max().unwrap()
}

fn count(sim: &Sim, dev: Dev, op: Operation, from: Timestamp, to: Timestamp) -> usize {
    sim.log(dev)
        .started(from..to)
        .iter()
        .filter(|start| start.head.op == op)
        .count()
}

/// Any devices, with seven tenths of what the server can do to do in all.
fn feasible(seed: u64) -> u64 {
    let mut rng = Rng::with_seed(seed);
    let config = DeadlineConfig {
        fifo_batch: rng.u32(1..40),
        writes_starved: rng.u32(1..5),
        depth: rng.u32(2..33),
        ..config()
    };
    let mut sim = Sim::new(seed, Rules::default());
    sim.set(deadline(&config));
    let parallel = rng.usize(1..=config.depth as usize);
    let time = Duration::from_micros(rng.u64(50..1000));
    let server = sim.add_server(Service::shared(parallel, time));
    let devices = rng.u32(1..6);
    let gap = time * devices * 10 / 7 / u32::try_from(parallel).unwrap();
    let devices: Vec<_> = (0..devices)
        .map(|n| {
            let load = Load {
                arrivals: [Arrivals::Every(gap), Arrivals::Random(gap)][rng.usize(0..2)],
                ..Load::closed(2000)
            };
            let mix = [(Read, rng.u32(1..10)), (Write, rng.u32(0..10))];
            sim.add(&format!("disk{n}"), server, load.mix(&mix).queues(rng.u32(1..4)))
        })
        .collect();
    sim.run_until(at_ms(3000));
    let batch = time * (config.fifo_batch / u32::try_from(parallel).unwrap() + 1);
    let late = late(&sim, &devices, &config);
    assert!(
        late <= batch + GRACES,
        "{late:?} late, a batch takes {batch:?}: {config:?}"
    );
    sim.finish()
}

#[test]
fn reads_pass_writes_so_many_batches_at_a_time() {
    for (queues, starved) in [(1, 2), (1, 1), (3, 4)] {
        let config = DeadlineConfig {
            writes_starved: starved,
            fifo_batch: 8,
            read_expire_ms: 100_000,
            write_expire_ms: 100_000,
            ..config()
        };
        let mut sim = Sim::under(1, deadline(&config));
        let server = sim.add_server(Service {
            time: ServiceTime::Random(MS),
            ..Service::shared(16, MS)
        });
        let both = sim.add(
            "both",
            server,
            Load::closed(128).mix(&[(Read, 1), (Write, 1)]).queues(queues),
        );
        let reads = sim.add("reads", server, Load::closed(128));
        let writes = sim.add("writes", server, Load::closed(128).mix(&[(Write, 1)]));
        sim.run_until(at_ms(10_000));
        let count = |op| -> usize {
            [both, reads, writes]
                .map(|dev| count(&sim, dev, op, at_ms(500), at_ms(10_000)))
                .iter()
                .sum()
        };
        let ratio = count(Read) as f64 / count(Write) as f64;
        assert!(
            (ratio / f64::from(starved) - 1.0).abs() < 0.02,
            "{ratio}, not {starved}"
        );
        assert_eq!(sim.in_flight_max(), 16);
        sim.finish();
    }
}

#[test]
fn a_read_waits_for_a_batch_of_writes_at_most() {
    let mut sim = Sim::under(1, deadline(&config()));
    let server = sim.add_server(Service::shared(16, MS));
    sim.add("writes", server, Load::closed(256).mix(&[(Write, 1)]));
    let reads = sim.add("reads", server, Load::open(1000));
    sim.run_until(at_ms(5000));
    let most = sim.log(reads).starts.iter().map(|start| start.wait()).max().unwrap();
    assert!(most <= MS * 2 + GRACES, "{most:?}");
    sim.finish();
}

#[test]
fn what_is_late_goes_before_reads() {
    let config = DeadlineConfig {
        writes_starved: 1_000_000,
        ..config()
    };
    let mut sim = Sim::under(1, deadline(&config));
    let server = sim.add_server(Service::shared(16, MS));
    let reads = sim.add("reads", server, Load::closed(256));
    let writes = sim.add("writes", server, Load::open(200).mix(&[(Write, 1), (Flush, 1)]));
    sim.run_until(at_ms(5000));
    let late = late(&sim, &[reads, writes], &config);
    assert!(late <= MS + GRACES, "{late:?}");
    assert!(count(&sim, writes, Write, at_ms(0), at_ms(5000)) > 400);
    assert!(
        sim.log(writes)
            .starts
            .iter()
            .all(|start| start.head.op != Flush || start.wait().is_zero())
    );
    sim.finish();
}

#[test]
fn the_oldest_of_all_devices_goes_first() {
    let mut sim = Sim::under(1, deadline(&config()));
    let server = sim.add_server(Service::shared(16, MS));
    let many = sim.add("many", server, Load::closed(96).queues(2));
    let few = sim.add("few", server, Load::closed(16));
    sim.run_until(at_ms(5000));
    let wait = |dev| {
        sim.log(dev)
            .started(at_ms(1000)..at_ms(5000))
            .iter()
            .map(|start| start.wait())
            .max()
            .unwrap()
    };
    let (many, few) = (wait(many), wait(few));
    assert!(many.abs_diff(few) <= MS + GRACES, "{many:?} and {few:?}");
    sim.finish();
}

#[test]
fn nothing_is_lost_of_what_there_is() {
    let throughput = |policy, time| {
        let mut sim = Sim::under(1, policy);
        let server = sim.add_server(Service {
            time,
            ..Service::shared(16, MS)
        });
        let mix = |load: Load| load.mix(&[(Read, 1), (Write, 1)]);
        let loads = [
            mix(Load::closed(64)),
            mix(Load::closed(2)).queues(2),
            mix(Load::open(2000)),
            Load::closed(8),
        ];
        let devices = [0, 1, 2, 3].map(|n| sim.add(&format!("disk{n}"), server, loads[n].clone()));
        sim.run_until(at_ms(5000));
        let total: usize = devices.iter().map(|dev| sim.log(*dev).ends.len()).sum();
        sim.finish();
        total as f64
    };
    for time in [
        ServiceTime::Always(MS),
        ServiceTime::Random(MS),
        ServiceTime::Random(MS / 20),
    ] {
        let all = throughput(PolicyConfig::None, time);
        let ordered = throughput(deadline(&config()), time);
        assert!(ordered >= 0.97 * all, "{ordered} of {all}: {time:?}");
    }
}

#[test]
fn who_went_away_holds_nobody_up() {
    for depth in [1, 16] {
        let config = DeadlineConfig { depth, ..config() };
        let mut sim = Sim::under(1, deadline(&config));
        let server = sim.add_server(Service::shared(4, MS));
        let gone = sim.add("gone", server, Load::closed(64));
        let left = sim.add("left", server, Load::closed(64).mix(&[(Write, 1)]));
        sim.run_until(at_ms(1000));
        sim.detach(gone);
        sim.run_until(at_ms(1010));
        let count = sim.log(left).started(at_ms(1005)..at_ms(1010)).len();
        assert!(count >= 4 * depth.min(4) as usize, "{count} at depth {depth}");
        sim.finish();
    }
}

fn any_config(rng: &mut Rng) -> PolicyConfig {
    deadline(&DeadlineConfig {
        read_expire_ms: rng.u32(1..500),
        write_expire_ms: rng.u32(1..5000),
        fifo_batch: rng.u32(1..40),
        writes_starved: rng.u32(1..5),
        depth: rng.u32(1..40),
    })
}

const KEPT: &[u64] = &[9_882_121_787_320_947_554];

#[test]
fn anything_goes_on_before_its_deadline() {
    for_seeds("anything_goes_on_before_its_deadline", KEPT, |seed| {
        anything_under(seed, any_config) + feasible(seed)
    });
}
