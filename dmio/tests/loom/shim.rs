//! What `src/shim.rs` is in the crate; and a waker that does what tqueue's `EventWake` does.

pub(crate) use loom::sync::Mutex;
pub(crate) use std::sync::PoisonError;

use loom::sync::atomic::{AtomicBool, Ordering};
use loom::sync::{Arc, Condvar};

/// A flag, and a count to sleep on: an eventfd.
#[derive(Debug, Default)]
struct Event {
    called: AtomicBool,
    count: Mutex<u64>,
    ring: Condvar,
}

/// Wakes a thread that sleeps on its event.
#[derive(Clone, Debug, Default)]
pub(crate) struct Waker(Arc<Event>);

impl Waker {
    pub(crate) fn wake(&self) {
        if !self.0.called.swap(true, Ordering::AcqRel) {
            *self.0.count.lock().unwrap() += 1;
            self.0.ring.notify_one();
        }
    }

    /// Takes the wake-up: the count first, then the flag.
    pub(crate) fn take(&self) {
        *self.0.count.lock().unwrap() = 0;
        self.0.called.swap(false, Ordering::AcqRel);
    }

    /// Sleeps until it is woken; a wake-up that was not taken counts. What nobody wakes is a deadlock, and the end of the test.
    pub(crate) fn sleep(&self) {
        let mut count = self.0.count.lock().unwrap();
        while *count == 0 {
            count = self.0.ring.wait(count).unwrap();
        }
    }
}
