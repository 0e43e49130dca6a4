//! `limit`, alone and below other policies: bounds are never exceeded, and nobody starves.

use std::time::Duration;

use fastrand::Rng;
use iomgr_core::policy::{LimitConfig, ManagerConfig, PolicyConfig, Rate, Rates, ThrottleConfig};

use crate::budget::for_seeds;
use crate::load::Load;
use crate::log::{at_ms, jain};
use crate::none::any_sim;
use crate::server::Service;
use crate::sim::{Dev, Rules, Sim};
use crate::swaps::any_manager;

const MS: Duration = Duration::from_millis(1);

fn limit(max: Option<u32>, max_total: Option<u32>) -> LimitConfig {
    LimitConfig { max, max_total }
}

fn alone(config: LimitConfig) -> PolicyConfig {
    PolicyConfig::Limit(config)
}

/// A throttle of so many requests per second for each device, above a limit.
fn below_throttle(per_second: u64, limit: LimitConfig) -> ManagerConfig {
    let default = Rates {
        iops: Some(Rate::new(per_second)),
        ..Rates::default()
    };
    let throttle = ThrottleConfig {
        default,
        ..ThrottleConfig::default()
    };
    ManagerConfig {
        policy: PolicyConfig::Throttle(Box::new(throttle)),
        limit: Some(limit),
    }
}

fn add_all(sim: &mut Sim, loads: &[Load]) -> Vec<Dev> {
    let server = sim.add_server(Service::constant(MS));
    let add = |(n, load): (usize, &Load)| sim.add(&format!("disk{n}"), server, load.clone());
    loads.iter().enumerate().map(add).collect()
}

#[test]
fn each_device_has_its_bound() {
    let mut sim = Sim::under(1, alone(limit(Some(4), None)));
    let devices = add_all(
        &mut sim,
        &[Load::closed(32).queues(3), Load::closed(2), Load::closed(8)],
    );
    sim.run_until(at_ms(1000));
    let max = devices
        .iter()
        .map(|dev| sim.log(*dev).in_flight_max)
        .collect::<Vec<_>>();
    assert_eq!(max, [4, 2, 4]);
    // 4 at a time, 1 ms each: nothing is left unused.
    assert!(sim.log(devices[0]).starts.len() >= 4000);
    assert_eq!(sim.idle_passes(), 0);
    sim.finish();
}

#[test]
fn a_common_bound_is_shared_by_all_who_wait() {
    for (total, devices) in [(1, 8), (2, 3), (5, 8), (16, 8), (3, 40)] {
        let mut sim = Sim::under(total.into(), alone(limit(None, Some(total))));
        let loads: Vec<_> = (0..devices).map(|n| Load::closed(8).queues(1 + n % 3)).collect();
        let devices = add_all(&mut sim, &loads);
        sim.run_until(at_ms(4000));
        assert_eq!(sim.in_flight_max(), u64::from(total));
        let counts: Vec<_> = devices.iter().map(|dev| sim.log(*dev).starts.len() as f64).collect();
        let sum: f64 = counts.iter().sum();
        assert!(sum >= 3990.0 * f64::from(total), "{sum} of {total} places");
        // One at a time and in turns; where there is more than one for each, depth counts as well.
        let is_scarce = (total as usize) < devices.len();
        assert!(jain(&counts) > if is_scarce { 0.99 } else { 0.9 }, "{counts:?}");
        sim.finish();
    }
}

#[test]
fn the_longest_wait_is_one_turn_of_the_others() {
    let mut sim = Sim::under(1, alone(limit(None, Some(4))));
    let mut loads = vec![Load::closed(64).queues(4); 7];
    loads.push(Load::closed(1));
    let devices = add_all(&mut sim, &loads);
    sim.run_until(at_ms(4000));
    let waits = sim.log(devices[7]).starts.iter().map(|start| start.wait());
    // Eight devices, four places of 1 ms each: two rounds, and what is under way.
    assert!(waits.max().unwrap() <= MS * 3);
    sim.finish();
}

#[test]
fn bounds_change_while_requests_wait() {
    let mut sim = Sim::under(1, alone(limit(Some(2), Some(3))));
    let devices = add_all(&mut sim, &[Load::closed(32), Load::closed(32)]);
    sim.run_until(at_ms(100));
    assert_eq!(sim.in_flight_max(), 3);
    sim.set(alone(limit(None, Some(20))));
    sim.run_until(at_ms(100));
    assert_eq!(sim.in_flight_max(), 20, "at once");
    sim.set(alone(limit(Some(1), None)));
    sim.run_until(at_ms(102));
    let starts = |dev: &Dev| sim.log(*dev).started(at_ms(103)..at_ms(203)).len();
    assert_eq!(devices.iter().map(starts).sum::<usize>(), 0);
    sim.run_until(at_ms(300));
    let starts = |dev: &Dev| sim.log(*dev).started(at_ms(103)..at_ms(203)).len();
    assert_eq!(devices.iter().map(starts).collect::<Vec<_>>(), [100, 100]);
    sim.finish();
}

#[test]
fn who_is_gone_keeps_no_place() {
    let mut sim = Sim::under(1, alone(limit(None, Some(1))));
    let devices = add_all(&mut sim, &[Load::closed(4), Load::closed(4), Load::closed(4)]);
    sim.run_until(at_ms(10));
    sim.detach(devices[1]);
    sim.detach(devices[2]);
    sim.run_until(at_ms(10));
    assert!(sim.log(devices[1]).handed_back >= 3);
    sim.run_until(at_ms(110));
    assert!(sim.log(devices[0]).started(at_ms(20)..at_ms(110)).len() >= 88);
    sim.finish();
}

#[test]
fn below_a_throttle_both_hold() {
    let mut sim = Sim::new(1, Rules::default());
    sim.set_all(&below_throttle(1000, limit(Some(2), Some(3))));
    let devices = add_all(&mut sim, &[Load::closed(32), Load::closed(32), Load::open(100)]);
    sim.run_until(at_ms(5000));
    assert_eq!(sim.in_flight_max(), 3);
    for dev in &devices[..2] {
        assert!(sim.log(*dev).in_flight_max <= 2);
        let count = sim.log(*dev).started(at_ms(1000)..at_ms(5000)).len();
        assert!(count.abs_diff(4000) < 80, "{count}: the throttle is the bound");
    }
    sim.set_all(&below_throttle(1000, limit(None, Some(1))));
    let from = sim.now();
    sim.run_for(MS * 4000);
    let counts = devices.iter().map(|dev| sim.log(*dev).started(from..sim.now()).len());
    let counts: Vec<_> = counts.collect();
    assert!(
        counts.iter().sum::<usize>() >= 3900,
        "{counts:?}: the valve is the bound, and kept open"
    );
    assert!(counts[0].abs_diff(counts[1]) * 20 < counts[0], "{counts:?}");
    sim.finish();
}

const KEPT: &[u64] = &[];

#[test]
fn bounds_are_never_exceeded() {
    for_seeds("bounds_are_never_exceeded", KEPT, |seed| {
        let (mut sim, devices) = any_sim(seed);
        let mut rng = Rng::with_seed(seed ^ 1);
        // From the start, so that the most there ever was counts.
        let manager = any_manager(&mut rng);
        let config = match &manager.policy {
            PolicyConfig::Limit(config) => config.clone(),
            _ => manager.limit.clone().unwrap_or_default(),
        };
        sim.set_all(&manager);
        sim.run_for(MS * rng.u32(1..2000));
        sim.detach(devices[0]);
        sim.run_for(MS * rng.u32(1..2000));
        let seen = sim.finish();
        let most = devices.iter().map(|dev| sim.log(*dev).in_flight_max).max().unwrap();
        assert!(most <= config.max.unwrap_or(u32::MAX).into(), "{most} of {config:?}");
        assert!(sim.in_flight_max() <= config.max_total.unwrap_or(u32::MAX).into());
        seen
    });
}
