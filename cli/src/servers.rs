//! Running servers, by name or by control socket: what verbs for running servers are pointed at.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use vbd::ControlClient;

use crate::failure::Failure;

/// A server that is well answers at once.
pub(crate) const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Which servers are meant.
#[derive(Args, Debug)]
pub(crate) struct Selection {
    /// Servers, by the name of any of their disks
    #[arg(value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// A server by its control socket, for one started with --control
    #[arg(long, value_name = "PATH", conflicts_with = "names")]
    pub(crate) control: Option<PathBuf>,
}

/// One server.
#[derive(Args, Debug)]
pub(crate) struct OneServer {
    /// The server, by the name of any of its disks; needed only where several could be meant
    #[arg(long, value_name = "NAME", conflicts_with = "control")]
    server: Option<String>,
    /// The server by its control socket, for one started with --control
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
}

/// A control socket; whether anybody answers there is another question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) control: PathBuf,
}

impl Selection {
    /// Does it name any server?
    pub(crate) fn is_explicit(&self) -> bool {
        self.control.is_some() || !self.names.is_empty()
    }

    /// What was named, each server once, or else everything in the runtime folder.
    pub(crate) fn targets(&self) -> Result<Vec<Target>, vbd::Error> {
        if let Some(control) = &self.control {
            return Ok(vec![Target::at(control)]);
        }
        if self.names.is_empty() {
            return everything();
        }
        let mut targets: Vec<Target> = Vec::new();
        for target in self.names.iter().map(|name| find(name)) {
            let target = target?;
            if targets.iter().all(|other| other.control != target.control) {
                targets.push(target);
            }
        }
        Ok(targets)
    }
}

impl OneServer {
    /// Was one named?
    pub(crate) fn is_explicit(&self) -> bool {
        self.server.is_some() || self.control.is_some()
    }

    /// The server that was named, or else the only one that answers.
    pub(crate) fn target(&self) -> Result<Target, Failure> {
        match (&self.control, &self.server) {
            (Some(control), _) => Ok(Target::at(control)),
            (None, Some(name)) => Ok(find(name)?),
            (None, None) => the_only_one(),
        }
    }

    /// The server of that disk, unless another one was named.
    pub(crate) fn target_of(&self, disk: &str) -> Result<Target, Failure> {
        match (&self.control, &self.server) {
            (None, None) => serving(disk),
            _ => self.target(),
        }
    }
}

fn the_only_one() -> Result<Target, Failure> {
    let mut alive = everything()?;
    alive.retain(|target| target.connect(ANSWER_MAX).is_ok());
    match alive.len() {
        0 => Err(Failure::new(none_runs()).hint("`iomgr serve` and `iomgr add` start one")),
        1 => Ok(alive.remove(0)),
        _ => {
            let names: Vec<_> = alive.iter().map(|target| target.name.as_str()).collect();
            let what = format!("several servers run: {}", names.join(", "));
            Err(Failure::new(what).hint("say which one by --server NAME"))
        }
    }
}

/// The server that has that disk now.
fn serving(disk: &str) -> Result<Target, Failure> {
    having(disk)?.ok_or_else(|| {
        let what = format!("no server here has a disk called {disk:?}");
        Failure::from(vbd::Error::new(vbd::ErrorKind::NotFound, what)).hint("`iomgr list` shows those there are")
    })
}

/// Who has that disk, if anybody answers so. Most have their socket by its name, so that one is asked first.
///
/// # Errors
/// Nobody does, but somebody who is alive says nothing.
fn having(disk: &str) -> Result<Option<Target>, vbd::Error> {
    let first = Target::named(disk);
    let others = everything()?.into_iter().filter(|other| other.control != first.control);
    let mut silent = None;
    for target in std::iter::once(first.clone()).chain(others) {
        match target.ask(ControlClient::disks) {
            Ok(disks) if disks.iter().any(|other| other.info.name == disk) => return Ok(Some(target)),
            Err(Unanswered::Silent(error)) => silent = silent.or(Some((target.name, error))),
            Ok(_) | Err(Unanswered::Dead(_)) => {}
        }
    }
    match silent {
        None => Ok(None),
        Some((name, error)) => {
            let what = format!("the server {name} {ALIVE}, so whether it has {disk:?} cannot be said");
            Err(vbd::Error::new(vbd::ErrorKind::Control, what).because(error))
        }
    }
}

/// Everything in the runtime folder; some may be dead.
pub(crate) fn everything() -> Result<Vec<Target>, vbd::Error> {
    let target = |(name, control)| Target { name, control };
    Ok(vbd::control_sockets()?.into_iter().map(target).collect())
}

/// The server whose first disk has that name has its socket by it; others are asked for their disks.
fn find(name: &str) -> Result<Target, vbd::Error> {
    let by_name = Target::named(name);
    if by_name.connect(ANSWER_MAX).is_ok() {
        return Ok(by_name);
    }
    let name = name.to_owned();
    Ok(having(&name)?.map_or(by_name, |server| Target { name, ..server }))
}

/// Why a server did not answer.
#[derive(Debug)]
pub(crate) enum Unanswered {
    /// Nobody listens.
    Dead(vbd::Error),
    /// Somebody does.
    Silent(vbd::Error),
}

/// What is said of a server of which only the latter is known.
pub(crate) const ALIVE: &str = "is alive, but does not answer";

impl Target {
    fn at(control: &Path) -> Self {
        Self {
            name: vbd::default_name(control),
            control: control.to_path_buf(),
        }
    }

    fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            control: vbd::runtime_dir().join(format!("{name}.ctl")),
        }
    }

    /// Asks what is answered at once by a server that is well.
    pub(crate) fn ask<T>(
        &self,
        question: impl FnOnce(&mut ControlClient) -> Result<T, vbd::Error>,
    ) -> Result<T, Unanswered> {
        let mut server = self.connect(ANSWER_MAX).map_err(Unanswered::Dead)?;
        question(&mut server).map_err(Unanswered::Silent)
    }

    /// Connects; `timeout` bounds every answer.
    pub(crate) fn connect(&self, timeout: Duration) -> Result<ControlClient, vbd::Error> {
        ControlClient::connect(&self.control, timeout)
    }
}

/// For servers, which run in folders of their own.
pub(crate) fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}

/// What to say when there is none.
pub(crate) fn none_runs() -> String {
    format!(
        "no server runs (none has its socket in {})",
        vbd::runtime_dir().display()
    )
}
