//! `iomgr completions`: shells complete our words.

use std::process::ExitCode;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::args::Cli;
use crate::failure::Failure;
use crate::output::print;

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
    pub(crate) fn run(&self) -> Result<ExitCode, Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "iomgr", &mut script);
        print(&String::from_utf8_lossy(&script))?;
        Ok(ExitCode::SUCCESS)
    }
}
