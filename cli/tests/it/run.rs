//! A folder, and the program run in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// A test's own folder: images, and the sockets of servers.
pub(crate) struct Place {
    dir: TempDir,
}

/// How a run of the program ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().expect("the folder for temporary files can be written"),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).expect("the test's own folder can be written");
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).expect("the test made this file")
    }

    /// The program with `args`, to be started in this folder. Nothing of the user's environment changes what it does.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_iomgr"));
        command
            .args(args)
            .current_dir(self.dir.path())
            .env("IOMGR_RUNTIME_DIR", self.runtime_dir())
            .env_remove("IOMGR_LOG")
            // Also where the kernel has ublk.
            .env("IOMGR_FRONTEND", "nbd")
            .env("COLUMNS", "100")
            .stdin(Stdio::null());
        command
    }

    /// The same, by a shell that says `first` before.
    pub(crate) fn under(&self, first: &str, args: &[&str]) -> Command {
        let program = self.command(args);
        let mut shell = Command::new("sh");
        shell
            .args(["-c", &format!("{first}; exec \"$0\" \"$@\"")])
            .arg(program.get_program())
            .args(program.get_args())
            .current_dir(self.dir.path())
            .stdin(Stdio::null());
        for (name, value) in program.get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        shell
    }

    pub(crate) fn runtime_dir(&self) -> PathBuf {
        self.path("run")
    }

    pub(crate) fn run(&self, args: &[&str]) -> Ended {
        self.command(args).output().expect("the program can be started").into()
    }

    /// Runs it and wants the exit code 0.
    pub(crate) fn ok(&self, args: &[&str]) -> Ended {
        let ended = self.run(args);
        assert_eq!(ended.code, Some(0), "{args:?}: {ended:?}");
        ended
    }

    /// A VHD of 64 MiB called `name`.
    pub(crate) fn with_vhd(self, name: &str) -> Self {
        self.ok(&["create", name, "--size", "64M"]);
        self
    }
}

impl Ended {
    /// What it answered.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }

    /// The error it reported as JSON.
    pub(crate) fn json_error(&self) -> Value {
        let line = self.stderr.lines().last().unwrap_or_default();
        serde_json::from_str(line).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }

    /// Code and both texts, for a snapshot, without what differs from run to run.
    pub(crate) fn shown(&self, place: &Place) -> String {
        let code = self.code.map_or("signal".to_owned(), |code| code.to_string());
        let text = format!(
            "exit code {code}\n--- stdout\n{}--- stderr\n{}",
            self.stdout, self.stderr
        );
        text.replace(&*place.dir.path().to_string_lossy(), "PLACE")
    }
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("the program writes UTF-8"),
            stderr: String::from_utf8(output.stderr).expect("the program writes UTF-8"),
        }
    }
}

/// Flips all bits of the byte at `at`.
pub(crate) fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).expect("the test made this file");
    bytes[at] ^= 0xff;
    fs::write(path, bytes).expect("the test made this file");
}
