//! A process that ends with its guard, and at the latest with the test's own process.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::cleanup::Cleanup;
use crate::tool::Tool;
use crate::wait::PATIENCE;

/// A running child. Dropping it kills it and waits until it is gone.
#[derive(Debug)]
pub struct Process {
    child: Arc<Mutex<Child>>,
    pidfd: OwnedFd,
    pid: u32,
    line: String,
    _cleanup: Cleanup,
}

impl Process {
    /// Starts the program with its outputs as given.
    pub fn start(tool: Tool, stdout: Stdio, stderr: Stdio) -> Process {
        let line = tool.line();
        let mut command = dies_with_us(tool.into_command());
        let child = command.stdin(Stdio::null()).stdout(stdout).stderr(stderr).spawn();
        let child = child.unwrap_or_else(|error| panic!("$ {line}\n{error}"));
        let pid = child.id();
        let id = Pid::from_child(&child);
        let child = Arc::new(Mutex::new(child));
        let killed = Arc::clone(&child);
        let cleanup = Cleanup::new(move || end(&killed));
        let pidfd = pidfd_open(id, PidfdFlags::empty()).unwrap();
        Process {
            child,
            pidfd,
            pid,
            line,
            _cleanup: cleanup,
        }
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        pidfd_send_signal(&self.pidfd, signal).unwrap();
    }

    /// Waits for the end; none when it lasts longer.
    pub fn ended_within(&self, time: Duration) -> Option<ExitStatus> {
        let timeout = Timespec::try_from(time).expect("test durations are short");
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let ready = rustix::io::retry_on_intr(|| poll(&mut fds, Some(&timeout))).unwrap();
        (ready > 0).then(|| self.lock().wait().unwrap())
    }

    /// Waits for the end and returns the exit code; a process that lives on is a panic.
    pub fn exit_code(&self) -> i32 {
        let status = self
            .ended_within(PATIENCE)
            .unwrap_or_else(|| panic!("$ {}\ndoes not end", self.line));
        status
            .code()
            .unwrap_or_else(|| panic!("$ {}\nended by signal {:?}", self.line, status.signal()))
    }

    /// Takes the pipe of the standard output.
    pub fn take_stdout(&self) -> std::process::ChildStdout {
        self.lock().stdout.take().expect("stdout was piped and is taken once")
    }

    /// Takes the pipe of the standard error.
    pub fn take_stderr(&self) -> std::process::ChildStderr {
        self.lock().stderr.take().expect("stderr was piped and is taken once")
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn end(child: &Mutex<Child>) {
    let mut child = child.lock().unwrap_or_else(PoisonError::into_inner);
    let _ = child.kill();
    let _ = child.wait();
}

/// `setpriv` asks the kernel to kill the program when its parent dies (asking ourselves, between fork and exec, would
/// need unsafe code). It executes the program in its own place, so the process id stays.
fn dies_with_us(command: Command) -> Command {
    let mut wrapped = Command::new("setpriv");
    wrapped
        .args(["--pdeathsig", "KILL", "--"])
        .arg(command.get_program())
        .args(command.get_args());
    let set: Vec<(OsString, OsString)> = command
        .get_envs()
        .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
        .collect();
    wrapped.envs(set);
    wrapped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_guard_kills_and_reaps() {
        let process = Process::start(Tool::new("sleep").arg("1000"), Stdio::null(), Stdio::null());
        let entry = format!("/proc/{}", process.pid());
        assert!(std::path::Path::new(&entry).exists());
        drop(process);
        assert!(!std::path::Path::new(&entry).exists());
    }

    #[test]
    fn an_exit_code_is_waited_for() {
        let process = Process::start(Tool::new("sh").args(["-c", "exit 7"]), Stdio::null(), Stdio::null());
        assert_eq!(process.exit_code(), 7);
    }
}
