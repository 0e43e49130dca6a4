//! A request's way through the hooks, as values that must be used up.
//!
//! The original lost a manager's share whenever somebody forgot to give it back. Here a [`Grant`] and a [`Ticket`] can be
//! neither copied nor dropped: dropping one is logged, counted, and a panic where debug assertions are on.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Head;
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
pub struct Grant {
    pub(super) pin: Pin,
    /// The place in its class's queue, for the way back.
    pub(super) place: u64,
}

/// A request that started: goes to [`Intake::free`](super::Intake::free) of the intake that gave it.
#[must_use = "a ticket goes to `Intake::free`"]
#[derive(Debug)]
pub struct Ticket {
    pub(super) pin: Pin,
}

/// What keeps a generation alive for a request, by index into its intake's table.
#[derive(Debug)]
pub(super) struct Pin {
    pub(super) slot: u32,
    /// The intake's number, against mixing them up.
    pub(super) intake: u32,
    pub(super) head: Head,
    used: bool,
}

impl Pin {
    pub(super) fn new(slot: u32, intake: u32, head: Head) -> Self {
        Self {
            slot,
            intake,
            head,
            used: false,
        }
    }

    /// Uses it up.
    pub(super) fn take(mut self) -> (u32, Head) {
        self.used = true;
        (self.slot, self.head)
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        if !self.used {
            leaked(&self.head);
        }
    }
}

#[cold]
fn leaked(head: &Head) {
    LEAKED.fetch_add(1, Ordering::Relaxed);
    tracing::error!(?head, "request_leaked");
    if cfg!(debug_assertions) && !std::thread::panicking() {
        panic!("a grant or ticket was dropped instead of used: {head:?}");
    }
}
