//! `iomgr`: serve disk images and block devices as virtual block devices, and make, look at, check, repair and convert
//! them.
//!
//! Argument parsing and text, nothing else: what is done is done in [`vbd`].
//!
//! # Contract
//! - stdout holds what was asked for, stderr what there is to say besides: errors, logs, progress.
//! - With `--json`, stdout holds one JSON document and an error is one JSON line on stderr.
//! - Exit codes: 0 well; 1 an error; 2 wrong usage; `check`: 2 corrupt, 3 leaked space only; `compare`: 1 different, 3 could
//!   not be compared; `dmio`: 3 late or given up; 129, 130 and 143 after a signal that cut work short.
#![forbid(unsafe_code)]

mod add;
mod args;
mod attach;
mod check;
mod compare;
mod completions;
mod convert;
mod create;
mod del;
mod dmio;
mod doctor;
mod failure;
mod features;
mod info;
mod list;
mod logging;
mod man;
mod manager;
mod map;
mod output;
mod pause;
mod recover;
mod repair;
mod resize;
mod retry;
mod running;
mod serve;
mod servers;
mod signals;
mod size;
mod stats;
mod status;
mod stop;
mod supervise;
mod ublk;
mod watch;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, LogFormat, Verb};
use failure::Failure;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    // Their answers hold what would be a warning elsewhere.
    let quietest = if matches!(cli.verb, Verb::Doctor(_) | Verb::Dmio(_)) {
        "error"
    } else {
        "warn"
    };
    let json = cli.common.json;
    let format = if json { LogFormat::Json } else { LogFormat::Text };
    logging::start(quietest, cli.common.verbose, cli.common.log_format.unwrap_or(format));
    let ended = signals::survive_size_limit().and_then(|()| run(cli.verb, json));
    ended.unwrap_or_else(|failure| failure.report(json))
}

/// Says what is wrong with the words of the command line; or what was asked for, if that was help.
fn usage(error: &clap::Error) -> ExitCode {
    let wants_json = std::env::args_os().any(|word| word == "--json");
    if wants_json && error.use_stderr() {
        return Failure::usage(error).report(true);
    }
    // Who closed the stream does not want to know.
    let _ = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).expect("clap ends with 0 or 2"))
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
        Verb::Dmio(dmio) => dmio.run(json),
        Verb::Serve(serve) => serve.run(json),
        Verb::Add(add) => add.run(json),
        Verb::Del(del) => del.run(json),
        Verb::List(list) => list.run(json),
        Verb::Recover(recover) => recover.run(json),
        Verb::Upgrade(upgrade) => upgrade.run(json),
        Verb::Resize(resize) => resize.run(json),
        Verb::Features(features) => features.run(json),
        Verb::Attach(attach) => attach.run(json),
        Verb::Detach(detach) => detach.run(json),
        Verb::Pause(pause) => pause.run(json),
        Verb::Resume(resume) => resume.run(json),
        Verb::Stats(stats) => stats.run(json),
        Verb::Manager(manager) => manager.run(json),
        Verb::Stop(stop) => stop.run(json),
        Verb::Status(status) => status.run(json),
        Verb::Doctor(doctor) => doctor.run(json),
        Verb::Completions(completions) => completions.run(json),
        Verb::Man(man) => man.run(json),
    }
}
