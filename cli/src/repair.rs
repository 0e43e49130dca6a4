//! `iomgr repair`: the footers put right, nothing else touched.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;
use vbd::vhd::Action;

use crate::args::Format;
use crate::failure::Failure;
use crate::output::{print, print_json};

const EXAMPLES: &str = "\
Examples:
  iomgr repair disk.vhd --dry-run           what would be done
  iomgr repair disk.vhd                     do it

Of the two footers of a dynamic VHD a crash can tear one; it is written anew from the other.
Where it is not certain which is right, nothing is changed. No data is touched.";

/// Restore the footers of a VHD that a crash tore
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Repair {
    /// The image
    image: PathBuf,
    /// The format, where the extension does not tell it
    #[arg(long)]
    format: Option<Format>,
    /// Say what would be done, and change nothing
    #[arg(long)]
    dry_run: bool,
}

impl Repair {
    pub(crate) fn run(&self, json: bool) -> Result<ExitCode, Failure> {
        let actions = vbd::repair(&self.image, self.format.map(Into::into), self.dry_run)
            .map_err(|error| Failure::from(error).option("--read-only", "--dry-run"))?;
        if json {
            let path = self.image.to_string_lossy();
            print_json(&json!({ "path": path, "dry_run": self.dry_run, "actions": actions }))?;
        } else {
            print(&self.describe(&actions))?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn describe(&self, actions: &[Action]) -> String {
        let image = self.image.display();
        if actions.is_empty() {
            return format!("{image}: nothing to repair\n");
        }
        let mode = if self.dry_run { "would be done" } else { "done" };
        let line = |action: &Action| {
            let Action {
                code,
                offset,
                len,
                text,
            } = action;
            format!("{image}: {mode}: {code}, {len} bytes at {offset}: {text}\n")
        };
        actions.iter().map(line).collect()
    }
}
