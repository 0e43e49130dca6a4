//! From the foreground to the background: this program once more, as a child that outlives it.
//!
//! A fork would take none of the threads along; a fresh start has nothing to take. What the child has to say before the
//! device can be used goes where it would go in the foreground: errors to stderr, and the line to stdout, which is a pipe.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{self, Command, ExitCode, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::Origin;
use crate::failure::Failure;
use crate::output::print;
use crate::running::take_name;
use crate::signals;

/// Tells the child that it is one.
const CHILD_ENV: &str = "IOMGR_BACKGROUND";

/// Is this process the child?
pub(crate) fn is_in_background() -> bool {
    std::env::var_os(CHILD_ENV).is_some()
}

/// Starts the child, and waits until its device can be used, or until it has failed.
pub(super) fn start(origin: Origin) -> Result<ExitCode, Failure> {
    let fail =
        |error| Failure::new("cannot start the server in the background; --foreground does without").because(error);
    let mut child = Command::new("/proc/self/exe")
        .arg0("iomgr")
        .args(std::env::args_os().skip(1))
        .env(CHILD_ENV, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(fail)?;
    let stdout = child.stdout.take().expect("it was asked for");
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line).map_err(fail)?;
    if line.ends_with('\n') {
        // Who cannot be told of a new device does not want it.
        print(&line).inspect_err(|_| {
            if origin == Origin::Made {
                end(&mut child);
            }
        })?;
        return Ok(ExitCode::SUCCESS);
    }
    // It has said why on stderr, which is ours as well.
    Ok(ExitCode::from(exit_code(child.wait().map_err(fail)?)))
}

/// Has the child take its device away, and waits until it is gone.
fn end(child: &mut process::Child) {
    if let Err(error) = kill_process(Pid::from_child(child), Signal::TERM)
        .map_err(io::Error::from)
        .and_then(|()| child.wait())
    {
        tracing::warn!(%error, "child_end: failed");
    }
}

/// The child's, which has failed; or what shells say of one that a signal ended.
fn exit_code(status: ExitStatus) -> u8 {
    match (status.code(), status.signal()) {
        (Some(code), _) => u8::try_from(code).unwrap_or(1).max(1),
        (None, Some(signal)) => signals::exit_code(signal),
        (None, None) => 1,
    }
}

/// That we are the child.
#[derive(Debug)]
pub(crate) struct Child(());

/// Where a server in the background logs.
#[derive(Debug)]
pub(super) struct Log(PathBuf);

impl Child {
    pub(super) fn from_env() -> Option<Self> {
        if !is_in_background() {
            return None;
        }
        take_name();
        Some(Self(()))
    }

    /// From now on the terminal's signals are not for this process.
    pub(super) fn leave_terminal(&self) {
        // It fails only in the leader of a group, which has no terminal to leave.
        let _leads_already = rustix::process::setsid();
    }

    /// Leaves the terminal and the folder, sends what is logged from now on to a file, and says `line` to the parent.
    ///
    /// # Errors
    /// Nobody reads the line: whoever wanted the device has gone.
    pub(super) fn go(self, line: &str, id: u32) -> Result<Log, Failure> {
        let log = Log::make(id)?;
        self.leave_terminal();
        let attempt = || -> io::Result<()> {
            std::env::set_current_dir("/")?;
            let null = File::open("/dev/null")?;
            let mut out = io::stdout().lock();
            out.write_all(line.as_bytes())?;
            out.flush()?;
            rustix::stdio::dup2_stdout(&null)?;
            Ok(())
        };
        attempt().map_err(|error| Failure::new("whoever asked for the device has gone").because(error))?;
        Ok(log)
    }
}

impl Log {
    fn make(id: u32) -> Result<Self, Failure> {
        vbd::make_runtime_dir()?;
        let path = vbd::ublk_log(id);
        let fail = |error| Failure::new("the log cannot be made").at(&path).because(error);
        // One that is there is by a server that died, and will be wanted.
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path)
            .map_err(fail)?;
        rustix::stdio::dup2_stderr(&file).map_err(|errno| fail(errno.into()))?;
        Ok(Self(path))
    }

    /// Nothing went wrong, so nobody will want to read it.
    pub(super) fn remove(self) -> Result<(), Failure> {
        let removed = std::fs::remove_file(&self.0);
        removed.map_err(|error| Failure::new("the log cannot be removed").at(&self.0).because(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_without_a_line_never_ends_well() {
        for (raw, code) in [(0, 1), (2 << 8, 2), (15, 143)] {
            assert_eq!(exit_code(ExitStatus::from_raw(raw)), code);
        }
    }
}
