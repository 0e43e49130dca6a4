//! How another thread gets a queue thread to look around.

use std::fmt;
use std::sync::Arc;

/// Wakes the loop of one queue thread. Waking twice is the same as waking once; waking a loop that ended does nothing.
pub trait Wake: Send + Sync {
    /// Makes the loop run a pass soon, and call [`DeviceQueue::kick`](crate::DeviceQueue::kick) in it.
    ///
    /// The wake-up is never lost: a loop that is about to sleep wakes at once (an eventfd counts it).
    fn wake(&self);
}

/// A shared [`Wake`].
#[derive(Clone)]
pub struct Waker(Arc<dyn Wake>);

impl Waker {
    /// Shares `wake`.
    pub fn new(wake: Arc<dyn Wake>) -> Self {
        Self(wake)
    }

    /// A waker for loops that never sleep (simulations, blocking callers).
    pub fn none() -> Self {
        struct Never;
        impl Wake for Never {
            fn wake(&self) {}
        }
        Self(Arc::new(Never))
    }

    /// See [`Wake::wake`].
    pub fn wake(&self) {
        self.0.wake();
    }
}

impl fmt::Debug for Waker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Waker")
    }
}
