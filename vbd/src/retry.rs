//! Errors that pass: which they are, when a request that met one is tried again, and what is counted and logged of it.
//!
//! ```text
//!  request ─► ops ─► error that passes? ──no──► its end
//!               ▲          │ yes
//!               │          ▼
//!               └── due ── delayed: 10 ms, 20 ms, … 1 s, until the deadline ──► its end, with the error
//! ```
//!
//! A delayed request waits in its own slot, so it takes no memory, and nothing waits for it but who sent it. What is tried again is
//! the whole of it: what of it was done is done once more, which nobody can tell, as it was not acknowledged.
//!
//! # Contract
//! - The deadline counts from the request's arrival. The last attempt is made at the deadline.
//! - A failed flush is not tried again, nor is anything that may have failed in one (design, Durability 5).

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use iomgr_core::{Errno, Timestamp};
use serde::{Deserialize, Serialize};

/// The first delay; each one after it is twice as long.
const DELAY_FIRST: Duration = Duration::from_millis(10);
/// The longest.
const DELAY_MAX: Duration = Duration::from_secs(1);
/// After so many doublings a delay is the longest.
const DOUBLINGS_MAX: u32 = 7;
/// A disk's log has no more than one line about retries of a kind in so many seconds.
const RETRIES_QUIET_S: u64 = 30;
/// And no more than one about failed requests.
const FAILED_QUIET_S: u64 = 1;

bitflags::bitflags! {
    /// Errors that pass only if somebody says so. `EAGAIN`, `EBUSY` and `EINTR` always do.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct RetryOn: u8 {
        /// The storage failed: a network or a server that comes back.
        const EIO = 1 << 0;
        /// It is full: until somebody makes room.
        const ENOSPC = 1 << 1;
        /// As before, for one user.
        const EDQUOT = 1 << 2;
        /// An NFS server has forgotten the file.
        const ESTALE = 1 << 3;
        /// An NFS server did not answer.
        const ETIMEDOUT = 1 << 4;
    }
}

/// The names of the errors that always pass.
const ALWAYS: [&str; 3] = ["EAGAIN", "EBUSY", "EINTR"];

/// What a disk does about errors of its image's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Errors that pass, besides those that always do.
    pub also: RetryOn,
    /// How long a request is tried again, from its arrival on; never, if zero.
    pub timeout: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// What was tried how often.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempts {
    /// The first time.
    pub(crate) since: Timestamp,
    /// Times that it was tried again so far.
    pub(crate) again: u32,
    /// Differs among those that fail together, so that they do not come back together.
    pub(crate) salt: u32,
}

impl RetryPolicy {
    /// Two minutes, and no errors but those that always pass.
    pub const DEFAULT: Self = Self {
        also: RetryOn::empty(),
        timeout: Duration::from_secs(120),
    };

    /// The names of all errors that pass.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + use<> {
        let also = self.also.iter_names().map(|(name, _)| name);
        ALWAYS.into_iter().chain(also)
    }

    /// When to try again what met `errno` just now; `None` if it is not to be.
    pub(crate) fn next_try(&self, errno: Errno, attempts: Attempts, now: Timestamp) -> Option<Timestamp> {
        let deadline = attempts.since + self.timeout;
        let due = || (now + delay(attempts, now)).min(deadline);
        (self.passes(errno) && now < deadline).then(due)
    }

    fn passes(&self, errno: Errno) -> bool {
        let also = match errno {
            Errno::AGAIN | Errno::BUSY | Errno::INTR => return true,
            Errno::IO => RetryOn::EIO,
            Errno::NOSPC => RetryOn::ENOSPC,
            Errno::DQUOT => RetryOn::EDQUOT,
            Errno::STALE => RetryOn::ESTALE,
            Errno::TIMEDOUT => RetryOn::ETIMEDOUT,
            _ => return false,
        };
        self.also.contains(also)
    }
}

/// Grows with each attempt, and is a quarter shorter or longer by chance.
fn delay(attempts: Attempts, now: Timestamp) -> Duration {
    let even = (DELAY_FIRST * (1 << attempts.again.min(DOUBLINGS_MAX))).min(DELAY_MAX);
    // The time and the tag, well mixed: chance enough to keep requests apart, and nothing to be drawn where none fails.
    let mixed = (now.as_nanos() ^ u64::from(attempts.salt) << 32).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let part = u32::try_from(mixed >> 48).expect("16 bits");
    even * 3 / 4 + even / 2 * part / (1 << 16)
}

/// Can the flush in a durable write not be what failed with `errno`? These say that there was no room, or that nothing was done.
pub(crate) fn is_before_any_flush(errno: Errno) -> bool {
    matches!(errno, Errno::NOSPC | Errno::AGAIN | Errno::BUSY | Errno::INTR)
}

/// How a disk's errors pass.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RetryStatus {
    /// The errors that pass.
    pub errors: Vec<String>,
    /// Seconds from its arrival that a request is tried again.
    pub timeout_s: f64,
    /// Times that something was tried again.
    pub retries: u64,
    /// Requests and metadata operations that ended with their error after they had been tried again.
    pub given_up: u64,
    /// Requests and metadata operations that wait to be tried again.
    pub waiting: u32,
}

/// What all queues of a disk count together. Touched only where something fails.
#[derive(Debug, Default)]
pub(crate) struct Retries {
    retries: AtomicU64,
    given_up: AtomicU64,
    waiting: AtomicU32,
    /// The disk is going away: nothing is tried again.
    over: AtomicBool,
    delayed: Burst<RETRIES_QUIET_S>,
    gave_up: Burst<RETRIES_QUIET_S>,
    failed: Burst<FAILED_QUIET_S>,
}

impl Retries {
    /// Something waits to be tried again.
    pub(crate) fn delay(&self, disk: &str, what: fmt::Arguments<'_>, errno: Errno, now: Timestamp) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        if let Some(more) = self.delayed.admit(now) {
            tracing::warn!(disk, %what, %errno, more, "request_delayed: it is tried again; `iomgr status` counts");
        }
    }

    /// Its wait is over.
    pub(crate) fn end_delay(&self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    /// It is tried again.
    pub(crate) fn retry(&self) {
        self.end_delay();
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    /// It ends with its error although it was tried again.
    pub(crate) fn give_up(
        &self,
        disk: &str,
        what: fmt::Arguments<'_>,
        errno: Errno,
        attempts: Attempts,
        now: Timestamp,
    ) {
        self.given_up.fetch_add(1, Ordering::Relaxed);
        if let Some(more) = self.gave_up.admit(now) {
            let (tried_for, times) = (now.since(attempts.since), attempts.again);
            tracing::error!(disk, %what, %errno, ?tried_for, times, more, "request_given_up");
        }
    }

    /// A request ends with an error at the first attempt.
    pub(crate) fn fail(&self, disk: &str, what: fmt::Arguments<'_>, errno: Errno, now: Timestamp) {
        if let Some(more) = self.failed.admit(now) {
            tracing::warn!(disk, %what, %errno, more, "request_failed");
        }
    }

    /// From now on nothing is tried again.
    pub(crate) fn end(&self) {
        self.over.store(true, Ordering::Release);
    }

    pub(crate) fn are_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    pub(crate) fn status(&self, policy: &RetryPolicy) -> RetryStatus {
        RetryStatus {
            errors: policy.names().map(str::to_owned).collect(),
            timeout_s: policy.timeout.as_secs_f64(),
            retries: self.retries.load(Ordering::Relaxed),
            given_up: self.given_up.load(Ordering::Relaxed),
            waiting: self.waiting.load(Ordering::Relaxed),
        }
    }
}

/// Lets one event in so many seconds into the log.
#[derive(Debug, Default)]
struct Burst<const QUIET_S: u64> {
    /// When that was the last time; zero: never.
    last_ns: AtomicU64,
    held_back: AtomicU64,
}

impl<const QUIET_S: u64> Burst<QUIET_S> {
    /// `Some`, with the number of events that were held back before, if this one may be told.
    fn admit(&self, now: Timestamp) -> Option<u64> {
        let last = self.last_ns.load(Ordering::Relaxed);
        let is_new = last == 0 || now.since(Timestamp::from_nanos(last)) >= Duration::from_secs(QUIET_S);
        let swap = |to| {
            let swapped = self
                .last_ns
                .compare_exchange(last, to, Ordering::Relaxed, Ordering::Relaxed);
            swapped.is_ok()
        };
        if is_new && swap(now.as_nanos().max(1)) {
            return Some(self.held_back.swap(0, Ordering::Relaxed));
        }
        self.held_back.fetch_add(1, Ordering::Relaxed);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::from_nanos(5_000_000_000);

    fn policy(also: RetryOn, timeout_s: u64) -> RetryPolicy {
        let timeout = Duration::from_secs(timeout_s);
        RetryPolicy { also, timeout }
    }

    fn attempts(again: u32, salt: u32) -> Attempts {
        let since = START;
        Attempts { since, again, salt }
    }

    #[test]
    fn delays_grow_to_a_second_and_differ() {
        let policy = policy(RetryOn::EIO, 1000);
        let after = |again, salt| {
            let due = policy.next_try(Errno::IO, attempts(again, salt), START).unwrap();
            due.since(START)
        };
        for (again, even_ms) in [(0, 10), (1, 20), (5, 320), (6, 640), (7, 1000), (u32::MAX, 1000)] {
            let even = Duration::from_millis(even_ms);
            let all: Vec<_> = (0..64).map(|salt| after(again, salt)).collect();
            assert!(
                all.iter().all(|&time| time >= even * 3 / 4 && time <= even * 5 / 4),
                "{all:?}"
            );
            let (first, last) = (all.iter().min().unwrap(), all.iter().max().unwrap());
            assert!(*last - *first > even / 4, "{all:?}");
        }
    }

    #[test]
    fn the_last_attempt_is_made_at_the_deadline() {
        let policy = policy(RetryOn::EIO, 2);
        let deadline = START + Duration::from_secs(2);
        let (mut now, mut again) = (START, 0);
        while let Some(due) = policy.next_try(Errno::IO, attempts(again, 7), now) {
            assert!(due > now && due <= deadline);
            (now, again) = (due, again + 1);
        }
        assert_eq!(now, deadline);
        assert!(again > 6, "{again}");
    }

    #[test]
    fn only_what_passes_is_tried_again() {
        let tries = |policy: RetryPolicy, errno| policy.next_try(errno, attempts(0, 0), START).is_some();
        let plain = RetryPolicy::DEFAULT;
        for errno in [Errno::AGAIN, Errno::BUSY, Errno::INTR] {
            assert!(tries(plain, errno));
            assert!(!tries(policy(RetryOn::all(), 0), errno), "switched off");
        }
        for errno in [Errno::IO, Errno::NOSPC, Errno::DQUOT, Errno::STALE, Errno::TIMEDOUT] {
            assert!(!tries(plain, errno));
            assert!(tries(policy(RetryOn::all(), 1), errno));
        }
        assert!(!tries(policy(RetryOn::all(), 1), Errno::INVAL));
        assert!(!tries(policy(RetryOn::ESTALE, 1), Errno::IO));
    }

    #[test]
    fn a_burst_is_told_once() {
        const QUIET: Duration = Duration::from_secs(30);
        let burst = Burst::<30>::default();
        assert_eq!(burst.admit(START), Some(0));
        assert_eq!(burst.admit(START), None);
        assert_eq!(burst.admit(START + QUIET / 2), None);
        assert_eq!(burst.admit(START + QUIET), Some(2));
        assert_eq!(burst.admit(START + QUIET), None);
    }
}
