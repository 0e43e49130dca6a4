//! How long the random tests go on.

use iomgr_core::test_utils::Seeds;

const SEEDS: Seeds = Seeds {
    command: "cargo test -p iomgr-dmio --test machine",
    ci_secs: 15,
    shares: 9,
    unit: "steps",
    soak: 5_000_000,
};

/// Calls `run`, which says how many steps it did, for the kept seeds and for new ones: see [`Seeds::run`].
pub(crate) fn for_seeds(test: &'static str, kept: &[u64], run: impl FnMut(u64) -> u64) {
    SEEDS.run(test, kept, run);
}
