//! `iomgr list`: the disks that this user's servers serve; or the ublk devices of this machine, as the driver tells of them.

mod devices;

use std::process::ExitCode;

use clap::Args;
use indicatif::BinaryBytes;
use serde_json::{Value, json};
use vbd::{ControlClient, DiskEntry};

use crate::failure::Failure;
use crate::output::{note, print, print_json, table};
use crate::servers::{Selection, Target, Unanswered, none_runs};

const EXAMPLES: &str = "\
Examples:
  iomgr list                   one line for each disk of this user's servers
  iomgr list demo              those of one server
  iomgr list --ublk            the ublk devices of this machine, whoever serves them
  iomgr list -n 0              one of those; 1 if it is not there
  iomgr list --json            the same for programs

What a disk has done, `iomgr status NAME` and `iomgr stats` tell.";

/// List the disks that are served
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct List {
    #[command(flatten)]
    selection: Selection,
    /// The ublk devices of this machine instead, whoever serves them
    #[arg(long, conflicts_with_all = ["names", "control"])]
    ublk: bool,
    /// Only the ublk device of this number
    #[arg(short = 'n', long, value_name = "ID", conflicts_with_all = ["names", "control"])]
    number: Option<u32>,
    /// Say only the user and the group that this device was made by without privilege, for udev; exit code 1 for another
    #[arg(long, requires = "number")]
    owner: bool,
}

/// What a server answered.
struct Listing {
    manager: String,
    disks: Vec<DiskEntry>,
}

impl List {
    pub(crate) fn run(&self, json: bool) -> Result<ExitCode, Failure> {
        if let Some(number) = self.number.filter(|_| self.owner) {
            return devices::owner(number);
        }
        match self.ublk || self.number.is_some() {
            true => devices::list(self.number, json),
            false => self.disks(json),
        }
    }

    fn disks(&self, json: bool) -> Result<ExitCode, Failure> {
        let (mut listings, mut failures) = (Vec::new(), Vec::new());
        for target in self.selection.targets()? {
            match target.ask(Listing::of) {
                Ok(listing) => listings.push((target, listing)),
                Err(Unanswered::Silent(error)) => failures.push(error),
                Err(Unanswered::Dead(error)) if self.selection.is_explicit() => failures.push(error),
                // A socket that a dead server has left.
                Err(Unanswered::Dead(error)) if !json => note(&format!("{}: does not answer: {error}", target.name)),
                Err(Unanswered::Dead(_)) => {}
            }
        }
        match json {
            true => print_json(&listings.iter().flat_map(entries).collect::<Vec<_>>())?,
            false if listings.is_empty() && failures.is_empty() => note(&none_runs()),
            false if listings.is_empty() => {}
            false => print(&text(&listings))?,
        }
        let failed = !failures.is_empty();
        failures
            .into_iter()
            .for_each(|error| _ = Failure::from(error).report(json));
        Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

impl Listing {
    fn of(server: &mut ControlClient) -> Result<Self, vbd::Error> {
        Ok(Self {
            manager: server.manager()?.name,
            disks: server.disks()?,
        })
    }
}

fn entries((target, listing): &(Target, Listing)) -> Vec<Value> {
    let entry = |disk: &DiskEntry| {
        let mut entry = json!(disk);
        entry["server"] = target.name.clone().into();
        entry["control"] = target.control.to_string_lossy().into();
        entry["manager"] = listing.manager.clone().into();
        entry
    };
    listing.disks.iter().map(entry).collect()
}

const HEAD: [&str; 8] = ["DISK", "SERVER", "SIZE", "FORMAT", "MODE", "MANAGER", "IMAGE", "URI"];

fn text(listings: &[(Target, Listing)]) -> String {
    let mut rows = vec![HEAD.map(str::to_owned)];
    for (target, listing) in listings {
        rows.extend(listing.disks.iter().map(|disk| row(target, listing, disk)));
    }
    table(&rows)
}

fn row(target: &Target, listing: &Listing, disk: &DiskEntry) -> [String; HEAD.len()] {
    let info = &disk.info;
    [
        info.name.clone(),
        target.name.clone(),
        BinaryBytes(info.size_bytes).to_string(),
        info.format.clone(),
        crate::status::mode(info).to_owned(),
        listing.manager.clone(),
        info.path.display().to_string(),
        disk.uris.first().cloned().unwrap_or_default(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_for_each_disk() {
        let disk = |name: &str, paused: Value| -> DiskEntry {
            serde_json::from_value(json!({
                "name": name, "path": format!("/images/{name}.vhd"), "format": "vhd-dynamic", "size_bytes": 1u64 << 30,
                "read_only": false, "cache": "writeback", "failed": false, "paused": paused,
                "uris": [format!("nbd+unix:///{name}?socket=/run/iomgr/demo.sock"), "nbd://127.0.0.1/demo"],
            }))
            .unwrap()
        };
        let server = Target {
            name: "demo".into(),
            control: "/run/iomgr/demo.ctl".into(),
        };
        let listing = Listing {
            manager: "throttle".into(),
            disks: vec![
                disk("demo", Value::Null),
                disk("data", json!({ "for_s": 2.5, "leased": true })),
            ],
        };
        let listings = [(server, listing)];
        insta::assert_snapshot!(text(&listings));
        let entries = entries(&listings[0]);
        assert_eq!(
            (&entries[1]["server"], &entries[1]["manager"]),
            (&json!("demo"), &json!("throttle"))
        );
    }
}
