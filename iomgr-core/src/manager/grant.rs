//! A request's way through the hooks, as values that must be used up.
//!
//! The original lost a manager's share whenever somebody forgot to give it back. Here a [`Grant`] and a [`Ticket`] can be
//! neither copied nor dropped: dropping one is logged, counted, and a panic where debug assertions are on.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::Tag;

/// Grants and tickets that were dropped instead of used, in this process.
static LEAKED: AtomicU64 = AtomicU64::new(0);

/// How many grants and tickets were dropped instead of used, in this process. Anything but 0 is a bug of a frontend.
pub fn leaked_total() -> u64 {
    LEAKED.load(Ordering::Relaxed)
}

/// A request that may start.
#[must_use = "a grant goes to `Intake::alloc` or `Intake::oo_abort`"]
#[derive(Debug)]
pub struct Granted {
    /// Which one.
    pub tag: Tag,
    /// The right to start it.
    pub grant: Grant,
}

/// The right to start one request: goes to [`Intake::alloc`](super::Intake::alloc) or
/// [`Intake::oo_abort`](super::Intake::oo_abort) of the intake that gave it.
#[must_use = "a grant goes to `Intake::alloc` or `Intake::oo_abort`"]
#[derive(Debug)]
pub struct Grant(pub(super) Claim);

/// A request that started: goes to [`Intake::free`](super::Intake::free) of the intake that gave it.
#[must_use = "a ticket goes to `Intake::free`"]
#[derive(Debug)]
pub struct Ticket(pub(super) Claim);

/// What must be used up: names a request of an intake.
#[derive(Debug)]
pub(super) struct Claim {
    /// Its index in the intake's table.
    index: u32,
    /// The intake's number, against mixing them up.
    intake: u32,
    used: bool,
}

impl Claim {
    #[inline]
    pub(super) fn new(index: u32, intake: u32) -> Self {
        Self {
            index,
            intake,
            used: false,
        }
    }

    /// Uses it up, at the intake that gave it.
    #[inline]
    pub(super) fn take(mut self, intake: u32) -> u32 {
        assert_eq!(
            self.intake, intake,
            "a grant or ticket goes back to the intake that gave it"
        );
        self.used = true;
        self.index
    }
}

impl Drop for Claim {
    #[inline]
    fn drop(&mut self) {
        if !self.used {
            leaked(self);
        }
    }
}

#[cold]
fn leaked(claim: &Claim) {
    LEAKED.fetch_add(1, Ordering::Relaxed);
    tracing::error!(intake = claim.intake, request = claim.index, "request_leaked");
    if cfg!(debug_assertions) && !std::thread::panicking() {
        panic!("a grant or ticket was dropped instead of used: {claim:?}");
    }
}
