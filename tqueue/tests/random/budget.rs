//! How long the random tests go on, each for itself.

use iomgr_core::test_utils::Seeds;

const SEEDS: Seeds = Seeds {
    command: "cargo test -p tqueue --test random",
    ci_secs: 40,
    shares: 1,
    unit: "ops",
    soak: 1_000_000,
};

/// Calls `run`, which says how many ops it did, for the kept seeds and for new ones: see [`Seeds::run`].
pub(crate) fn for_seeds(test: &'static str, kept: &[u64], run: impl FnMut(u64) -> u64) {
    SEEDS.run(test, kept, run);
}

/// The command that runs a seed again.
pub(crate) fn replay(test: &str, seed: u64) -> String {
    SEEDS.replay(test, seed)
}
