//! Tests that run seeds until their time is over.
#![expect(clippy::print_stdout, reason = "a test shows what it did, and the seed that failed")]

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use fastrand::Rng;

/// What a seed takes at most; most take milliseconds.
const PATIENCE: Duration = Duration::from_secs(180);

/// How long to go on, and how a seed is run again.
///
/// `IOMGR_SIM_SEED` replays one seed, and nothing else; `IOMGR_SIM_SECS` sets another number of seconds; `IOMGR_SOAK` asks for
/// a soak.
#[derive(Clone, Copy, Debug)]
pub struct Seeds {
    /// The command that runs the tests, without a test's name.
    pub command: &'static str,
    /// Seconds that CI takes for all tests that share.
    pub ci_secs: u64,
    /// Among how many tests they are shared out.
    pub shares: u32,
    /// What is counted.
    pub unit: &'static str,
    /// How much of it a soak takes for each test, at least.
    pub soak: u64,
}

impl Seeds {
    /// Calls `run`, which says how much it did, for the kept seeds, then for new ones until this test's share of the time is
    /// over, and in a soak until enough was done. A seed that fails is printed, and one that does not come back.
    pub fn run(&self, test: &'static str, kept: &[u64], mut run: impl FnMut(u64) -> u64) {
        let watchdog = self.watchdog(test);
        let mut run = |seed| {
            watchdog.send(seed).expect("it ends after us");
            catch_unwind(AssertUnwindSafe(|| run(seed))).unwrap_or_else(|panic| {
                println!("seed {seed} fails; replay with: {}", self.replay(test, seed));
                resume_unwind(panic)
            })
        };
        if let Some(seed) = number("IOMGR_SIM_SEED") {
            run(seed);
            return;
        }
        let budget = Duration::from_secs(number("IOMGR_SIM_SECS").unwrap_or(self.ci_secs)) / self.shares;
        let soak = std::env::var_os("IOMGR_SOAK").is_some();
        let (mut seeds, started) = (Rng::new(), Instant::now());
        let (mut done, mut fresh) = (kept.iter().map(|&seed| run(seed)).sum::<u64>(), 0);
        while started.elapsed() < budget || (soak && done < self.soak) {
            done += run(seeds.u64(..));
            fresh += 1;
        }
        let (unit, kept, took) = (self.unit, kept.len(), started.elapsed());
        println!("{test}: {done} {unit}, {kept} kept and {fresh} fresh seeds in {took:?}");
    }

    /// The command that runs a seed again.
    pub fn replay(&self, test: &str, seed: u64) -> String {
        format!("IOMGR_SIM_SEED={seed} {} {test}", self.command)
    }

    /// Ends the process when a seed takes for ever, and says which: what never comes back panics nowhere.
    fn watchdog(self, test: &'static str) -> Sender<u64> {
        let (sender, seeds) = mpsc::channel();
        std::thread::spawn(move || {
            let mut last = 0;
            loop {
                match seeds.recv_timeout(PATIENCE) {
                    Ok(seed) => last = seed,
                    Err(RecvTimeoutError::Disconnected) => return,
                    Err(RecvTimeoutError::Timeout) => {
                        println!(
                            "seed {last} does not come back; replay with: {}",
                            self.replay(test, last)
                        );
                        std::process::abort();
                    }
                }
            }
        });
        sender
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}
