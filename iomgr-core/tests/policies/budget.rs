//! How long to go on, with which seeds.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use fastrand::Rng;

/// Milliseconds that CI takes for all policies together; `IOMGR_SIM_SECS` sets another number of seconds.
const CI_MS: u64 = 40_000;
/// Among how many tests they are shared out.
const SHARES: u64 = 8;
/// What a soak takes for each, at least.
const SOAK_EVENTS: u64 = 10_000_000;
/// What a seed takes at most; most take milliseconds.
const PATIENCE: Duration = Duration::from_secs(180);

/// Calls `run`, which says how many events it saw, for the kept seeds, then for new ones until this test's share of the time is
/// over, and in a soak until ten million events were seen. `IOMGR_SIM_SEED` replays one seed, and nothing else. A seed that
/// fails is printed.
pub(crate) fn for_seeds(test: &str, kept: &[u64], run: impl Fn(u64) -> u64) {
    let watchdog = watchdog(test.to_owned());
    let run = |seed| {
        watchdog.send(seed).expect("it ends after us");
        catch_unwind(AssertUnwindSafe(|| run(seed))).unwrap_or_else(|panic| {
            println!("seed {seed} fails; replay with: {}", replay(test, seed));
            resume_unwind(panic)
        })
    };
    if let Some(seed) = number("IOMGR_SIM_SEED") {
        run(seed);
        return;
    }
    let budget = Duration::from_millis(number("IOMGR_SIM_SECS").map_or(CI_MS, |secs| secs * 1000) / SHARES);
    let soak = std::env::var_os("IOMGR_SOAK").is_some();
    let (mut seeds, started) = (Rng::new(), Instant::now());
    let (mut events, mut fresh) = (kept.iter().map(|&seed| run(seed)).sum::<u64>(), 0);
    while started.elapsed() < budget || (soak && events < SOAK_EVENTS) {
        events += run(seeds.u64(..));
        fresh += 1;
    }
    println!(
        "{test}: {events} events, {} kept and {fresh} fresh seeds in {:?}",
        kept.len(),
        started.elapsed()
    );
}

/// Ends the process when a seed takes for ever, and says which.
fn watchdog(test: String) -> Sender<u64> {
    let (sender, seeds) = mpsc::channel();
    std::thread::spawn(move || {
        let mut last = 0;
        loop {
            match seeds.recv_timeout(PATIENCE) {
                Ok(seed) => last = seed,
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    println!("seed {last} does not come back; replay with: {}", replay(&test, last));
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
fn replay(test: &str, seed: u64) -> String {
    format!("IOMGR_SIM_SEED={seed} cargo test -p iomgr-core --test policies {test}")
}
