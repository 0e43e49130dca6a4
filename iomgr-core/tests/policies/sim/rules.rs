//! How the frontends behave.

use std::time::Duration;

use fastrand::Rng;

/// How the frontends behave.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// Threads that serve the queues; one for each queue if there are fewer queues.
    pub(crate) threads: usize,
    /// What a pass takes.
    pub(crate) pass: Duration,
    /// Of 1000 grants, those that are given back for want of resources.
    pub(crate) aborts: u32,
    /// How long everything may take to end, in virtual time.
    pub(crate) patience: Duration,
    /// Passes for the sake of `wake_at` without a grant, for each request that is granted; a few hundred are free.
    pub(crate) idle_passes: u64,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            threads: usize::MAX,
            pass: Duration::ZERO,
            aborts: 0,
            patience: Duration::from_secs(200_000),
            idle_passes: 1,
        }
    }
}

impl Rules {
    /// Any behaviour.
    pub(crate) fn random(rng: &mut Rng) -> Self {
        Self {
            threads: rng.usize(1..12),
            pass: Duration::from_nanos(rng.u64(0..20_000)) * u32::from(rng.bool()),
            aborts: rng.u32(0..50) * u32::from(rng.bool()),
            ..Self::default()
        }
    }
}
