//! The binary as its users see it: words, exit codes, texts and JSON. Each test starts the real program in a folder of
//! its own.

#![allow(clippy::unwrap_used, reason = "a panic is a test's way to fail")]

mod bad_input;
mod command;
mod disks;
mod dmio;
mod errors;
mod help;
mod images;
mod limits;
mod machine;
mod managing;
mod run;
mod serving;
mod supervised;
mod ublk;
