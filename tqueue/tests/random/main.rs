//! Random sequences of ops against a naive model: what an op comes to, what is in the file, and that each op ends once.
//!
//! ```text
//!  seed ─► script ─► driver ─► queue on io_uring, on blocking calls, in the simulator
//!                      │ the same pushes and results
//!                      ▼
//!                    model: what the bytes may be
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "what fails here fails the test, and the seed is printed then"
)]

mod budget;
mod driver;
mod faults;
mod fuzzy;
mod model;
mod real;
mod script;
