//! The policies that share and protect, under fio, on images behind a latency of 1 ms.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use iomgr_core::policy::{LatencyConfig, ManagerConfig, PolicyConfig, WfqConfig};
use iomgr_tests::{Client, need};
use tqueue::filter::{Filter, FilterConfig, FilterOp, Verdict};

use super::policies::{Disks, TRIES, window};
use crate::disk::soak;

/// Below what any of the clients has outstanding, so that weights count.
const DEPTH: u32 = 8;

fn wfq(weights: &[(&str, u16)]) -> ManagerConfig {
    let weights = weights.iter().map(|(name, weight)| ((*name).to_owned(), *weight));
    ManagerConfig {
        policy: PolicyConfig::Wfq(WfqConfig {
            weights: weights.collect(),
            depth: DEPTH,
            ..WfqConfig::default()
        }),
        limit: None,
    }
}

/// Jain's index of fairness: 1 when all are the same, 1/n when one has everything.
fn jain(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    sum * sum / (squares * shares.len() as f64)
}

/// Rates under load of all disks, looked at until they are good, a few times at most.
fn measure(names: &[&str], config: &ManagerConfig, is_good: impl Fn(&[f64]) -> bool) {
    let disks = Disks::serve(names);
    disks.set(config);
    let load = disks.load(names);
    let holds = (0..TRIES).any(|_| {
        let rates = disks.rates(names, window());
        println!("requests per second of {names:?}: {rates:.1?}");
        is_good(&rates)
    });
    assert!(holds, "the shares are not what they should be");
    drop(load);
    let registry = disks.server.registry().clone();
    disks.server.stop().unwrap();
    assert_eq!(registry.pending_total(), 0);
}

#[test]
fn hooks_wfq_shares_three_to_one() {
    if !need::tools(&["fio"]) {
        return;
    }
    measure(&["a", "b"], &wfq(&[("a", 300), ("b", 100)]), |rates| {
        let ratio = rates[0] / rates[1];
        println!("{ratio:.3} to one");
        (2.8..=3.2).contains(&ratio)
    });
}

#[test]
fn hooks_wfq_shares_evenly_among_eight() {
    if !need::tools(&["fio"]) {
        return;
    }
    let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
    measure(&names, &wfq(&[]), |rates| {
        let index = jain(rates);
        println!("an index of {index:.4}");
        index >= 0.99
    });
}

/// What a client of the protected disk sees, with one request at a time: when the next began, and how long it took.
fn probe(client: &mut Client, time: Duration) -> Vec<(Duration, Duration)> {
    let begun = Instant::now();
    let mut took = Vec::new();
    while begun.elapsed() < time {
        let start = Instant::now();
        client.write(0, 0, &[1; 4096]).unwrap().unwrap();
        took.push((begun.elapsed(), start.elapsed()));
    }
    took
}

/// The latency that 99 of 100 did not exceed.
fn p99(took: &[(Duration, Duration)]) -> Duration {
    let mut all: Vec<_> = took.iter().map(|(_, took)| *took).collect();
    all.sort_unstable();
    all[all.len() * 99 / 100]
}

/// A disk that does one thing at a time, each for a millisecond, whichever queue it comes from.
#[derive(Clone, Debug)]
struct OneByOne(Arc<Mutex<Instant>>);

impl OneByOne {
    fn config() -> FilterConfig {
        let disk = Self(Arc::new(Mutex::new(Instant::now())));
        FilterConfig::custom("one-by-one", move |_| Box::new(disk.clone()))
    }
}

impl Filter for OneByOne {
    fn before(&mut self, _: &FilterOp<'_>) -> Verdict {
        let (now, mut busy_until) = (Instant::now(), self.0.lock().unwrap());
        *busy_until = (*busy_until).max(now) + Duration::from_millis(1);
        Verdict::Hold(*busy_until - now)
    }
}

/// The 32 requests that a noisy neighbour has outstanding keep others waiting for as many milliseconds. The target is twice what
/// a request takes without it, whatever else this machine does.
#[test]
fn hooks_latency_keeps_a_noisy_neighbour_quiet() {
    if !soak() || !need::tools(&["fio"]) {
        return;
    }
    let window = Duration::from_millis(200);
    let disks = Disks::serve_behind(OneByOne::config(), &["a", "b"]);
    let mut client = Client::connect_to(disks.server.socket().unwrap(), "a").unwrap();
    let target = p99(&probe(&mut client, window * 10)) * 2;
    let policy = PolicyConfig::Latency(LatencyConfig {
        protect: BTreeSet::from(["a".to_owned()]),
        target_us: u32::try_from(target.as_micros()).unwrap(),
        window_ms: 200,
        ..LatencyConfig::default()
    });
    let protecting = ManagerConfig { policy, limit: None };
    let load = disks.load(&["b"]);
    let holds = (0..TRIES).any(|_| {
        disks.set(&ManagerConfig::default());
        let noisy = p99(&probe(&mut client, window * 10));
        disks.set(&protecting);
        let took = probe(&mut client, window * 30);
        let after = took.partition_point(|(begun, _)| *begun < window * 6);
        let quiet = p99(&took[after..]);
        println!("a target of {target:?}: {noisy:?} beside a noisy neighbour, {quiet:?} after five windows");
        noisy > target && quiet <= target
    });
    assert!(holds, "the target is missed");
    drop(load);
    disks.server.stop().unwrap();
}
