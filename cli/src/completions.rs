//! `iomgr completions`: shells complete our words.

use std::process::ExitCode;

use clap::{Args, CommandFactory};
use clap_complete::Shell;
use serde_json::json;

use crate::args::Cli;
use crate::failure::Failure;
use crate::output::{print, print_json};

const EXAMPLES: &str = "\
Examples:
  iomgr completions bash > ~/.local/share/bash-completion/completions/iomgr
  iomgr completions zsh > ~/.zfunc/_iomgr
  iomgr completions fish > ~/.config/fish/completions/iomgr.fish";

/// Print a shell's completion script
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Completions {
    /// For which shell
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(&self, json: bool) -> Result<ExitCode, Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "iomgr", &mut script);
        let script = String::from_utf8_lossy(&script);
        if json {
            print_json(&json!({ "shell": self.shell.to_string(), "script": script }))?;
        } else {
            print(&script)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
