//! Every interleaving, and every order that the memory model allows, of the two places where threads meet without a lock:
//! epochs, and the sleepers that wait for a free. The crate's own files, compiled against a model checker's atomics.

#![allow(
    unreachable_pub,
    dead_code,
    reason = "the files belong to the crate; only part of them runs here"
)]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "../../src/epoch.rs"]
mod epoch;
#[path = "../../src/manager/freed.rs"]
mod freed;

mod epochs;
mod sleepers;

/// What `src/shim.rs` is in the crate.
mod shim {
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
    pub(crate) use loom::sync::{Arc, Mutex, MutexGuard};
}

/// A waker that a test can look at.
#[derive(Clone, Debug)]
pub struct Waker(shim::Arc<shim::AtomicBool>);

impl Waker {
    fn wake(&self) {
        self.0.store(true, shim::Ordering::SeqCst);
    }
}
