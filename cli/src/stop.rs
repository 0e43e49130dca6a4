//! `iomgr stop`: servers end cleanly, and say how that went.

use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgGroup, Args};
use serde_json::json;

use crate::failure::Failure;
use crate::output::{note, print, print_json};
use crate::servers::{Selection, Target, none_runs};
use crate::size;

const EXAMPLES: &str = "\
Examples:
  iomgr stop demo                    end the server called demo
  iomgr stop --all                   end every server of this user's
  iomgr stop --control /tmp/d.ctl    one that was started with --control

It returns when the image is flushed and closed, and says so if that failed.";

/// End servers: they finish what they have, flush, and close
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES, group = ArgGroup::new("which").required(true).args(["names", "control", "all"]))]
pub(crate) struct Stop {
    #[command(flatten)]
    selection: Selection,
    /// All servers with a socket in the runtime folder
    #[arg(long)]
    all: bool,
    /// How long to wait for each
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = size::timeout)]
    timeout: Duration,
}

impl Stop {
    pub(crate) fn run(&self, json: bool) -> Result<ExitCode, Failure> {
        let results: Vec<_> = self
            .targets()?
            .into_iter()
            .map(|target| (self.end(&target), target))
            .collect();
        if json {
            let entries: Vec<_> = results.iter().map(|(result, target)| entry(result, target)).collect();
            print_json(&entries)?;
        } else if results.is_empty() {
            note(&none_runs());
        } else {
            results.iter().try_for_each(|(result, target)| tell(result, target))?;
        }
        let failed = results.iter().any(|(result, _)| result.is_err());
        Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    /// With `--all`, sockets of dead servers do not count.
    fn targets(&self) -> Result<Vec<Target>, Failure> {
        let mut targets = self.selection.targets()?;
        if self.all {
            targets.retain(|target| target.connect(self.timeout).is_ok());
        }
        Ok(targets)
    }

    fn end(&self, target: &Target) -> Result<(), Failure> {
        Ok(target.connect(self.timeout)?.stop()?)
    }
}

fn entry(result: &Result<(), Failure>, target: &Target) -> serde_json::Value {
    let (name, control) = (&target.name, target.control.to_string_lossy());
    match result {
        Ok(()) => json!({ "name": name, "control": control, "stopped": true }),
        Err(failure) => json!({ "name": name, "control": control, "stopped": false, "error": failure.to_string() }),
    }
}

fn tell(result: &Result<(), Failure>, target: &Target) -> Result<(), Failure> {
    match result {
        Ok(()) => print(&format!("{}: stopped\n", target.name)),
        Err(failure) => {
            note(&format!("error: {}: {failure}", target.name));
            Ok(())
        }
    }
}
