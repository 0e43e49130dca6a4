//! The real engines on real files and sockets. Every test runs on io_uring, on io_uring without anything that can be
//! masked, and on the synchronous engine.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "what fails here fails the test, and the engine is printed then"
)]
#![allow(clippy::cast_possible_truncation, reason = "the numbers are small")]

mod borrow;
mod cancel;
mod denied;
mod disk;
mod embed;
mod filters;
mod merge;
mod net;
mod oracle;
mod rig;
mod stuck;
mod watchdog;
