//! A command that runs beside something of ours, and the signals that are passed on to it.
//!
//! ```text
//!             spawned                    ended                    done
//!  Starting ───────────► Running(child) ───────► Closing ─────────────► exit with the command's status
//!     │ signal: none is      │ signal: passed on;    │ signal: noted;
//!     ▼ started              ▼ the next kills it     ▼ the next ends us at once
//! ```

use std::io::IsTerminal;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid};

use crate::failure::Failure;
use crate::output::note;
use crate::signals;

/// As shells say that there is no such command.
const EXIT_NOT_STARTED: u8 = 127;

/// What is said of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Words {
    /// What could not be started.
    pub(crate) option: &'static str,
    /// At the first signal.
    pub(crate) asked: &'static str,
    /// At the first signal after its end.
    pub(crate) closing: &'static str,
    /// At the next one.
    pub(crate) abandoned: &'static str,
}

/// At a terminal the command stays in our own group: only so it may read, and Ctrl-C reaches it as well as us.
fn has_terminal() -> bool {
    std::io::stdin().is_terminal()
}

/// The command, as the thread for signals sees it.
pub(crate) struct Running {
    state: Mutex<State>,
    words: Words,
    /// Called when it has ended, or is not to be started.
    on_end: Box<dyn Fn() + Send + Sync>,
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
    pub(crate) fn new(words: Words, on_end: impl Fn() + Send + Sync + 'static) -> Arc<Self> {
        let state = State {
            phase: Phase::Starting,
            asked: false,
            code: 0,
        };
        Arc::new(Self {
            state: Mutex::new(state),
            words,
            on_end: Box::new(on_end),
            has_terminal: has_terminal(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What to exit with if nothing was started.
    pub(crate) fn code(&self) -> u8 {
        self.lock().code
    }

    /// Starts it, and a thread that waits for its end; nothing if a signal came before.
    pub(crate) fn start(self: &Arc<Self>, mut command: Command) -> Result<Option<(Child, JoinHandle<()>)>, Failure> {
        let fail = |error| {
            Failure::new(format!("{} cannot be started", self.words.option))
                .because(error)
                .exit(EXIT_NOT_STARTED)
        };
        if !self.has_terminal {
            // All that it starts is a group, so that a signal reaches all of it.
            command.process_group(0);
        }
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
        (self.on_end)();
    }

    /// Takes the status.
    pub(crate) fn reap(&self, child: &mut Child) -> Result<ExitStatus, Failure> {
        self.lock().phase = Phase::Closing;
        child
            .wait()
            .map_err(|error| Failure::new("the command's status is lost").because(error))
    }

    /// What it runs beside has ended first.
    pub(crate) fn end_if_it_runs(&self, why: &str) {
        let mut state = self.lock();
        if let Phase::Running(pid) = state.phase {
            note(why);
            state.asked = true;
            self.kill(pid, Signal::TERM);
        }
    }

    /// Passes a signal on; the next one kills.
    pub(crate) fn signal(&self, number: i32) {
        let mut state = self.lock();
        match state.phase {
            Phase::Starting => {
                (state.phase, state.code) = (Phase::Closing, signals::exit_code(number));
                (self.on_end)();
            }
            // The terminal sent it to the command, too, which decides what it means.
            Phase::Running(_) if self.has_terminal && number == Signal::INT.as_raw() => {}
            Phase::Running(pid) if state.asked => {
                note("the command is killed");
                self.kill(pid, Signal::KILL);
            }
            Phase::Running(pid) => {
                note(self.words.asked);
                self.kill(pid, Signal::from_named_raw(number).unwrap_or(Signal::TERM));
            }
            Phase::Closing if state.asked => signals::abandon(self.words.abandoned, number),
            Phase::Closing => note(self.words.closing),
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

/// For a process that was started from `/proc/self/exe`.
pub(crate) fn take_name() {
    // `ps`, and who waits for the image's lock, would know it as `exe`. What it is called is no reason not to serve.
    let _unnamed = std::fs::write("/proc/self/comm", "iomgr");
}

/// The command's, or 128 and the signal that ended it, as shells have it.
pub(crate) fn exit_code(status: ExitStatus) -> u8 {
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
