//! Leaving a device to its next server: what was begun ends, and what the kernel hands over from now on stays where it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use iomgr_core::Wake;
use tqueue::EventWake;

/// How all queue threads of a device are told to leave it.
#[derive(Debug)]
pub(crate) struct Leave {
    asked: AtomicBool,
    wakes: Vec<Arc<EventWake>>,
}

impl Leave {
    /// For the threads that these wake.
    pub(crate) fn new(wakes: Vec<Arc<EventWake>>) -> Arc<Self> {
        Arc::new(Self {
            asked: AtomicBool::new(false),
            wakes,
        })
    }

    /// Asks them to.
    pub(crate) fn ask(&self) {
        self.asked.store(true, Ordering::Release);
        self.wakes.iter().for_each(|wake| wake.wake());
    }

    /// Were they asked to?
    pub(super) fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Acquire)
    }
}
