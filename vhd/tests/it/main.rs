//! The crate's tests from outside: images by this crate and by others, on real files and on a simulated disk.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a panic is a test's way to fail, and its sizes are small"
)]

mod crash;
mod disk;
mod file;
mod handmade;
mod hostile;
mod images;
mod machine;
mod mutate;
mod rig;
mod session;
mod smoke;
mod snapshots;
mod tools;
