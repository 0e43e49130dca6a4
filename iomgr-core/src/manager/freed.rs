//! Waiting for "when one of mine is freed", without a lost wake-up and without a cost while nobody waits.
//!
//! A sleeper arms itself and then asks the manager *again*; whoever frees tells the manager and then looks for sleepers.
//! With a sequentially consistent fence between the two steps on both sides, either the second question sees the free, or
//! the one who freed sees the sleeper.

use std::sync::PoisonError;

use crate::Waker;
use crate::shim::{Arc, AtomicBool, AtomicUsize, Mutex, MutexGuard, Ordering, fence};

/// Sleepers at a time for which there is room from the start; arming is on the data path.
const EXPECTED: usize = 64;

/// The sleepers of one generation.
#[derive(Debug)]
pub(super) struct Freed {
    /// How many are armed; changed under the lock, read without it.
    armed: AtomicUsize,
    sleepers: Mutex<Vec<Arc<Sleeper>>>,
}

/// An intake as seen by other threads.
#[derive(Debug)]
pub(super) struct Sleeper {
    waker: Waker,
    /// Set when something was freed since it armed itself.
    freed: AtomicBool,
}

impl Sleeper {
    pub(super) fn new(waker: Waker) -> Self {
        Self {
            waker,
            freed: AtomicBool::new(false),
        }
    }

    /// Makes the intake's thread run a pass.
    pub(super) fn wake(&self) {
        self.waker.wake();
    }

    /// Was something freed since it was armed? A sleeper that was told so is no longer armed.
    pub(super) fn was_told(&self) -> bool {
        self.freed.load(Ordering::Acquire)
    }
}

impl Freed {
    pub(super) fn new() -> Self {
        let sleepers = Mutex::new(Vec::with_capacity(EXPECTED));
        Self {
            armed: AtomicUsize::new(0),
            sleepers,
        }
    }

    /// Adds a sleeper. Ask the manager again before sleeping.
    pub(super) fn arm(&self, sleeper: &Arc<Sleeper>) {
        let mut sleepers = self.lock();
        sleeper.freed.store(false, Ordering::Relaxed);
        sleepers.push(Arc::clone(sleeper));
        self.armed.store(sleepers.len(), Ordering::Relaxed);
        drop(sleepers);
        // Orders the store above before the manager's state is read again; pairs with the fence in `tell`.
        fence(Ordering::SeqCst);
    }

    /// Removes a sleeper, if it is still there.
    pub(super) fn disarm(&self, sleeper: &Arc<Sleeper>) {
        let mut sleepers = self.lock();
        sleepers.retain(|other| !Arc::ptr_eq(other, sleeper));
        self.armed.store(sleepers.len(), Ordering::Relaxed);
    }

    /// Tells every sleeper that something was freed, and wakes all but `me`, whose thread is awake.
    pub(super) fn tell(&self, me: &Arc<Sleeper>) {
        // Orders the manager's own stores before the look at `armed`; pairs with the fence in `arm`.
        fence(Ordering::SeqCst);
        if self.armed.load(Ordering::Relaxed) != 0 {
            self.tell_all(me);
        }
    }

    #[cold]
    fn tell_all(&self, me: &Arc<Sleeper>) {
        let mut sleepers = self.lock();
        self.armed.store(0, Ordering::Relaxed);
        for sleeper in sleepers.drain(..) {
            sleeper.freed.store(true, Ordering::Release);
            if !Arc::ptr_eq(&sleeper, me) {
                sleeper.wake();
            }
        }
    }

    /// A waker that panics inside the lock leaves at worst a sleeper too few: the list is good either way.
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Sleeper>>> {
        self.sleepers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
