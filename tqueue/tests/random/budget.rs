//! How long to go on, with which seeds.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use fastrand::Rng;

/// Seconds that CI takes; `IOMGR_SIM_SECS` sets another number.
const CI_SECS: u64 = 40;
/// What a seed takes at most; most take milliseconds.
const PATIENCE: Duration = Duration::from_secs(180);
/// What a soak takes, at least.
const SOAK_OPS: u64 = 1_000_000;

/// Calls `run`, which says how many ops it did, for the kept seeds, then for new ones until the time is over: 40 seconds, or a
/// million ops in a soak. `IOMGR_SIM_SEED` replays one seed, and nothing else. `run` sees to it that a seed that fails is
/// printed.
pub(crate) fn for_seeds(test: &str, kept: &[u64], mut run: impl FnMut(u64) -> u64) {
    let watchdog = watchdog(test.to_owned());
    let mut run = |seed| {
        watchdog.send(seed).expect("it ends after us");
        run(seed)
    };
    if let Some(seed) = number("IOMGR_SIM_SEED") {
        run(seed);
        return;
    }
    let budget = Duration::from_secs(number("IOMGR_SIM_SECS").unwrap_or(CI_SECS));
    let soak = std::env::var_os("IOMGR_SOAK").is_some();
    let (mut seeds, started) = (Rng::new(), Instant::now());
    let (mut ops, mut fresh) = (kept.iter().map(|&seed| run(seed)).sum::<u64>(), 0);
    while started.elapsed() < budget || (soak && ops < SOAK_OPS) {
        ops += run(seeds.u64(..));
        fresh += 1;
    }
    println!(
        "{test}: {ops} ops, {} kept and {fresh} fresh seeds in {:?}",
        kept.len(),
        started.elapsed()
    );
}

/// Ends the process when a seed takes for ever, and says which: a queue that never comes back panics nowhere.
fn watchdog(test: String) -> Sender<u64> {
    let (sender, seeds) = mpsc::channel();
    std::thread::spawn(move || {
        let mut last = 0;
        loop {
            match seeds.recv_timeout(PATIENCE) {
                Ok(seed) => last = seed,
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    println!("{test} does not come back; replay with: {}", replay(&test, last));
                    std::process::abort();
                }
            }
        }
    });
    sender
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// The command that runs a seed again.
pub(crate) fn replay(test: &str, seed: u64) -> String {
    format!("IOMGR_SIM_SEED={seed} cargo test -p tqueue --test random {test}")
}
