//! `iomgr stats`: what disks do now, or have done; with `--watch` again and again.

mod text;

use std::io::{IsTerminal, stdout};
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use serde_json::{Value, json};
use vbd::{ControlClient, Sample};

use crate::failure::Failure;
use crate::output::{note, print, print_json, try_print};
use crate::servers::{ANSWER_MAX, OneServer, Target, everything, none_runs};
use crate::{signals, size};

const EXAMPLES: &str = "\
Examples:
  iomgr stats                      averages since each disk was opened
  iomgr stats --watch              once a second what was done in it, until Ctrl-C
  iomgr stats disk0 --watch 5s     one disk, every five seconds
  iomgr stats --watch --json       a line of JSON each time, for programs

On a terminal the table stays where it is; into a pipe each time is new lines. Latencies are those
of the interval. WAITS are requests per second that the manager let wait, and WAIT P99 how long.";

/// Show what disks do: requests and bytes per second, latencies, waits
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Stats {
    /// This disk alone; all disks of all servers, if not given
    disk: Option<String>,
    /// Again and again, what was done meanwhile
    #[arg(long, value_name = "INTERVAL", num_args = 0..=1, default_missing_value = "1s", value_parser = size::timeout)]
    watch: Option<Duration>,
    #[command(flatten)]
    server: OneServer,
}

/// A server that is watched.
struct Watched {
    target: Target,
    client: ControlClient,
}

/// What a server told.
struct Told {
    server: String,
    sample: Sample,
}

impl Stats {
    pub(crate) fn run(&self, json: bool) -> Result<ExitCode, Failure> {
        let mut servers = self.connect()?;
        match self.watch {
            Some(interval) => self.watch(&mut servers, interval, json)?,
            None => {
                let told = self.ask(&mut servers)?;
                match json {
                    true => print_json(&told.iter().map(entry).collect::<Vec<_>>())?,
                    false => print(&text::table(&told))?,
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    fn connect(&self) -> Result<Vec<Watched>, Failure> {
        let named = match (&self.disk, self.server.is_explicit()) {
            (Some(disk), _) => Some(self.server.target_of(disk)?),
            (None, true) => Some(self.server.target()?),
            (None, false) => None,
        };
        if let Some(target) = named {
            let client = target.connect(ANSWER_MAX)?;
            return Ok(vec![Watched { target, client }]);
        }
        let connect = |target: Target| match target.connect(ANSWER_MAX) {
            Ok(client) => Some(Watched { target, client }),
            Err(error) => {
                note(&format!("{}: does not answer: {}", target.name, Failure::from(error)));
                None
            }
        };
        let servers: Vec<_> = everything()?.into_iter().filter_map(connect).collect();
        match servers.is_empty() {
            true => Err(Failure::new(none_runs()).hint("`iomgr serve` and `iomgr add` start one")),
            false => Ok(servers),
        }
    }

    /// Those that do not answer are left out from now on. If none is left, that is an error: the last one's.
    fn ask(&self, servers: &mut Vec<Watched>) -> Result<Vec<Told>, Failure> {
        let mut told = Vec::with_capacity(servers.len());
        let mut left = servers.len();
        for mut server in std::mem::take(servers) {
            match server.client.sample(self.disk.as_deref()) {
                Ok(sample) => {
                    let name = server.target.name.clone();
                    told.push(Told { server: name, sample });
                    servers.push(server);
                }
                Err(error) if left == 1 => return Err(error.into()),
                Err(error) => {
                    left -= 1;
                    note(&format!("{}: {}", server.target.name, Failure::from(error)));
                }
            }
        }
        Ok(told)
    }

    /// Until a signal comes, nobody reads any more, or no server is left.
    fn watch(&self, servers: &mut Vec<Watched>, interval: Duration, json: bool) -> Result<(), Failure> {
        let ended = caught()?;
        let is_seen = !json && stdout().is_terminal();
        let mut is_first = true;
        // The first answer is of all time before.
        self.ask(servers)?;
        while ended.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
            let told = self.ask(servers)?;
            let text = match (json, is_seen) {
                (true, _) => format!("{}\n", line(&told)),
                (false, true) => text::refreshed(&text::table(&told), is_first),
                (false, false) => text::lines(&told, is_first),
            };
            if !try_print(&text)? {
                break;
            }
            is_first = false;
        }
        Ok(())
    }
}

/// Something comes when a signal does.
fn caught() -> Result<Receiver<()>, Failure> {
    let (end, ended) = mpsc::channel();
    signals::catch()?.handle_each(move |_| {
        // Who has ended already does not listen.
        let _ = end.send(());
    })?;
    Ok(ended)
}

fn entry(told: &Told) -> Value {
    let mut entry = json!(told.sample);
    entry["server"] = told.server.clone().into();
    entry
}

fn line(told: &[Told]) -> Value {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    json!({ "unix_s": now.as_secs_f64(), "servers": told.iter().map(entry).collect::<Vec<_>>() })
}
