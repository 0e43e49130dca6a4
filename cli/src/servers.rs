//! Running servers, by name or by control socket: what `status` and `stop` are pointed at.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use vbd::ControlClient;

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
            return Ok(vec![Target {
                name: vbd::default_name(control),
                control: control.clone(),
            }]);
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

fn everything() -> Result<Vec<Target>, vbd::Error> {
    let target = |(name, control)| Target { name, control };
    Ok(vbd::control_sockets()?.into_iter().map(target).collect())
}

/// The server whose first disk has that name has its socket by it; others are asked for their disks.
fn find(name: &str) -> Result<Target, vbd::Error> {
    let by_name = Target {
        name: name.to_owned(),
        control: vbd::runtime_dir().join(format!("{name}.ctl")),
    };
    if by_name.connect(ANSWER_MAX).is_ok() {
        return Ok(by_name);
    }
    let serves_it = |target: &Target| {
        let status = target.connect(ANSWER_MAX).and_then(|mut server| server.status());
        status.is_ok_and(|status| status.devices.iter().any(|disk| disk.info.name == name))
    };
    let serving = everything()?.into_iter().find(serves_it);
    Ok(serving.map_or(by_name, |server| Target {
        name: name.to_owned(),
        ..server
    }))
}

impl Target {
    /// Connects; `timeout` bounds every answer.
    pub(crate) fn connect(&self, timeout: Duration) -> Result<ControlClient, vbd::Error> {
        ControlClient::connect(&self.control, timeout)
    }
}

/// What to say when there is none.
pub(crate) fn none_runs() -> String {
    format!(
        "no server runs (none has its socket in {})",
        vbd::runtime_dir().display()
    )
}
