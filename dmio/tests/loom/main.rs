//! Every interleaving of an owner's loop with threads that cancel: the very file by which they meet, around the machine itself.
//!
//! The owner's loop here is the client's: take the wake-up, lock and work, sleep. No device ever answers unless a model says so.

#![allow(
    unreachable_pub,
    dead_code,
    reason = "the file belongs to the crate; only part of it is used here"
)]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "../../src/meeting.rs"]
mod meeting;

mod cancels;
mod owner;
mod shim;
mod wakes;

/// Everything that so many switches of threads, besides those where one has to wait, can bring about.
fn model(switches: usize, run: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(switches);
    model.check(run);
}
