//! `throttle`: averages, bursts, groups, and the exact bound for any time T.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use fastrand::Rng;
use iomgr_core::policy::{PolicyConfig, Rate, Rates, ThrottleConfig, ThrottleGroup};
use iomgr_core::{Class, Operation, Timestamp};

use crate::budget::for_seeds;
use crate::load::Load;
use crate::log::{Start, at_ms};
use crate::none::any_sim;
use crate::server::Service;
use crate::sim::{Dev, Rules, Sim};

const KIB: u64 = 1024;
const MS: Duration = Duration::from_millis(1);

/// Rates of every device.
fn all(rates: Rates) -> PolicyConfig {
    throttle(ThrottleConfig {
        default: rates,
        ..ThrottleConfig::default()
    })
}

fn throttle(config: ThrottleConfig) -> PolicyConfig {
    PolicyConfig::Throttle(Box::new(config))
}

fn iops(per_second: u64) -> Rates {
    Rates {
        iops: Some(Rate::new(per_second)),
        ..Rates::default()
    }
}

fn bps(per_second: u64) -> Rates {
    Rates {
        bps: Some(Rate::new(per_second)),
        ..Rates::default()
    }
}

/// One group, of the devices disk0, disk1 and so on.
fn group(rates: Rates, members: usize) -> ThrottleConfig {
    let members = (0..members).map(|n| format!("disk{n}")).collect();
    ThrottleConfig {
        groups: BTreeMap::from([("group".to_owned(), ThrottleGroup { rates, members })]),
        ..ThrottleConfig::default()
    }
}

/// A simulation of one device for each load, named disk0, disk1 and so on, on a fast server.
fn sim(policy: PolicyConfig, rules: Rules, loads: &[Load]) -> (Sim, Vec<Dev>) {
    let mut sim = Sim::new(1, rules);
    sim.set(policy);
    let server = sim.add_server(Service::constant(MS));
    let add = |(n, load): (usize, &Load)| sim.add(&format!("disk{n}"), server, load.clone());
    let devices = loads.iter().enumerate().map(add).collect();
    (sim, devices)
}

/// By how much of itself `value` is off.
#[track_caller]
fn assert_near(value: u64, wanted: u64, error: f64) {
    let off = value.abs_diff(wanted) as f64 / wanted as f64;
    assert!(off < error, "{value} is not {wanted} within {error}");
}

fn secs(span: Range<u64>) -> Range<Timestamp> {
    at_ms(span.start * 1000)..at_ms(span.end * 1000)
}

#[test]
fn requests_per_second_are_right_from_1_up() {
    for per_second in [1, 2, 7, 50, 99, 333, 1000, 20_000] {
        for (queues, pass) in [(1, Duration::ZERO), (3, MS / 100)] {
            let rules = Rules {
                pass,
                ..Rules::default()
            };
            let load = Load::closed(32).queues(queues);
            let (mut sim, devices) = sim(all(iops(per_second)), rules, &[load]);
            sim.run_until(at_ms(11_000));
            let count = |span| sim.log(devices[0]).started(secs(span)).len() as u64;
            assert_near(count(0..10), per_second * 10, 0.02);
            assert_near(count(1..11), per_second * 10, 0.02);
            sim.finish();
        }
    }
}

#[test]
fn bytes_per_second_are_right_for_all_sizes() {
    for bytes in [512..=512, 4 * KIB..=4 * KIB, 512..=64 * KIB, 300 * KIB..=1024 * KIB] {
        let load = Load::closed(64).bytes(bytes);
        let (mut sim, devices) = sim(all(bps(10_000_000)), Rules::default(), &[load]);
        sim.run_until(at_ms(11_000));
        assert_near(sim.log(devices[0]).bytes(secs(1..11)), 100_000_000, 0.02);
        sim.finish();
    }
}

#[test]
fn a_request_larger_than_a_second_of_its_rate_goes_and_is_paid_for() {
    let load = Load::closed(4).bytes(1024 * KIB..=1024 * KIB);
    let (mut sim, devices) = sim(all(bps(100 * KIB)), Rules::default(), &[load]);
    sim.run_until(at_ms(103_000));
    let instants = sim
        .log(devices[0])
        .starts
        .iter()
        .map(|start| start.at.as_nanos() / 1_000_000);
    let gaps: Vec<u64> = instants
        .collect::<Vec<_>>()
        .windows(2)
        .map(|pair| pair[1] - pair[0])
        .collect();
    assert_eq!(gaps, [10_240; 10]);
    sim.finish();
}

#[test]
fn a_burst_lasts_its_time_and_comes_back_after_a_rest() {
    let rates = Rates {
        iops: Some(Rate::new(500).with_burst(2000, 5000)),
        ..Rates::default()
    };
    let (mut sim, devices) = sim(all(rates), Rules::default(), &[Load::closed(64)]);
    sim.run_until(at_ms(20_000));
    sim.turn(devices[0], false);
    // 1500 × 5 s above the average come back in 15 s without work.
    sim.run_until(at_ms(36_000));
    sim.turn(devices[0], true);
    sim.run_until(at_ms(50_000));
    let count = |span| sim.log(devices[0]).started(secs(span)).len() as u64;
    for second in (0..5).chain(36..41) {
        assert_near(count(second..second + 1), 2000, 0.06);
    }
    for second in (6..20).chain(42..50) {
        assert_near(count(second..second + 1), 500, 0.02);
    }
    sim.finish();
}

#[test]
fn long_requests_count_as_several() {
    let rates = Rates {
        iops_size: Some(16 * 1024),
        ..iops(1000)
    };
    let load = Load::closed(8).bytes(60 * KIB..=60 * KIB);
    let (mut sim, devices) = sim(all(rates), Rules::default(), &[load]);
    sim.run_until(at_ms(11_000));
    assert_near(sim.log(devices[0]).started(secs(1..11)).len() as u64, 2500, 0.02);
    sim.finish();
}

#[test]
fn a_throttled_write_holds_up_neither_reads_nor_flushes() {
    let rates = Rates {
        iops_write: Some(Rate::new(1)),
        ..Rates::default()
    };
    let mix = [(Operation::Read, 8), (Operation::Write, 1), (Operation::Flush, 1)];
    let load = Load::open(1000).mix(&mix);
    let (mut sim, devices) = sim(all(rates), Rules::default(), &[load]);
    // Until the writes fill the frontend's slots.
    sim.run_until(at_ms(1000));
    let log = sim.log(devices[0]);
    let waits = log
        .starts
        .iter()
        .filter(|start| start.head.class != Class::Write)
        .map(Start::wait);
    assert_eq!(waits.max(), Some(Duration::ZERO));
    assert_eq!(
        log.starts
            .iter()
            .filter(|start| start.head.class == Class::Write)
            .count(),
        1
    );
    sim.finish();
}

#[test]
fn directions_share_what_bounds_both() {
    let mix = [(Operation::Read, 1), (Operation::Write, 1)];
    let sizes = Load::closed(64).mix(&mix).bytes(512..=128 * KIB);
    let (mut sim, devices) = sim(all(bps(20_000_000)), Rules::default(), &[sizes]);
    sim.run_until(at_ms(11_000));
    let starts = sim.log(devices[0]).started(secs(1..11));
    let bytes = |class| {
        let of_class = starts.iter().filter(|start| start.head.class == class);
        of_class.map(|start| start.head.range.len_bytes()).sum()
    };
    assert_near(bytes(Class::Read), 100_000_000, 0.05);
    assert_near(bytes(Class::Write), 100_000_000, 0.05);
    sim.finish();
}

#[test]
fn members_of_a_group_get_the_same_of_its_requests() {
    for (members, per_second) in [(2_u32, 1000), (3, 30), (8, 4000), (40, 2000)] {
        let loads: Vec<_> = (0..members)
            .map(|n| Load::closed(16 + n % 9).queues(1 + n % 3))
            .collect();
        let config = throttle(group(iops(per_second), loads.len()));
        let (mut sim, devices) = sim(config, Rules::default(), &loads);
        sim.run_until(at_ms(11_000));
        for dev in &devices {
            let count = sim.log(*dev).started(secs(1..11)).len() as u64;
            assert_near(count, per_second * 10 / u64::from(members), 0.05);
        }
        sim.finish();
        let granted: usize = devices.iter().map(|dev| sim.log(*dev).starts.len()).sum();
        // Where a turn is shorter than the foresight, nearly everybody comes when it is his turn.
        let idle_max = if per_second >= 1000 { granted / 100 } else { granted };
        assert!(
            sim.idle_passes() <= idle_max as u64,
            "{} of {granted}",
            sim.idle_passes()
        );
    }
}

#[test]
fn members_of_a_group_get_the_same_of_its_bytes_whatever_their_sizes() {
    let sizes = [4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB];
    let loads = sizes.map(|bytes| Load::closed(64).bytes(bytes..=bytes));
    let (mut sim, devices) = sim(throttle(group(bps(40 << 20), 4)), Rules::default(), &loads);
    sim.run_until(at_ms(11_000));
    for dev in &devices {
        assert_near(sim.log(*dev).bytes(secs(1..11)), 100 << 20, 0.05);
    }
    sim.finish();
}

#[test]
fn what_a_member_leaves_the_others_have() {
    let mut config = group(iops(1000), 3);
    config.devices.insert("disk0".to_owned(), iops(100));
    let half = Load::closed(32).phases(MS * 1000, MS * 1000);
    let loads = [Load::closed(32), half, Load::closed(32)];
    let (mut sim, devices) = sim(throttle(config), Rules::default(), &loads);
    sim.run_until(at_ms(20_000));
    let count = |n: usize, span| sim.log(devices[n]).started(secs(span)).len() as u64;
    for second in 1..19 {
        assert_near(count(0, second..second + 1), 100, 0.05);
        let busy = if second % 2 == 0 { 450 } else { 900 };
        assert_near(count(2, second..second + 1), busy, 0.05);
    }
    sim.finish();
}

#[test]
fn new_limits_are_for_those_who_wait_already() {
    let config = |rates| ThrottleConfig {
        devices: BTreeMap::from([("disk0".to_owned(), rates)]),
        ..ThrottleConfig::default()
    };
    let load = Load::closed(32).bytes(1024 * KIB..=1024 * KIB);
    let (mut sim, devices) = sim(throttle(config(bps(KIB))), Rules::default(), &[load]);
    sim.run_until(at_ms(1000));
    assert_eq!(sim.log(devices[0]).starts.len(), 1);
    // The second since then has paid for little of it, at the old rate; the rest takes 63 ms at the new one.
    sim.set(throttle(config(bps(16 << 20))));
    sim.run_until(at_ms(1070));
    assert_eq!(sim.log(devices[0]).starts.len(), 2);
    sim.set(throttle(config(iops(1))));
    sim.run_until(at_ms(1500));
    assert_eq!(sim.log(devices[0]).starts.len(), 3);
    sim.set(throttle(config(Rates::default())));
    sim.run_until(at_ms(1500));
    assert!(sim.log(devices[0]).starts.len() >= 32, "no limit, and it goes at once");
    sim.finish();
}

#[test]
fn who_waited_at_another_rate_has_saved_nothing_at_the_new_one() {
    let (mut sim, devices) = sim(all(iops(1)), Rules::default(), &[Load::closed(64)]);
    sim.run_until(at_ms(900));
    assert_eq!(sim.log(devices[0]).starts.len(), 1);
    sim.set(all(iops(1000)));
    sim.run_until(at_ms(910));
    assert_near(sim.log(devices[0]).starts.len() as u64, 11, 0.1);
    sim.finish();
}

/// What it may save up is what a new policy's would be, and no more.
#[test]
fn who_is_idle_finds_a_new_rate_s_burst() {
    let burst = |average, max| Rates {
        iops: Some(Rate::new(average).with_burst(max, 1000)),
        ..Rates::default()
    };
    let load = Load::closed(8).phases(MS * 1000, MS * 60_000);
    let (mut sim, devices) = sim(all(iops(1)), Rules::default(), &[load]);
    sim.run_until(at_ms(30_000));
    sim.set(all(burst(100, 400)));
    sim.run_until(at_ms(62_000));
    assert_near(sim.log(devices[0]).started(secs(61..62)).len() as u64, 400, 0.02);
    sim.finish();
}

/// A member's own bound and its group's hold both; what it may not use is the others'.
#[test]
fn a_member_may_have_rates_of_its_own() {
    for (queues, own) in [(1, 20), (3, 20), (1, 200)] {
        let config = ThrottleConfig {
            devices: BTreeMap::from([("disk0".to_owned(), iops(own))]),
            ..group(iops(100), 2)
        };
        let loads = [Load::closed(32).queues(queues), Load::closed(32)];
        let (mut sim, devices) = sim(throttle(config), Rules::default(), &loads);
        sim.run_until(at_ms(20_000));
        let started = |n: usize| sim.log(devices[n]).started(secs(0..20)).len() as u64;
        let share = own.min(50) * 20;
        assert_near(started(0), share, 0.05);
        assert_near(started(1), 2000 - share, 0.05);
        sim.finish();
    }
}

/// However often it comes and goes, while others wait.
#[test]
fn who_leaves_a_group_holds_nobody_up_there() {
    let loads = [Load::closed(8), Load::closed(8)];
    let (mut sim, devices) = sim(throttle(group(iops(100), 2)), Rules::default(), &loads);
    for (step, members) in (1..=200).zip([1, 2].into_iter().cycle()) {
        sim.run_until(at_ms(step * 50));
        sim.set(throttle(group(iops(100), members)));
    }
    assert!(sim.log(devices[0]).started(secs(0..10)).len() >= 490);
    sim.finish();
}

#[test]
fn the_same_limits_again_change_nothing() {
    let (mut sim, devices) = sim(all(iops(100)), Rules::default(), &[Load::closed(32)]);
    for step in 0..1000 {
        sim.run_until(at_ms(step * 10));
        sim.set(all(iops(100)));
    }
    assert_near(sim.log(devices[0]).started(secs(0..10)).len() as u64, 1000, 0.02);
    sim.finish();
}

#[test]
fn limits_that_change_all_the_time_are_shared_all_the_same() {
    let loads = [Load::closed(32), Load::closed(1), Load::closed(8).queues(3)];
    let (mut sim, devices) = sim(throttle(group(iops(900), 3)), Rules::default(), &loads);
    for step in 0..550 {
        sim.run_until(at_ms(step * 20));
        sim.set(throttle(group(iops(900), 3)));
        sim.run_for(MS * 10);
        sim.set(throttle(group(iops(600), 3)));
    }
    for dev in &devices {
        assert_near(sim.log(*dev).started(secs(1..11)).len() as u64, 2500, 0.05);
    }
    sim.finish();
}

#[test]
fn a_device_that_is_detached_while_it_waits_holds_up_nobody() {
    let loads = [Load::closed(8), Load::closed(8)];
    let (mut sim, devices) = sim(throttle(group(iops(1), 2)), Rules::default(), &loads);
    sim.run_until(at_ms(10_500));
    assert_eq!(sim.log(devices[0]).starts.len() + sim.log(devices[1]).starts.len(), 11);
    sim.detach(devices[0]);
    sim.run_until(at_ms(10_500));
    assert_eq!(sim.log(devices[0]).handed_back, 8);
    sim.run_until(at_ms(20_500));
    assert_near(
        sim.log(devices[1]).started(at_ms(10_500)..at_ms(20_500)).len() as u64,
        10,
        0.11,
    );
    sim.finish();
}

const KEPT: &[u64] = &[];

#[test]
fn no_time_sees_more_than_its_bound() {
    for_seeds("no_time_sees_more_than_its_bound", KEPT, |seed| {
        let (mut sim, devices) = any_sim(seed);
        let mut rng = Rng::with_seed(seed ^ 1);
        for round in 0..3 {
            let config = any_config(&mut rng, devices.len());
            sim.set(throttle(config.clone()));
            // What the former limits let go at this very instant is not meant.
            let from = sim.now() + Duration::from_nanos(1);
            sim.run_for(MS * rng.u32(1..3000));
            check_bounds(&sim, &devices, &config, from);
            if round == 1 {
                sim.detach(devices[0]);
            }
        }
        sim.finish()
    });
}

fn any_config(rng: &mut Rng, devices: usize) -> ThrottleConfig {
    let mut config = ThrottleConfig {
        default: any_rates(rng),
        ..ThrottleConfig::default()
    };
    let mut members = BTreeSet::new();
    for n in 0..devices {
        let name = format!("disk{n}");
        if rng.bool() {
            config.devices.insert(name.clone(), any_rates(rng));
        }
        if rng.bool() {
            members.insert(name);
        }
    }
    let rates = any_rates(rng);
    config
        .groups
        .insert("group".to_owned(), ThrottleGroup { rates, members });
    config
}

fn any_rates(rng: &mut Rng) -> Rates {
    let mut rate = |from: u32, to: u32| {
        let top = rng.u32(from + 1..to);
        let average = rng.u64(1 << from..1 << top);
        let rate = match rng.bool() {
            true => Rate::new(average),
            false => Rate::new(average).with_burst(average * rng.u64(1..5), rng.u32(1..3000)),
        };
        Some(rate).filter(|_| rng.u8(0..3) == 0)
    };
    Rates {
        iops: rate(0, 17),
        iops_read: rate(0, 17),
        iops_write: rate(0, 17),
        bps: rate(16, 30),
        bps_read: rate(16, 30),
        bps_write: rate(16, 30),
        iops_size: Some(4096).filter(|_| rng.bool()),
    }
}

/// Checks what started since `from` against every bound.
fn check_bounds(sim: &Sim, devices: &[Dev], config: &ThrottleConfig, from: Timestamp) {
    let since = |n: usize| sim.log(devices[n]).started(from..sim.now());
    let group = &config.groups["group"];
    let is_member = |n: usize| group.members.contains(&format!("disk{n}"));
    for n in 0..devices.len() {
        let fallback = if is_member(n) { Rates::default() } else { config.default };
        let rates = config.devices.get(&format!("disk{n}")).copied();
        check_rates(&rates.unwrap_or(fallback), since(n));
    }
    let members = (0..devices.len()).filter(|n| is_member(*n));
    let mut together: Vec<Start> = members.flat_map(|n| since(n).iter().copied()).collect();
    together.sort_by_key(|start| start.at);
    check_rates(&group.rates, &together);
}

fn check_rates(rates: &Rates, starts: &[Start]) {
    let requests = |start: &Start| match rates.iops_size {
        Some(size) => bytes(start).div_ceil(size.into()).max(1),
        None => 1,
    };
    check_rate(rates.iops, starts, None, requests);
    check_rate(rates.iops_read, starts, Some(Class::Read), requests);
    check_rate(rates.iops_write, starts, Some(Class::Write), requests);
    check_rate(rates.bps, starts, None, bytes);
    check_rate(rates.bps_read, starts, Some(Class::Read), bytes);
    check_rate(rates.bps_write, starts, Some(Class::Write), bytes);
}

fn bytes(start: &Start) -> u64 {
    match start.head.op {
        Operation::Discard | Operation::WriteZeroes => 0,
        _ => start.head.range.len_bytes(),
    }
}

/// In any time T no more than average · T + bucket + one request, nor than max · T + 50 ms of it + one request.
fn check_rate(rate: Option<Rate>, starts: &[Start], class: Option<Class>, cost: impl Fn(&Start) -> u64) {
    let counts =
        |start: &&Start| start.head.class != Class::Other && class.is_none_or(|class| start.head.class == class);
    let starts: Vec<_> = starts
        .iter()
        .filter(counts)
        .map(|start| (start.at, cost(start)))
        .collect();
    if let Some(rate) = rate {
        let max = rate.max.unwrap_or(rate.average);
        let length_ms = u64::from(rate.max_length_ms.unwrap_or(0));
        check_windows(&starts, rate.average, (max - rate.average) * length_ms + max * 50);
        check_windows(&starts, max, max * 50);
    }
}

/// Checks every window that begins and ends with a request; the bucket is in thousandths.
///
/// `most` is the most that any window that ends here takes beyond rate · T. Nothing says in which order requests of one
/// instant went: the largest may have been the last.
fn check_windows(starts: &[(Timestamp, u64)], rate: u64, bucket: u64) {
    let nano = |units: u64| i128::from(units) * 1_000_000_000;
    let (mut most, mut last) = (0, Timestamp::ZERO);
    for instant in starts.chunk_by(|one, other| one.0 == other.0) {
        let at = instant[0].0;
        let drained = i128::from(rate) * i128::try_from(at.since(last).as_nanos()).unwrap();
        most = (most - drained).max(0) + nano(instant.iter().map(|(_, cost)| cost).sum());
        let largest = instant.iter().map(|(_, cost)| *cost).max().unwrap();
        let bound = nano(bucket) / 1000 + nano(largest);
        assert!(most <= bound, "{most} of {bound} at {at:?}, {rate} a second");
        last = at;
    }
}
