//! `--supervise`: a process that starts a server again when that dies.
//!
//! ```text
//!               signals are passed on
//!  supervisor ─────────────────────────► server ── ends well, or as it was asked to ──► supervisor ends likewise
//!      ▲                                    │
//!      └── the next one, after a pause ◄────┘ dies by a signal
//! ```
//!
//! The supervisor opens no image, and so holds no lock: the next server waits for the dead one's last writes. If the
//! supervisor itself is killed, the server goes on without.

mod backoff;

use std::io::{BufRead, BufReader};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdout, Command, ExitCode, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use crate::failure::Failure;
use crate::output::note;
use crate::running::{exit_code, take_name};
use crate::signals;
use backoff::{Backoff, RESTARTS_MAX};

/// Tells a server that it is one, and not the supervisor: the words on its command line are the same.
const SERVER_ENV: &str = "IOMGR_SUPERVISED";
/// What a server that follows another says to the supervisor, and to nobody else, when it cannot start. As sysexits.h has it: try
/// again later.
const EXIT_NOT_STARTED: u8 = 75;

/// Which of a supervisor's servers a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The one that begins.
    First,
    /// One that follows another which died.
    Next,
    /// The same, and the device of this number is there.
    Device(u32),
}

impl Role {
    /// Takes this process's on; none, as a rule.
    pub(crate) fn take() -> Option<Self> {
        let value = std::env::var(SERVER_ENV).ok()?;
        take_name();
        match value.as_str() {
            "first" => Some(Self::First),
            "next" => Some(Self::Next),
            id => id.parse().ok().map(Self::Device),
        }
    }

    /// How a server's start went. Of one that follows another, the supervisor is told that it did not even start: what kept it from
    /// that may be over when the one after it tries.
    pub(crate) fn start<T, E: Into<Failure>>(role: Option<Self>, started: Result<T, E>) -> Result<T, Failure> {
        started.map_err(|error| match role {
            Some(Self::Next) => error.into().or_exit(EXIT_NOT_STARTED),
            _ => error.into(),
        })
    }

    /// This program once more, with the same words, as such a server.
    pub(crate) fn command(self) -> Command {
        let value = match self {
            Self::First => "first".to_owned(),
            Self::Next => "next".to_owned(),
            Self::Device(id) => id.to_string(),
        };
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0("iomgr")
            .args(std::env::args_os().skip(1))
            .env(SERVER_ENV, value)
            .stdin(Stdio::null())
            // The terminal's signals are the supervisor's, who passes them on.
            .process_group(0);
        command
    }
}

/// The supervisor: starts servers one after the other.
#[derive(Debug)]
pub(crate) struct Supervisor {
    shared: Arc<Shared>,
    backoff: Backoff,
}

/// A server that runs.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    /// If that is a pipe.
    stdout: Option<BufReader<ChildStdout>>,
    since: Instant,
}

/// What the thread for signals must know.
#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// There, as long as nobody has taken its status.
    server: Option<Pid>,
    /// Somebody asked for the end.
    is_asked: bool,
}

impl Supervisor {
    /// From now on signals are passed on.
    pub(crate) fn new() -> Result<Self, Failure> {
        let shared = Arc::new(Shared::default());
        let told = Arc::clone(&shared);
        signals::catch()?.handle_each(move |_| told.pass_on())?;
        Ok(Self {
            shared,
            backoff: Backoff::default(),
        })
    }

    /// Starts a server; none if the end was asked for.
    pub(crate) fn start(&self, command: &mut Command) -> Result<Option<Server>, Failure> {
        let mut state = self.shared.lock();
        if state.is_asked {
            return Ok(None);
        }
        let fail = |error| Failure::new("the server that is to be supervised cannot be started").because(error);
        let mut child = command.spawn().map_err(fail)?;
        state.server = Some(Pid::from_child(&child));
        Ok(Some(Server {
            stdout: child.stdout.take().map(BufReader::new),
            child,
            since: Instant::now(),
        }))
    }

    /// Waits for a server's end; how it ended.
    pub(crate) fn wait(&self, server: &mut Server) -> Result<ExitStatus, Failure> {
        let lost = |error: std::io::Error| Failure::new("the server's status is lost").because(error);
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        let pid = Pid::from_child(&server.child);
        rustix::io::retry_on_intr(|| waitid(WaitId::Pid(pid), options)).map_err(|errno| lost(errno.into()))?;
        // As long as its status is there, its number is not given to another process.
        self.shared.lock().server = None;
        server.child.wait().map_err(lost)
    }

    /// Asks a server to end.
    pub(crate) fn end(&self) {
        self.shared.pass_on();
    }

    /// After the death of `server`, waits until the next one may be started; false if the end was asked for meanwhile, or before.
    ///
    /// # Errors
    /// There were too many.
    pub(crate) fn pause(&mut self, server: &Server, status: ExitStatus) -> Result<bool, Failure> {
        let how = describe(status);
        // One that did not start may have waited long for what it did not get.
        let lasted = if has_not_started(status) {
            Duration::ZERO
        } else {
            server.since.elapsed()
        };
        let Some(pause) = self.backoff.next(lasted) else {
            let what = format!("the server was started {RESTARTS_MAX} times in a row, and {how} again: given up");
            return Err(Failure::new(what).exit(own_exit_code(status).max(1)));
        };
        if !self.shared.lock().is_asked {
            let restart = self.backoff.in_a_row();
            note(&format!(
                "the server {how}; it is started again ({restart} of {RESTARTS_MAX} in a row)"
            ));
        }
        Ok(!self.shared.is_asked_within(pause))
    }

    /// Has somebody asked for the end?
    pub(crate) fn is_asked(&self) -> bool {
        self.shared.lock().is_asked
    }
}

impl Server {
    /// The next line that it says on the pipe that is its stdout; `None` when it says no more.
    pub(crate) fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        // What cannot be read was not said.
        let _read = self.stdout.as_mut()?.read_line(&mut line);
        line.ends_with('\n').then_some(line)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To servers, every signal that is caught means the same.
    fn pass_on(&self) {
        let mut state = self.lock();
        state.is_asked = true;
        if let Some(pid) = state.server
            && let Err(error) = kill_process(pid, Signal::TERM)
        {
            tracing::warn!(%error, "server_signal: failed");
        }
        self.changed.notify_all();
    }

    fn is_asked_within(&self, pause: Duration) -> bool {
        let waited = self
            .changed
            .wait_timeout_while(self.lock(), pause, |state| !state.is_asked);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.is_asked
    }
}

/// Could it not even start, after another?
fn has_not_started(status: ExitStatus) -> bool {
    status.code() == Some(EXIT_NOT_STARTED.into())
}

/// What to exit with after it.
fn own_exit_code(status: ExitStatus) -> u8 {
    if has_not_started(status) { 1 } else { exit_code(status) }
}

/// What became of it.
fn describe(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("died by signal {signal}"),
        _ if has_not_started(status) => "could not start".to_owned(),
        (None, code) => format!("ended with exit code {}", code.unwrap_or_default()),
    }
}

/// Supervises servers that start anew, with the same words. Ends as the last of them.
pub(crate) fn anew() -> Result<ExitCode, Failure> {
    let mut supervisor = Supervisor::new()?;
    let mut role = Role::First;
    while let Some(mut server) = supervisor.start(&mut role.command())? {
        let status = supervisor.wait(&mut server)?;
        let may_the_next_help = status.signal().is_some() || has_not_started(status);
        if !may_the_next_help || supervisor.is_asked() {
            return Ok(ExitCode::from(own_exit_code(status)));
        }
        if !supervisor.pause(&server, status)? {
            break;
        }
        role = Role::Next;
    }
    Ok(ExitCode::SUCCESS)
}
