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
    // What is made from here on is taken away again, whenever a signal comes.
    let caught = signals::catch()?;
    let server = start()?;
    let stopper = server.stopper();
    caught.handle(ABANDONED, move |_| {
        note("closing: finishing what is in flight; once more to end at once");
        stopper.stop();
    })?;
    let told = match child {
        Some(child) => child.go(&ready(&server, json), server.id()).map(Some),
        None => tell(&server, json).map(|()| None),
    };
    let log = match told {
        Err(failure) if origin == Origin::TakenOver => {
            note(&format!("warning: {failure}; the device is served all the same"));
            None
        }
        told => told?,
    };
    server.wait();
    server.stop()?;
    log.map_or(Ok(()), |log| log.remove())?;
    Ok(ExitCode::SUCCESS)
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
