//! Disks on the simulator's files, with several queues and with faults.
#![allow(clippy::unwrap_used, reason = "tests")]

mod faults;
mod pause;
mod queues;
mod retry;
mod rig;
