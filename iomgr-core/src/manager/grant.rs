//! A request's way through the hooks, as values that must be used up.
//!
//! The original lost a manager's share whenever somebody forgot to give it back. Here a [`Grant`] and a [`Ticket`] can be
//! neither copied nor dropped: dropping one is logged, counted, and a panic where debug assertions are on.

use std::mem::ManuallyDrop;
use std::num::NonZeroU64;
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

/// What must be used up: names a request of an intake. A single word, so that it travels in a register.
#[derive(Debug)]
pub(super) struct Claim(NonZeroU64);

impl Claim {
    /// Names the request at `index` of the table of intake number `intake`, which is never 0.
    #[inline]
    pub(super) fn new(index: u32, intake: u32) -> Self {
        let name = u64::from(intake) << 32 | u64::from(index);
        Self(NonZeroU64::new(name).expect("intakes are numbered from 1"))
    }

    /// Uses it up, at the intake that gave it.
    #[inline]
    pub(super) fn take(self, intake: u32) -> u32 {
        assert_eq!(
            self.intake(),
            intake,
            "a grant or ticket goes back to the intake that gave it"
        );
        // What is used up is not dropped.
        ManuallyDrop::new(self).index()
    }

    #[expect(clippy::cast_possible_truncation, reason = "the lower half")]
    fn index(&self) -> u32 {
        self.0.get() as u32
    }

    fn intake(&self) -> u32 {
        (self.0.get() >> 32) as u32
    }
}

impl Drop for Claim {
    #[inline]
    fn drop(&mut self) {
        leaked(self);
    }
}

#[cold]
fn leaked(claim: &Claim) {
    LEAKED.fetch_add(1, Ordering::Relaxed);
    tracing::error!(intake = claim.intake(), request = claim.index(), "request_leaked");
    if cfg!(debug_assertions) && !std::thread::panicking() {
        panic!("a grant or ticket was dropped instead of used: {claim:?}");
    }
}
