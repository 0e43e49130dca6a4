//! The crate's tests through its public interface.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

mod counters;
mod epoch;
mod governor;
mod lane;
mod leaks;
mod limits;
mod model;
mod panics;
mod registry;
mod rejudge;
mod requests;
mod swaps;
mod threads;
mod watch;
