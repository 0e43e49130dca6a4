//! The machine under random calls, from seeds: against a naive model, and against each invariant of a client's.
//!
//! ```text
//!  seed ─► world ─► machine, which checks itself after each call
//!            │ each call and what it said
//!            ▼
//!          watchers: the naive model; one for each invariant S3-n
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "what fails here fails the test, and the seed is printed then"
)]

mod budget;
mod model;
mod seen;
mod world;

use budget::for_seeds;
use model::Model;
use world::World;

/// Seeds that once failed.
const KEPT: &[u64] = &[];

#[test]
fn the_machine_does_what_the_naive_model_does() {
    for_seeds("the_machine_does_what_the_naive_model_does", KEPT, |seed| {
        World::run(seed, Model::new)
    });
}
