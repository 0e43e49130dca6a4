//! `iomgr status`: the running servers, their disks and clients.

mod text;

use std::process::ExitCode;

use clap::Args;
use serde_json::json;
use vbd::{ControlClient, Status as ServerStatus};

use crate::failure::Failure;
use crate::output::{note, print, print_json};
use crate::servers::{ALIVE, Selection, Target, Unanswered, none_runs};
pub(crate) use text::mode;

const EXAMPLES: &str = "\
Examples:
  iomgr status                 every server of this user's
  iomgr status demo            one of them, with latencies and clients; 1 if it does not answer
  iomgr status --json          everything there is to know";

/// Show the running servers and what their disks have done
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Status {
    #[command(flatten)]
    selection: Selection,
}

/// What a control socket answered.
type Answer = Result<ServerStatus, Unanswered>;

impl Status {
    pub(crate) fn run(&self, json: bool) -> Result<ExitCode, Failure> {
        let answers: Vec<_> = self
            .selection
            .targets()?
            .into_iter()
            .map(|target| (target.ask(ControlClient::status), target))
            .collect();
        if json {
            print_json(
                &answers
                    .iter()
                    .map(|(answer, target)| entry(answer, target))
                    .collect::<Vec<_>>(),
            )?;
        } else {
            tell(&answers, self.selection.is_explicit())?;
        }
        // A dead server's socket in the folder is a finding; a server that was named, or that is alive, is to answer.
        let failed = answers.iter().any(|(answer, _)| match answer {
            Ok(_) => false,
            Err(Unanswered::Dead(_)) => self.selection.is_explicit(),
            Err(Unanswered::Silent(_)) => true,
        });
        Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

fn entry(answer: &Answer, target: &Target) -> serde_json::Value {
    let (name, control) = (&target.name, target.control.to_string_lossy());
    match answer {
        Ok(status) => json!({ "name": name, "control": control, "status": status }),
        Err(Unanswered::Dead(error) | Unanswered::Silent(error)) => {
            json!({ "name": name, "control": control, "error": error.to_string() })
        }
    }
}

/// What becomes of a socket that nobody listens on: a block device keeps its number until it is deleted.
fn dead(name: &str) -> String {
    let id = name.strip_prefix("ublkb").and_then(|id| id.parse::<u32>().ok());
    match id {
        Some(id) => format!("does not answer; `iomgr del -n {id}` clears away what a dead server has left"),
        None => "does not answer; a socket of a dead server is replaced when it starts again".to_owned(),
    }
}

/// Who names servers wants to know all about them.
fn tell(answers: &[(Answer, Target)], in_detail: bool) -> Result<(), Failure> {
    if answers.is_empty() {
        note(&none_runs());
    }
    let live: Vec<_> = answers.iter().filter_map(|(answer, _)| answer.as_ref().ok()).collect();
    if !live.is_empty() {
        print(&text::overview(&live))?;
    }
    if in_detail {
        live.iter().try_for_each(|server| print(&text::details(server)))?;
    }
    for (answer, target) in answers {
        match answer {
            Ok(_) => {}
            Err(Unanswered::Dead(error)) => note(&format!("{}: {}: {error}", target.name, dead(&target.name))),
            Err(Unanswered::Silent(error)) => note(&format!("{}: {ALIVE}: {error}", target.name)),
        }
    }
    Ok(())
}
