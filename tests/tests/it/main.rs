//! System tests: the product as its users run it, with real clients, devices and file systems.
//!
//! One module per group of `cargo xtask test`; a test's name starts with its group's.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "tests")]

mod cli;
mod clients;
mod control;
mod crash;
mod disk;
mod full;
mod guards;
mod history;
mod hooks;
mod loop_;
mod managers;
mod nbd;
mod queue;
mod regions;
mod serve;
mod sim;
mod tools;
