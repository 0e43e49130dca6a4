//! Running servers, by name or by control socket: what `status` and `stop` are pointed at.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use vbd::ControlClient;

/// Which servers are meant.
#[derive(Args, Debug)]
pub(crate) struct Selection {
    /// Servers, by name
    #[arg(value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// A server by its control socket, for one started with --control
    #[arg(long, value_name = "PATH", conflicts_with = "names")]
    pub(crate) control: Option<PathBuf>,
}

/// A control socket; whether anybody answers there is another question.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) control: PathBuf,
}

impl Selection {
    /// Does it name any server?
    pub(crate) fn is_explicit(&self) -> bool {
        self.control.is_some() || !self.names.is_empty()
    }

    /// What was named, or else everything in the runtime folder.
    pub(crate) fn targets(&self) -> Vec<Target> {
        if let Some(control) = &self.control {
            return vec![Target {
                name: vbd::default_name(control),
                control: control.clone(),
            }];
        }
        if self.names.is_empty() {
            return vbd::control_sockets()
                .into_iter()
                .map(|(name, control)| Target { name, control })
                .collect();
        }
        let folder = vbd::runtime_dir();
        let named = |name: &String| Target {
            name: name.clone(),
            control: folder.join(format!("{name}.ctl")),
        };
        self.names.iter().map(named).collect()
    }
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
