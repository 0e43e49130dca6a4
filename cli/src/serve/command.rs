//! `--run`: a command, and a server that lasts as long as it does.
//!
//! ```text
//!             spawned                    ended                    closed
//!  Starting ───────────► Running(child) ───────► Closing ─────────────► exit with the command's status
//!     │ signal: none is      │ signal: passed on;    │ signal: noted;
//!     ▼ started              ▼ the next kills it     ▼ the next ends us at once
//! ```
//!
//! Whatever ends first, command or server, the other one ends as well, the server last: so what the command has written is
//! flushed and the image closed, however the command ended.

use std::io::IsTerminal;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid};
use vbd::{Address, Server, Stopper};

use super::{ABANDONED, activation, notify};
use crate::failure::Failure;
use crate::output::note;
use crate::signals::{self, Caught};

/// As shells say that there is no such command.
const EXIT_NOT_STARTED: u8 = 127;

/// Runs `line` by the shell while `server` serves; its exit code becomes ours.
pub(super) fn run(server: Server, line: &str, caught: Caught, manager: &notify::Manager) -> Result<ExitCode, Failure> {
    let running = Running::new(server.stopper());
    let signalled = Arc::clone(&running);
    caught.handle_each(move |signal| signalled.signal(signal))?;
    let Some((mut child, waiter)) = running.start(&mut shell(line, &server))? else {
        server.stop()?;
        return Ok(ExitCode::from(running.lock().code));
    };
    let served = manager.wait(&server);
    running.end_if_it_runs();
    // If it panicked, its last words said so; the child is waited for all the same.
    let _waited = waiter.join();
    let status = running.reap(&mut child)?;
    manager.stopping();
    let stopped = server.stop();
    let code = exit_code(status);
    match served.and(stopped) {
        Ok(()) => Ok(ExitCode::from(code)),
        Err(error) => Err(Failure::from(error).exit(code.max(1))),
    }
}

/// The command, with what it needs to know in its environment: the names are nbdkit's.
fn shell(line: &str, server: &Server) -> Command {
    let (mut unixsocket, mut port) = (String::new(), String::new());
    for address in server.addresses() {
        match address {
            Address::Unix(path) => unixsocket = path.to_string_lossy().into_owned(),
            Address::Tcp(address) => port = address.port().to_string(),
        }
    }
    let names: Vec<_> = server.disks().iter().map(|disk| disk.info().name).collect();
    let uris: Vec<_> = names.iter().map(|name| server.addresses()[0].uri(name)).collect();
    let mut command = Command::new("sh");
    command
        .args(["-c", line])
        .env("uri", server.uri())
        .env("uris", uris.join(" "))
        .env("unixsocket", unixsocket)
        .env("port", port)
        .env("exportname", &names[0])
        .env("iomgr_control", server.control());
    for name in activation::VARIABLES.iter().chain(&notify::VARIABLES) {
        command.env_remove(name);
    }
    if !has_terminal() {
        // All that the shell starts is a group, so that a signal reaches all of it.
        command.process_group(0);
    }
    command
}

/// At a terminal the command stays in our own group: only so it may read, and Ctrl-C reaches it as well as us.
fn has_terminal() -> bool {
    std::io::stdin().is_terminal()
}

/// The command, as the thread for signals sees it.
struct Running {
    state: Mutex<State>,
    stopper: Stopper,
    has_terminal: bool,
}

struct State {
    phase: Phase,
    /// Somebody asked for the end.
    asked: bool,
    /// What to exit with if nothing was started.
    code: u8,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Starting,
    /// The process is there, as long as nobody takes its status.
    Running(Pid),
    Closing,
}

impl Running {
    fn new(stopper: Stopper) -> Arc<Self> {
        let state = State {
            phase: Phase::Starting,
            asked: false,
            code: 0,
        };
        Arc::new(Self {
            state: Mutex::new(state),
            stopper,
            has_terminal: has_terminal(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts it, and a thread that ends the server when it has ended; nothing if a signal came before.
    fn start(self: &Arc<Self>, command: &mut Command) -> Result<Option<(Child, JoinHandle<()>)>, Failure> {
        let fail = |error| {
            Failure::new("--run: the shell cannot be started")
                .because(error)
                .exit(EXIT_NOT_STARTED)
        };
        let mut state = self.lock();
        if state.phase != Phase::Starting {
            return Ok(None);
        }
        let child = command.spawn().map_err(fail)?;
        let pid = Pid::from_child(&child);
        state.phase = Phase::Running(pid);
        let this = Arc::clone(self);
        let waiter = thread::Builder::new()
            .name("command".into())
            .spawn(move || this.watch(pid));
        Ok(Some((child, waiter.map_err(fail)?)))
    }

    /// Waits for the end and leaves the status where it is: as long as nobody takes it, the process id is not given away.
    fn watch(&self, pid: Pid) {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        if let Err(error) = rustix::io::retry_on_intr(|| waitid(WaitId::Pid(pid), options)) {
            tracing::error!(%error, "command_wait: failed");
        }
        self.lock().phase = Phase::Closing;
        self.stopper.stop();
    }

    /// Takes the status.
    fn reap(&self, child: &mut Child) -> Result<ExitStatus, Failure> {
        self.lock().phase = Phase::Closing;
        child
            .wait()
            .map_err(|error| Failure::new("--run: the command's status is lost").because(error))
    }

    /// The server ended first.
    fn end_if_it_runs(&self) {
        let mut state = self.lock();
        if let Phase::Running(pid) = state.phase {
            note("the server ends while the command still runs: the command is asked to end (SIGTERM) and waited for");
            state.asked = true;
            self.kill(pid, Signal::TERM);
        }
    }

    fn signal(&self, number: i32) {
        let mut state = self.lock();
        match state.phase {
            Phase::Starting => {
                (state.phase, state.code) = (Phase::Closing, signals::exit_code(number));
                self.stopper.stop();
            }
            // The terminal sent it to the command, too, which decides what it means.
            Phase::Running(_) if self.has_terminal && number == Signal::INT.as_raw() => {}
            Phase::Running(pid) if state.asked => {
                note("the command is killed");
                self.kill(pid, Signal::KILL);
            }
            Phase::Running(pid) => {
                note("the command is asked to end, and the server ends after it; once more to kill the command");
                self.kill(pid, Signal::from_named_raw(number).unwrap_or(Signal::TERM));
            }
            Phase::Closing if state.asked => signals::abandon(ABANDONED, number),
            Phase::Closing => note("closing; once more to end at once"),
        }
        state.asked = true;
    }

    fn kill(&self, pid: Pid, signal: Signal) {
        let killed = if self.has_terminal {
            kill_process(pid, signal)
        } else {
            kill_process_group(pid, signal)
        };
        if let Err(error) = killed {
            tracing::warn!(%error, "command_signal: failed");
        }
    }
}

/// The command's, or 128 and the signal that ended it, as shells have it.
fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    u8::try_from(code.unwrap_or(1)).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_the_shell_s() {
        assert_eq!(exit_code(ExitStatus::from_raw(0)), 0);
        assert_eq!(exit_code(ExitStatus::from_raw(7 << 8)), 7);
        assert_eq!(exit_code(ExitStatus::from_raw(9)), 137);
    }
}
