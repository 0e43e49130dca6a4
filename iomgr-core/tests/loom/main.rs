//! Every interleaving, and every order that the memory model allows, of the places where threads meet: epochs, sleepers
//! that wait for a free, the life of a manager's generation from its first pin to its `dev_stop`, and the watchdog's sleep.
//! The crate's own files, compiled against a model checker's atomics.

#![allow(
    unreachable_pub,
    dead_code,
    unused_imports,
    reason = "the files belong to the crate; only part of them runs here"
)]
#![allow(
    clippy::duplicate_mod,
    reason = "sleepers are tested alone, too; in the manager they are private"
)]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "../../src/count.rs"]
mod count;
#[path = "../../src/epoch.rs"]
mod epoch;
#[path = "../../src/manager/freed.rs"]
mod freed;
#[path = "../../src/manager/mod.rs"]
mod manager;
#[path = "../../src/scale.rs"]
mod scale;

mod epochs;
mod generations;
mod shim;
mod sleepers;
mod watchdog;

pub use iomgr_core::{Class, Operation, Request, SectorRange, Tag, Timestamp};

/// A waker of a thread that sleeps.
#[derive(Clone, Debug)]
pub struct Waker(shim::Arc<shim::Bed>);

impl Waker {
    fn new() -> Self {
        Self(shim::Arc::new(shim::Bed::default()))
    }

    fn wake(&self) {
        self.0.wake();
    }

    /// Sleeps until it is woken; a wake-up that came before counts. What nobody wakes is a deadlock, and the end of the test.
    fn sleep(&self) {
        self.0.sleep();
    }
}

/// Everything that so many switches of threads, besides those where one has to wait, can bring about.
fn model(switches: usize, run: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(switches);
    model.check(run);
}
