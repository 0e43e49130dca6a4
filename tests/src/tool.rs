//! Running a program to its end; a failure shows the command line and everything it printed.

use std::ffi::OsStr;
use std::process::{Command, Output, Stdio};

use crate::product;

/// A command line that is run once.
#[derive(Debug)]
pub struct Tool(Command);

/// What a program left: its exit code (none after a signal) and its two outputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// The exit code; none when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Tool {
    /// A program found in `PATH`.
    pub fn new(program: impl AsRef<OsStr>) -> Tool {
        let mut command = Command::new(program);
        command.stdin(Stdio::null());
        // Figures and messages are compared: no translation, no colours.
        command.env("LC_ALL", "C").env("NO_COLOR", "1");
        Tool(command)
    }

    /// The product's binary.
    pub fn iomgr() -> Tool {
        // Also where the kernel has ublk, whose tests run in a guest.
        Tool::new(product::path()).env("IOMGR_FRONTEND", "nbd")
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Tool {
        self.0.arg(arg);
        self
    }

    /// Adds arguments.
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Tool {
        self.0.args(args);
        self
    }

    /// Sets a variable of the environment.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Tool {
        self.0.env(name, value);
        self
    }

    /// Runs it and returns what it left, however it ended.
    pub fn end(mut self) -> Ended {
        let output = self
            .0
            .output()
            .unwrap_or_else(|error| panic!("{}: {error}", self.line()));
        Ended::from(output)
    }

    /// Runs it and returns its standard output; any exit code but 0 is a panic that shows all.
    pub fn run(self) -> String {
        self.run_for_code(0).stdout
    }

    /// Runs it; any other exit code is a panic that shows all.
    pub fn run_for_code(self, code: i32) -> Ended {
        let line = self.line();
        let ended = self.end();
        assert!(
            ended.code == Some(code),
            "$ {line}\nexit code {:?}, expected {code}\n{}{}",
            ended.code,
            ended.stdout,
            ended.stderr
        );
        ended
    }

    /// Runs it and returns its standard output as JSON.
    pub fn json(self) -> serde_json::Value {
        let line = self.line();
        let text = self.run();
        // fio prints a line before its JSON.
        let start = text.find(['{', '[']).unwrap_or(0);
        serde_json::from_str(&text[start..]).unwrap_or_else(|error| panic!("$ {line}\n{error}\n{text}"))
    }

    /// The command line, for messages.
    pub fn line(&self) -> String {
        let words = std::iter::once(self.0.get_program()).chain(self.0.get_args());
        words
            .map(|word| word.to_string_lossy().into_owned())
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// The command itself, for a process that goes on.
    pub(crate) fn into_command(self) -> Command {
        self.0
    }
}

impl From<Output> for Ended {
    fn from(output: Output) -> Ended {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ended {
            code: output.status.code(),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_shows_command_line_and_output() {
        let run = || Tool::new("sh").args(["-c", "echo words >&2; exit 3"]).run();
        let panic = std::panic::catch_unwind(run).unwrap_err();
        let message = panic.downcast_ref::<String>().unwrap();
        assert!(
            message.contains("$ sh -c") && message.contains("words") && message.contains("Some(3)"),
            "{message}"
        );
    }
}
