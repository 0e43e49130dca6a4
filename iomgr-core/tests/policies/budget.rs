//! How long the policies' random tests go on.

use iomgr_core::test_utils::Seeds;

const SEEDS: Seeds = Seeds {
    command: "cargo test -p iomgr-core --test policies",
    ci_secs: 40,
    shares: 8,
    unit: "events",
    soak: 10_000_000,
};

/// Calls `run`, which says how many events it saw, for the kept seeds and for new ones: see [`Seeds::run`].
pub(crate) fn for_seeds(test: &'static str, kept: &[u64], run: impl FnMut(u64) -> u64) {
    SEEDS.run(test, kept, run);
}
