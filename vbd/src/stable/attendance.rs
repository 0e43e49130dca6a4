//! Who serves a generation: nobody may take it away before all have left.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Which queues serve a generation.
#[derive(Debug, Default)]
pub(crate) struct Attendance {
    count: Mutex<u32>,
    left: Condvar,
    /// Has queue 0 entered, so that others may? Or could it not, so that they need not wait?
    first: AtomicU8,
}

/// Values of [`Attendance::first`].
const ABSENT: u8 = 0;
const PRESENT: u8 = 1;
const REFUSED: u8 = 2;

impl Attendance {
    pub(super) fn enter(&self, is_first: bool) {
        *self.count.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        if is_first {
            self.first.store(PRESENT, Ordering::Release);
        }
    }

    pub(super) fn leave(&self, is_first: bool) {
        if is_first {
            self.first.store(ABSENT, Ordering::Release);
        }
        *self.count.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.left.notify_all();
    }

    /// Queue 0 has entered, or could not: others may go on.
    pub(super) fn first_is_through(&self) {
        // Unless it is inside.
        let _is = self
            .first
            .compare_exchange(ABSENT, REFUSED, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Is it still to come?
    pub(super) fn awaits_first(&self) -> bool {
        self.first.load(Ordering::Acquire) == ABSENT
    }

    pub(crate) fn count(&self) -> u32 {
        *self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Blocks until no queue serves the generation any more; says whether that came to pass in time.
    pub(crate) fn wait(&self, timeout: Duration) -> bool {
        let count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.left.wait_timeout_while(count, timeout, |count| *count > 0);
        *waited.unwrap_or_else(PoisonError::into_inner).0 == 0
    }
}
