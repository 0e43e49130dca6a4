//! `cargo xtask`: everything a developer runs on this workspace, one verb per file.
//!
//! It depends on no product crate, so that it builds and helps while the product does not. It starts the tools a
//! developer would start by hand (`cargo`, `fio`, `qemu-img`, …), and shows their command lines when they fail.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a task speaks to the developer in the terminal")]

mod asan;
mod bench;
mod ci;
mod cmd;
mod doctor;
mod fuzz;
mod guest;
mod metadata;
mod output;
mod runner;
mod scratch;
mod sim;
mod soak;
mod tally;
mod test;
mod tidy;
mod tools;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// What every verb returns: a message for the terminal is enough.
type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Development tasks of iomgr.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

/// One verb, one file.
#[derive(Debug, Subcommand)]
enum Verb {
    /// Say what this machine can run: tools, loop devices, io_uring, limits
    Doctor,
    /// Run the tests: unit, property, simulation, loop-device, NBD-client and CLI tests
    Test(test::Args),
    /// Check everything: fmt, clippy, doc, tidy, asan, fuzz, test; every failure is reported
    Ci(ci::Args),
    /// Check the arrows between crates, licences, duplicate dependencies, unsafe code and file sizes
    Tidy,
    /// Measure against tapdisk, nbdkit and qemu-nbd on this machine; prints a table for the README
    Bench(bench::Args),
    /// Replay or extend the power-cut simulation of the whole stack
    Sim(sim::Args),
    /// Run the long forms of the tests, up to 90 minutes, and sum them up
    Soak(soak::Args),
    /// Feed the parsers whatever a fuzzer comes up with, each for some seconds
    Fuzz(fuzz::Args),
    /// Run the tests of the crates with unsafe islands under AddressSanitizer
    Asan,
    /// Run a command under a stock Debian kernel in QEMU and return its exit status
    Guest(guest::Args),
}

fn main() -> ExitCode {
    match run(Cli::parse().verb) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> Result<ExitCode> {
    match verb {
        Verb::Guest(args) => return guest::run(&args),
        Verb::Doctor => doctor::run(),
        Verb::Test(args) => test::run(&args),
        Verb::Ci(args) => ci::run(&args),
        Verb::Tidy => tidy::run(),
        Verb::Bench(args) => bench::run(&args),
        Verb::Sim(args) => sim::run(&args),
        Verb::Soak(args) => soak::run(&args),
        Verb::Fuzz(args) => fuzz::run(&args),
        Verb::Asan => asan::run(),
    }?;
    Ok(ExitCode::SUCCESS)
}
