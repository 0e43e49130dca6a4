//! A thread that tells of managers' hooks that do not return (S0-4).
//!
//! It looks every half second while hooks are called, and makes no wake-up while none are. Whoever runs queue threads has
//! one, and gives each thread a [`HookMeter`](iomgr_core::manager::HookMeter) of its [`watch`](Watchdog::watch).

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle, Thread};

use iomgr_core::manager::{HookWatch, Stuck};
use iomgr_core::{Wake, Waker};

use crate::monotonic_now;

/// A watchdog. Dropping it ends its thread.
#[derive(Debug)]
pub struct Watchdog {
    watch: Arc<HookWatch>,
    bed: Arc<Bed>,
    thread: Option<JoinHandle<()>>,
}

/// Where its thread sleeps.
#[derive(Debug, Default)]
struct Bed {
    thread: OnceLock<Thread>,
    is_over: AtomicBool,
}

impl Wake for Bed {
    fn wake(&self) {
        // Who has not said who it is does not sleep yet.
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }
}

impl Watchdog {
    /// One that writes to the log what it sees.
    pub fn start() -> io::Result<Arc<Self>> {
        Self::start_with(|_| ())
    }

    /// One that says it to `on_stuck` as well.
    pub fn start_with(on_stuck: impl FnMut(&Stuck) + Send + 'static) -> io::Result<Arc<Self>> {
        let bed = Arc::new(Bed::default());
        let watch = Arc::new(HookWatch::new(Waker::new(Arc::clone(&bed) as Arc<dyn Wake>)));
        let (its_watch, its_bed) = (Arc::clone(&watch), Arc::clone(&bed));
        let thread = thread::Builder::new()
            .name("watchdog".into())
            .spawn(move || its_bed.live(&its_watch, on_stuck))?;
        Ok(Arc::new(Self {
            watch,
            bed,
            thread: Some(thread),
        }))
    }

    /// What it looks at.
    pub fn watch(&self) -> &Arc<HookWatch> {
        &self.watch
    }
}

impl Bed {
    fn live(&self, watch: &HookWatch, mut on_stuck: impl FnMut(&Stuck)) {
        self.thread.get_or_init(thread::current);
        while !self.is_over.load(Ordering::Acquire) {
            let scan = watch.scan(monotonic_now());
            for stuck in &scan.stuck {
                let Stuck { manager, thread, since } = stuck;
                tracing::error!(manager, thread, ?since, "hook_does_not_return");
                on_stuck(stuck);
            }
            match scan.is_active || !watch.may_rest() {
                true => thread::park_timeout(HookWatch::TICK),
                false => thread::park(),
            }
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.bed.is_over.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic of its has been printed; there is nothing of it to take along.
            let _panic = thread.join();
        }
    }
}
