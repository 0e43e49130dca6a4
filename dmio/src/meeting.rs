//! Where the owner of a machine and other threads meet: a mutex, and a wake-up.
//!
//! ```text
//!  owner   take the wake-up ─► lock: work, look when to wake up next ─► sleep until then, or until woken ─┐
//!            ▲                                                                                            │
//!            └────────────────────────────────────────────────────────────────────────────────────────────┘
//!  others  lock: change something ─► wake
//! ```
//!
//! # Contract
//! - Whoever changes something by [`Meeting::visit`] wakes the owner after the lock is free: either the owner's next look at the
//!   machine finds the change, or the wake-up finds the owner asleep. An owner takes its wake-up before it looks, never after.
//! - The owner needs no wake-up for what it does itself, as it looks before it sleeps.

use crate::shim::{Mutex, PoisonError, Waker};

/// See the module.
#[derive(Debug)]
pub(crate) struct Meeting<M> {
    inner: Mutex<M>,
    waker: Waker,
}

impl<M> Meeting<M> {
    pub(crate) fn new(inner: M, waker: Waker) -> Self {
        Self {
            inner: Mutex::new(inner),
            waker,
        }
    }

    /// What the owner does, or what needs no work of the owner's.
    pub(crate) fn own<R>(&self, work: impl FnOnce(&mut M) -> R) -> R {
        // A panic under the lock is a bug of ours that was told; what was to be cancelled is to be cancelled all the same.
        work(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What other threads do: the owner looks after it.
    pub(crate) fn visit<R>(&self, work: impl FnOnce(&mut M) -> R) -> R {
        let result = self.own(work);
        self.wake();
        result
    }

    /// The same for what the owner looks at only if it said so: `work` tells.
    pub(crate) fn pass_by(&self, work: impl FnOnce(&mut M) -> bool) {
        if self.own(work) {
            self.wake();
        }
    }

    /// Makes the owner look.
    pub(crate) fn wake(&self) {
        self.waker.wake();
    }
}
