//! The policies in simulation: virtual time, and the real registry, intakes and hooks, driven as a frontend's lane does.
//!
//! ```text
//!  Load ─► arrivals ─► thread's pass: free, push, begin_pass, next ─► alloc ─► Server (busy for some virtual time) ─► done
//!            ▲                                                                                                        │
//!            └────────────────────────────── closed loop: another one ◄───────────────────────────────────────────────┘
//! ```
//!
//! [`sim::Sim`] does it; what it always checks is written there. Each policy has a file of its own: its acceptance (S0) in
//! scenarios that are the same each time, and random ones from seeds.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "what fails here fails the test, and the seed is printed then"
)]

mod budget;
mod load;
mod log;
mod server;
mod sim;

mod deadline;
mod latency;
mod limit;
mod none;
mod swaps;
mod throttle;
mod turn;
mod wfq;
