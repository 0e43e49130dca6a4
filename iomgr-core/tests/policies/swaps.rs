//! All policies, one after the other and over one another, while requests wait and are on their way.

use std::time::Duration;

use fastrand::Rng;
use iomgr_core::policy::{
    DeadlineConfig, LatencyConfig, LimitConfig, ManagerConfig, PolicyConfig, Rate, Rates, ThrottleConfig, TurnConfig,
    WfqConfig,
};

use crate::budget::for_seeds;
use crate::none::any_sim;

const MS: Duration = Duration::from_millis(1);

const KEPT: &[u64] = &[];

#[test]
fn swaps_lose_nothing() {
    for_seeds("swaps_lose_nothing", KEPT, |seed| {
        let (mut sim, devices) = any_sim(seed);
        let mut rng = Rng::with_seed(seed ^ 1);
        let swaps = rng.u32(1..30);
        for swap in 0..swaps {
            sim.set_all(&any_manager(&mut rng));
            sim.run_for(MS / 10 * rng.u32(0..1000));
            if swap == swaps / 2 {
                sim.detach(devices[0]);
            }
        }
        sim.finish()
    });
}

/// Any policy, with a valve below it or not.
pub(crate) fn any_manager(rng: &mut Rng) -> ManagerConfig {
    let policy = any_policy(rng);
    let may_stack = !matches!(policy, PolicyConfig::None | PolicyConfig::Limit(_));
    let limit = (may_stack && rng.bool()).then(|| any_limit(rng));
    ManagerConfig { policy, limit }
}

pub(crate) fn any_limit(rng: &mut Rng) -> LimitConfig {
    let (max, max_total) = (rng.u32(1..20), rng.u32(1..20));
    match rng.u8(0..3) {
        0 => LimitConfig {
            max: Some(max),
            max_total: None,
        },
        1 => LimitConfig {
            max: None,
            max_total: Some(max_total),
        },
        _ => LimitConfig {
            max: Some(max),
            max_total: Some(max_total),
        },
    }
}

fn any_policy(rng: &mut Rng) -> PolicyConfig {
    match rng.u8(0..7) {
        0 => PolicyConfig::None,
        1 => PolicyConfig::Limit(any_limit(rng)),
        2 => PolicyConfig::Turn(TurnConfig {
            share: rng.u32(1..50),
            turn_ms: rng.u32(1..50),
        }),
        3 => PolicyConfig::Throttle(Box::new(any_throttle(rng))),
        4 => PolicyConfig::Wfq(WfqConfig {
            depth: rng.u32(1..20),
            ..WfqConfig::default()
        }),
        5 => PolicyConfig::Deadline(DeadlineConfig {
            depth: rng.u32(1..20),
            ..DeadlineConfig::default()
        }),
        _ => PolicyConfig::Latency(LatencyConfig {
            protect: ["disk0".to_owned()].into(),
            ..LatencyConfig::default()
        }),
    }
}

fn any_throttle(rng: &mut Rng) -> ThrottleConfig {
    let rates = Rates {
        iops: Some(Rate::new(rng.u64(100..10_000))),
        ..Rates::default()
    };
    ThrottleConfig {
        default: rates,
        ..ThrottleConfig::default()
    }
}
