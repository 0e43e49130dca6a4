//! `iomgr`: serve disk images and block devices as virtual block devices, and make, look at, check, repair and convert
//! them.
//!
//! Argument parsing and text, nothing else: what is done is done in [`vbd`].
//!
//! # Contract
//! - stdout holds what was asked for, stderr what there is to say besides: errors, logs, progress.
//! - With `--json`, stdout holds one JSON document and an error is one JSON line on stderr.
//! - Exit codes: 0 well; 1 an error; 2 wrong usage; `check`: 2 corrupt, 3 leaked space only; 130 and 143 after a signal
//!   that cut work short.
#![forbid(unsafe_code)]

mod args;
mod check;
mod compare;
mod completions;
mod convert;
mod create;
mod doctor;
mod failure;
mod info;
mod logging;
mod map;
mod output;
mod repair;
mod serve;
mod servers;
mod signals;
mod size;
mod status;
mod stop;
mod watch;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Verb};
use failure::Failure;

fn main() -> ExitCode {
    let cli = Cli::parse();
    // The doctor's answer holds what would be a warning elsewhere.
    let quietest = if matches!(cli.verb, Verb::Doctor(_)) {
        "error"
    } else {
        "warn"
    };
    logging::start(quietest, cli.common.verbose, cli.common.log_format);
    let json = cli.common.json;
    run(cli.verb, json).unwrap_or_else(|failure| failure.report(json))
}

fn run(verb: Verb, json: bool) -> Result<ExitCode, Failure> {
    match verb {
        Verb::Create(create) => create.run(json),
        Verb::Info(info) => info.run(json),
        Verb::Check(check) => check.run(json),
        Verb::Repair(repair) => repair.run(json),
        Verb::Convert(convert) => convert.run(json),
        Verb::Compare(compare) => compare.run(json),
        Verb::Map(map) => map.run(json),
        Verb::Serve(serve) => serve.run(json),
        Verb::Stop(stop) => stop.run(json),
        Verb::Status(status) => status.run(json),
        Verb::Doctor(doctor) => doctor.run(json),
        Verb::Completions(completions) => completions.run(),
    }
}
