//! Whole clients over simulated files and real ones.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "what fails here fails the test, and what is skipped says so"
)]

mod busy;
mod devices;
mod ends;
mod log;
mod memory;
mod notes;
mod rig;
mod runner;
mod simple;
mod threads;
