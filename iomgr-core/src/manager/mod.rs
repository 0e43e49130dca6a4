//! I/O request managers: a policy that decides when each device may issue I/O, swapped while I/O runs.
//!
//! A [`Manager`] is asked at seven places in the life of a device and its requests, the places of the Xen I/O request
//! manager of 2007. The [`Registry`] knows which one is current; a frontend attaches its device ([`ManagedDevice`]) and
//! puts an [`Intake`] between what it received and what it starts, one per device queue.
//!
//! ```text
//!  attach ─► dev_start                                                              dev_stop ◄─ the last one let go
//!                │                                                                      ▲
//!                ▼      begin_pass, next          next              alloc          free │
//!  received ─► push ─► waiting_request ─► allow_request ─► Grant ─┬────► Ticket ────────┴─► gone
//!                ▲           │ No(wait)       │ No(wait)          │   alloc_request   free_request
//!                │           ▼                ▼                   │ oo_abort
//!                └───── held: device      held: its class         ▼
//!                └──────────────────────────────────────── oo_abort_request
//! ```
//!
//! # Contract
//! - Every grant is followed by exactly one of `alloc` and `oo_abort`, every ticket by exactly one `free`; a request pins
//!   the manager that granted it, and a swap in between changes nothing for it.
//! - "No" always carries a reason to look again ([`Wait`]), so that nobody spins, and holds one class of one device only.
//! - A manager never owns a request; it sees [`Head`]s. Time comes in as an argument.
//! - The counts of pending requests are exact whenever nothing moves.
//!
//! # Swap
//! [`Registry::replace`] calls the new manager's `dev_start` for every device, publishes it, and wakes every intake. Each
//! intake moves over at its next [`Intake::begin_pass`]: waiting requests are judged by the new manager, those on their
//! way end with the old one, and the old one gets `dev_stop` after its last `free`. Nothing drains, nothing pauses.
//!
//! # Panics
//! A manager that panics is replaced by "none" with an error in the log, no hook of it is called again, and the I/O goes
//! on.
//!
//! # Slow hooks
//! Hooks run on the queues' threads: what they take, every request of that thread waits. A pass of the loop whose hooks took
//! above 1 ms is counted and reported ([`HookMeter`]). **A hook that does not return is fatal to its queue**, and to all
//! others of the thread: nothing can be done for them but to say so, which a watchdog does after a second
//! ([`HookWatch`]). The same goes for `dev_stop`, and for `dev_start` whoever attaches or swaps waits for ever.

mod counters;
mod device;
mod error;
mod freed;
mod generation;
mod grant;
mod holds;
mod intake;
mod ledger;
mod live;
mod none;
mod registry;
mod requests;
#[cfg(any(test, feature = "test-utils"))]
pub mod test_utils;
mod waits;
mod watch;

use std::fmt::{self, Debug};

use crate::{Class, Operation, Request, SectorRange, Timestamp};

pub use counters::{Counters, Ngs};
pub use device::{DeviceId, DeviceInfo, ManagedDevice};
pub use error::{Error, ErrorKind};
pub use grant::{Grant, Granted, Ticket, leaked_total};
pub use intake::Intake;
pub use ledger::GenerationStats;
pub use none::NoManager;
pub use registry::{NAME_MAX, Registry};
pub use waits::WaitTimes;
pub use watch::{HookCounts, HookMeter, HookWatch, Scan, Stuck};

/// A policy for I/O requests. A hook that is not implemented means go.
///
/// Hooks of one device queue are called on its thread, those of different queues at the same time: state is the manager's
/// to guard. None may block, and none may call back into the [`Registry`] (except to read counts) or an [`Intake`].
pub trait Manager: Send + Sync + Debug {
    /// Its name: 1 to 15 printable ASCII characters, without spaces, and not "none".
    fn name(&self) -> &str;

    /// A device is there; called before any other hook for it. Refusing fails the attach, or the swap, with that reason.
    fn dev_start(&self, device: &DeviceInfo) -> Result<(), Refusal> {
        let _ = device;
        Ok(())
    }

    /// May the device look at its queue? Asked at most once a pass, and only when something is queued; a "no" holds all
    /// of that device queue, flushes included.
    fn waiting_request(&self, device: &DeviceInfo, now: Timestamp) -> Verdict {
        let _ = (device, now);
        Verdict::Go
    }

    /// May this request start? A "no" holds its class of that device queue. The same request may be asked for any number of
    /// times; only [`Verdict::Go`] grants something.
    fn allow_request(&self, device: &DeviceInfo, head: &Head, now: Timestamp) -> Verdict {
        let _ = (device, head, now);
        Verdict::Go
    }

    /// A granted request starts.
    fn alloc_request(&self, device: &DeviceInfo, head: &Head, now: Timestamp) {
        let _ = (device, head, now);
    }

    /// A granted request cannot start for want of resources: takes back what `allow_request` granted.
    fn oo_abort_request(&self, device: &DeviceInfo, head: &Head, now: Timestamp) {
        let _ = (device, head, now);
    }

    /// A request that started has ended. Whoever waits for [`Wait::Freed`] looks again when this has returned.
    fn free_request(&self, device: &DeviceInfo, head: &Head, now: Timestamp) {
        let _ = (device, head, now);
    }

    /// The device is gone, or the manager is: the last hook for it.
    fn dev_stop(&self, device: &DeviceInfo) {
        let _ = device;
    }
}

/// A manager's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Go ahead.
    Go,
    /// Not now; look again when the reason says so.
    No(Wait),
}

/// When a held request is looked at again. A swap ends every wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Wait {
    /// At this instant. One that has passed already counts as a millisecond from now.
    Until(Timestamp),
    /// When a request of this manager is freed or given back, whichever device or queue it belongs to. Only for a manager
    /// that has granted something: without a request on its way nothing ends this wait but a swap.
    Freed,
    /// As [`Wait::Freed`], but at this instant if nothing was freed before: for who expects somebody else to move, and does
    /// not rely on it. That may be another class of the same queue: when one was granted something, and no other can be, such a
    /// wait of a class ends within the pass. One that has passed already counts as a millisecond from now.
    FreedOr(Timestamp),
}

impl Wait {
    /// Does the end of another request end it?
    pub(crate) fn ends_with_free(self) -> bool {
        match self {
            Self::Until(_) => false,
            Self::Freed | Self::FreedOr(_) => true,
        }
    }

    /// When it ends by itself.
    pub(crate) fn until(self) -> Option<Timestamp> {
        match self {
            Self::Until(at) | Self::FreedOr(at) => Some(at),
            Self::Freed => None,
        }
    }
}

/// What a manager sees of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its class: what a "no" holds.
    pub class: Class,
    /// What it does.
    pub op: Operation,
    /// Where, and how much.
    pub range: SectorRange,
    /// When the frontend received it.
    pub arrival: Timestamp,
}

impl Head {
    /// The head of a request of this operation.
    pub fn new(op: Operation, range: SectorRange, arrival: Timestamp) -> Self {
        Self {
            class: op.class(),
            op,
            range,
            arrival,
        }
    }
}

impl From<&Request> for Head {
    fn from(request: &Request) -> Self {
        Self::new(request.op, request.range, request.arrival)
    }
}

/// Why a manager does not take a device, in words for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal(String);

impl Refusal {
    /// Refuses with this reason.
    pub fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}
