//! Faults: exactly those that the seed says, and nothing else changes.

use std::collections::HashMap;

use iomgr_core::{Action, OpError, OpQueue};
use proptest::prelude::*;

use super::rig::Rig;
use crate::Errno;
use crate::filter::fault::FaultConfig;
use crate::filter::{FilterConfig, OpKinds};

/// Ops by kind and place, in sectors.
fn ops() -> impl Strategy<Value = Vec<(u8, u64, u64)>> {
    prop::collection::vec((0u8..5, 0u64..64, 1u64..8), 1..60)
}

/// Which ops of `batch` fail, by the contract's words.
fn expected(config: &FaultConfig, batch: &[(u8, u64, u64)]) -> Vec<bool> {
    let mut n = 0;
    let fails = |&(kind, at, len): &(u8, u64, u64)| {
        let kind = [
            OpKinds::READ,
            OpKinds::WRITE,
            OpKinds::FLUSH,
            OpKinds::DISCARD,
            OpKinds::ZERO,
        ][kind as usize];
        let range = config.scope.range.clone().unwrap_or(0..u64::MAX);
        let touches = range.start.max(at * 512) < range.end.min((at + len) * 512);
        if !config.scope.kinds.contains(kind) || kind != OpKinds::FLUSH && !touches {
            return false;
        }
        n += 1;
        config.hits(n - 1)
    };
    batch.iter().map(fails).collect()
}

fn run(rig: &mut Rig, batch: &[(u8, u64, u64)]) -> HashMap<u64, Result<u32, OpError>> {
    let lease = rig.queue.alloc(8 * 512).unwrap();
    for (value, &(kind, at, sectors)) in (0..).zip(batch) {
        let (offset, len) = (at * 512, sectors * 512);
        let data = lease.data().slice(0, len.try_into().unwrap());
        let action = match kind {
            0 => Action::Read { offset, data },
            1 => Action::Write {
                offset,
                data,
                durable: false,
            },
            2 => Action::Flush,
            3 => Action::Discard { offset, len },
            _ => Action::WriteZeroes {
                offset,
                len,
                unmap: false,
                fast: false,
            },
        };
        rig.push(value, action);
    }
    let done = rig.finish();
    rig.queue.free(lease);
    done
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn exactly_the_ops_that_the_seed_says_fail(
        batch in ops(),
        seed in any::<u64>(),
        rate in prop_oneof![Just(0.0), Just(1.0), 0.0..1.0],
        kinds in any::<u8>(),
        range in prop::option::of((0u64..40_000, 1u64..4000)),
    ) {
        let mut config = FaultConfig { rate, seed, errno: Errno::NOSPC, ..FaultConfig::default() };
        config.scope.kinds = OpKinds::from_bits_truncate(kinds);
        config.scope.range = range.map(|(start, len)| start..start + len);
        let fault = FilterConfig::Fault(config.clone());
        // Another filter before it does not matter, nor does a hold, nor that the queue continues transfers and tries again.
        let chains = [vec![fault.clone()], vec!["latency:1us".parse().unwrap(), fault]];
        for mut rig in chains.into_iter().flat_map(rigs) {
            let done = run(&mut rig, &batch);
            let failed: Vec<bool> = (0..batch.len() as u64)
                .map(|value| done[&value] == Err(OpError::Os(Errno::NOSPC)))
                .collect();
            prop_assert_eq!(failed, expected(&config, &batch));
            prop_assert!(done.values().all(|result| result.is_ok() || *result == Err(OpError::Os(Errno::NOSPC))));
        }
    }
}

/// A queue on each engine that answers for what it does, with a file of 64 KiB.
fn rigs(filters: Vec<FilterConfig>) -> Vec<Rig> {
    let rig = Rig::new(filters.clone());
    rig.set_len(64 << 10);
    #[cfg(feature = "test-utils")]
    return vec![rig, Rig::simulated(filters, 64 << 10)];
    #[cfg(not(feature = "test-utils"))]
    vec![rig]
}

#[test]
fn about_as_many_fail_as_were_asked_for() {
    let config = FaultConfig {
        rate: 0.25,
        seed: 3,
        ..FaultConfig::default()
    };
    let hits = (0..100_000).filter(|&n| config.hits(n)).count();
    assert!((24_000..26_000).contains(&hits), "{hits}");
    let other = FaultConfig {
        seed: 4,
        ..config.clone()
    };
    assert!((0..100).any(|n| config.hits(n) != other.hits(n)));
}

#[test]
fn the_dump_counts_faults() {
    let mut rig = Rig::new(vec!["fault:op=write".parse().unwrap()]);
    assert_eq!(rig.write(0, &[1; 512]), Err(OpError::Os(Errno::IO)));
    assert_eq!(rig.run(Action::Flush), Ok(0));
    let dump = rig.queue.dump();
    assert!(
        dump.contains("filter fault:rate=1,op=write,errno=EIO,seed=0\n1 of 1 ops in its scope failed\n"),
        "{dump}"
    );
}
