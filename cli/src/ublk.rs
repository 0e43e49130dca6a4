//! A block device that this process serves: in the foreground, or in the background.
//!
//! ```text
//!  parent ── starts itself once more, reads a line ──► prints it, exits 0;   no line: exits as the child did
//!               │                          ▲
//!               ▼                          │ the device is usable
//!  child ── adds, serves ── leaves the terminal, logs to a file ── … ── ends when the device is deleted, or by a signal
//! ```

mod background;
mod supervised;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::json;
use vbd::{UblkRecovery, UblkServer};

use crate::failure::Failure;
use crate::output::{note, print, print_json_line};
use crate::signals;
use crate::supervise::Role;
use background::Child;
pub(crate) use background::is_in_background;

/// What becomes of a device when its server dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Recovery {
    Reissue,
    Fail,
    Off,
}

impl From<Recovery> for UblkRecovery {
    fn from(recovery: Recovery) -> Self {
        match recovery {
            Recovery::Reissue => Self::Reissue,
            Recovery::Fail => Self::Fail,
            Recovery::Off => Self::Off,
        }
    }
}

const ABANDONED: &str = "ended at once, like one that was killed; what was flushed is in the image";

/// What of it is the same for all verbs that serve a device.
#[derive(Args, Debug)]
#[group(skip)]
pub(crate) struct Manner {
    /// Stay in the foreground, and log to stderr
    #[arg(long)]
    foreground: bool,
    /// Start another server, by recovery, when the device's dies by a signal; not more than five times in a row. It takes
    /// a second process, which SIGTERM and SIGINT may be sent to as well
    #[arg(long)]
    supervise: bool,
}

impl Manner {
    pub(crate) fn is_supervised(&self) -> bool {
        self.supervise
    }
}

/// Whether somebody uses the device before it is served here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// It is made here: who does not hear of it does not want it, and it is taken away again.
    Made,
    /// It was there: it is served, whoever hears of that.
    TakenOver,
}

impl Origin {
    /// What was tried when the server had started. It gives a new device up, and never one that has users.
    pub(crate) fn heed<T>(self, tried: Result<T, Failure>) -> Result<Option<T>, Failure> {
        match tried {
            Err(failure) if self == Self::TakenOver => {
                note(&format!("warning: {failure}; the device is served all the same"));
                Ok(None)
            }
            tried => tried.map(Some),
        }
    }
}

/// How long a supervised server waits for the last writes of the one before.
const PATIENCE: Duration = Duration::from_secs(60);

/// Serves what `start` starts, until somebody deletes the device or asks for the end.
pub(crate) fn serve(
    start: impl FnOnce() -> Result<UblkServer, Failure>,
    origin: Origin,
    manner: &Manner,
    json: bool,
) -> Result<ExitCode, Failure> {
    match (Child::from_env(), Role::take()) {
        (None, None) if !manner.foreground => background::start(origin),
        (child, None) if manner.supervise => supervised::run(origin, child),
        (child, Some(Role::Device(id))) => serve_here(|| recover(id), Origin::TakenOver, child, json),
        (child, _) => serve_here(start, origin, child, json),
    }
}

/// Starts servers by the words of this process's command line, which makes a block device, as long as they die.
pub(crate) fn supervise() -> Result<ExitCode, Failure> {
    supervised::run(Origin::Made, None)
}

/// The next server of a device whose last one has died.
pub(crate) fn recover(id: u32) -> Result<UblkServer, Failure> {
    Ok(UblkServer::recover(id, PATIENCE)?)
}

fn serve_here(
    start: impl FnOnce() -> Result<UblkServer, Failure>,
    origin: Origin,
    child: Option<Child>,
    json: bool,
) -> Result<ExitCode, Failure> {
    let server = begin(start, origin, child.as_ref())?;
    let told = match child {
        Some(child) => child.go(&ready(&server, json), server.id()).map(Some),
        None => tell(&server, json).map(|()| None),
    };
    let log = origin.heed(told)?.flatten();
    server.wait();
    server.stop()?;
    log.map_or(Ok(()), |log| log.remove())?;
    Ok(ExitCode::SUCCESS)
}

/// Starts a server that a signal ends, and its device with it.
///
/// That holds of what is made from the first moment on. A device that was there has users: until it is served, a signal ends
/// this process and nothing else, as long as `start` may wait; one that was kept would end the device as soon as it goes on.
pub(crate) fn begin(
    start: impl FnOnce() -> Result<UblkServer, Failure>,
    origin: Origin,
    child: Option<&Child>,
) -> Result<UblkServer, Failure> {
    let early = match origin {
        Origin::Made => Some(signals::catch()?),
        Origin::TakenOver => None,
    };
    let server = start()?;
    if let Some(child) = child {
        // Ctrl-C was for whoever waits there, and would now be for the device.
        child.leave_terminal();
    }
    let caught = early.map_or_else(signals::catch, Ok);
    let stopper = server.stopper();
    let first = move |_| {
        note("closing: finishing what is in flight; once more to end at once");
        stopper.stop();
    };
    origin.heed(caught.and_then(|caught| caught.handle(ABANDONED, first)))?;
    Ok(server)
}

/// Says that the device can be used.
pub(crate) fn tell(server: &UblkServer, json: bool) -> Result<(), Failure> {
    match json {
        true => print_json_line(&event(server)),
        false => print(&ready(server, false)),
    }
}

/// The line that says that the device can be used.
fn ready(server: &UblkServer, json: bool) -> String {
    match json {
        true => format!("{}\n", event(server)),
        false => format!("{}\n", server.path().display()),
    }
}

pub(crate) fn event(server: &UblkServer) -> serde_json::Value {
    json!({
        "event": "ready",
        "pid": std::process::id(),
        "frontend": "ublk",
        "id": server.id(),
        "path": server.path().to_string_lossy(),
        "control": server.control().to_string_lossy(),
        "device": server.target().info(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One after the other: what is caught once, this process catches to its end.
    #[test]
    fn a_signal_ends_who_waits_for_a_device_that_stays() {
        let is_caught = |origin| {
            let mut seen = None;
            let start = || {
                seen = Some(signals::is_caught(signal_hook::consts::SIGTERM));
                Err(Failure::new("no server"))
            };
            begin(start, origin, None).unwrap_err();
            seen.unwrap()
        };
        assert!(!is_caught(Origin::TakenOver));
        assert!(is_caught(Origin::Made));
    }

    #[test]
    fn a_device_that_was_there_is_served_whatever_fails_beside_it() {
        let failed = || Err::<(), _>(Failure::new("nobody listens"));
        assert!(Origin::Made.heed(failed()).is_err());
        assert_eq!(Origin::TakenOver.heed(failed()).unwrap(), None);
        assert_eq!(Origin::TakenOver.heed(Ok(1)).unwrap(), Some(1));
    }
}
