//! `iomgr manager`: which policy a running server's requests go by, shown and changed while they do.

mod patch;
mod rates;
mod set;
mod text;
mod throttle;

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::json;
use vbd::{DiskEntry, ManagerStatus, policies};

use crate::failure::Failure;
use crate::output::{note, print, print_json};
use crate::servers::{ANSWER_MAX, OneServer, Target};
use set::Set;
pub(crate) use text::summary;

const EXAMPLES: &str = "\
Examples:
  iomgr manager show                     the manager, its parameters, what it does
  iomgr manager list                     the policies there are, and their parameters
  iomgr manager set throttle --iops 500 --burst 2000 --burst-length 5s --device disk0
  iomgr manager set wfq --weight disk0=300 --weight disk1=100
  iomgr manager set latency --protect disk0 --target 5ms --server disk0
  iomgr manager unset                    back to none: everything goes

Changes apply at once, to requests that wait as well; nothing is drained, paused or lost.";

/// Show and change the policy that a running server's requests go by
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Manager {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Show(Show),
    Set(Box<Set>),
    Unset(Unset),
    List(List),
}

/// Show the manager, its parameters, and what it lets go and wait
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
struct Show {
    #[command(flatten)]
    server: OneServer,
}

/// Go back to none: everything goes, requests that wait at once
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
struct Unset {
    /// Only if this manager is the current one
    #[arg(value_name = "MANAGER")]
    name: Option<String>,
    #[command(flatten)]
    server: OneServer,
}

/// List the policies there are, and their parameters
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
struct List {}

impl Manager {
    pub(crate) fn run(&self, json: bool) -> Result<ExitCode, Failure> {
        match &self.verb {
            Verb::Show(show) => {
                let target = show.server.target()?;
                tell(&target, &target.connect(ANSWER_MAX)?.manager()?, json, text::details)
            }
            Verb::Set(set) => {
                let wish = set.wish()?;
                let target = set.server().target()?;
                // What makes no sense is told without a server, too.
                let mut server = target.connect(ANSWER_MAX)?;
                let now = server.set_manager(wish)?;
                tell(&target, &now, json, text::summary)?;
                note_strangers(&now, &server.disks()?);
                Ok(())
            }
            Verb::Unset(unset) => {
                let target = unset.server.target()?;
                let now = target.connect(ANSWER_MAX)?.unset_manager(unset.name.as_deref())?;
                tell(&target, &now, json, text::summary)
            }
            Verb::List(_) => {
                let policies = policies();
                match json {
                    true => print_json(&policies),
                    false => print(&text::list(&policies)),
                }
            }
        }?;
        Ok(ExitCode::SUCCESS)
    }
}

/// A disk may be named before it is attached, and may be misspelt.
fn note_strangers(now: &ManagerStatus, disks: &[DiskEntry]) {
    let Some(config) = &now.config else { return };
    let is_there = |name: &str| disks.iter().any(|disk| disk.info.name == name);
    for name in config.policy.named_devices().into_iter().filter(|name| !is_there(name)) {
        note(&format!(
            "no disk here is called {name:?}; what is said of it holds for one that is attached later"
        ));
    }
}

fn tell(target: &Target, now: &ManagerStatus, json: bool, text: fn(&ManagerStatus) -> String) -> Result<(), Failure> {
    match json {
        true => {
            print_json(&json!({ "name": target.name, "control": target.control.to_string_lossy(), "manager": now }))
        }
        false => print(&text(now)),
    }
}
