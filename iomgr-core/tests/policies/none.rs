//! No policy: what the harness itself does, and that its checks see what is wrong.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use iomgr_core::Timestamp;
use iomgr_core::manager::{DeviceInfo, Head, Manager, Verdict, Wait};
use iomgr_core::policy::PolicyConfig;

use crate::budget::for_seeds;
use crate::load::Load;
use crate::log::at_ms;
use crate::server::Service;
use crate::sim::{Dev, Rules, Sim};

const MS: Duration = Duration::from_millis(1);

/// Devices, servers, loads and rules, all at random; the policy is still to be set.
pub(crate) fn any_sim(seed: u64) -> (Sim, Vec<Dev>) {
    let mut rng = Rng::with_seed(seed);
    let mut sim = Sim::new(rng.u64(..), Rules::random(&mut rng));
    let servers: Vec<_> = (0..rng.usize(1..3))
        .map(|_| sim.add_server(Service::random(&mut rng)))
        .collect();
    let devices = (0..rng.usize(1..6)).map(|n| {
        let server = servers[rng.usize(0..servers.len())];
        sim.add(&format!("disk{n}"), server, Load::random(&mut rng))
    });
    let devices = devices.collect();
    (sim, devices)
}

/// The same under a policy, whose parameters change on the way, and a device of which may go. Says how many events that were.
pub(crate) fn anything_under(seed: u64, mut any_config: impl FnMut(&mut Rng) -> PolicyConfig) -> u64 {
    let mut rng = Rng::with_seed(seed);
    let (mut sim, devices) = any_sim(seed);
    for _ in 0..2 {
        sim.set(any_config(&mut rng));
        sim.run_for(MS * 200);
    }
    if rng.bool() {
        sim.detach(devices[0]);
    }
    sim.run_for(MS * 300);
    sim.finish()
}

#[test]
fn without_a_policy_everything_ends() {
    for_seeds("without_a_policy_everything_ends", &[], |seed| {
        let (mut sim, devices) = any_sim(seed);
        sim.run_for(MS * 300);
        sim.detach(devices[0]);
        sim.run_for(MS * 300);
        sim.finish()
    });
}

#[test]
fn a_server_serves_what_it_can() {
    let mut sim = Sim::new(1, Rules::default());
    let server = sim.add_server(Service::shared(4, MS));
    let one = sim.add("one", server, Load::closed(12));
    let other = sim.add("other", server, Load::closed(4));
    sim.run_until(at_ms(1000));
    let count = |dev| sim.log(dev).started(at_ms(100)..at_ms(1000)).len();
    assert_eq!(
        (count(one), count(other)),
        (2700, 900),
        "in proportion to the depth, first come, first served"
    );
    assert_eq!(sim.in_flight_max(), 16);
    assert_eq!(sim.log(one).latency(at_ms(100)..at_ms(1000), 99), Some(MS * 4));
    sim.finish();
}

#[test]
fn a_load_is_what_it_says() {
    let mut sim = Sim::new(1, Rules::default());
    let server = sim.add_server(Service::constant(MS));
    let even = sim.add("even", server, Load::open(1000).queues(2));
    let phased = sim.add("phased", server, Load::open(1000).phases(MS * 100, MS * 300));
    sim.run_until(at_ms(10_000));
    let count = |dev: Dev| sim.log(dev).starts.len();
    assert_eq!(count(even), 10_000);
    assert!((2400..=2500).contains(&count(phased)), "{}", count(phased));
    sim.finish();
}

/// Says no, and when to look again.
#[derive(Debug)]
struct No(Option<Duration>);

impl Manager for No {
    fn name(&self) -> &str {
        "no"
    }

    fn allow_request(&self, _: &DeviceInfo, _: &Head, now: Timestamp) -> Verdict {
        Verdict::No(self.0.map_or(Wait::Freed, |time| Wait::Until(now + time)))
    }
}

/// Runs under a manager that does its work badly.
fn under(no: No) {
    let rules = Rules {
        patience: Duration::from_secs(2),
        ..Rules::default()
    };
    let mut sim = Sim::new(1, rules);
    sim.governor.registry().register(Arc::new(no)).unwrap();
    let server = sim.add_server(Service::constant(MS));
    sim.add("disk", server, Load::closed(4));
    sim.run_for(MS);
    sim.finish();
}

fn complaint(no: No) -> String {
    let panic = catch_unwind(AssertUnwindSafe(|| under(no))).unwrap_err();
    *panic.downcast().unwrap()
}

#[test]
fn who_spins_is_seen() {
    assert!(complaint(No(Some(MS / 1000))).starts_with("spins"));
}

#[test]
fn who_waits_for_ever_is_seen() {
    assert!(complaint(No(None)).starts_with("waits for ever: [(\"disk\", 4)]"));
    assert!(complaint(No(Some(MS * 10))).starts_with("waits for ever"));
}
