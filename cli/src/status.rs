//! `iomgr status`: the running servers and their disks.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use indicatif::BinaryBytes;
use serde_json::json;
use vbd::{DeviceStatus, Status as ServerStatus};

use crate::failure::Failure;
use crate::output::{note, print, print_json, table};
use crate::servers::{ANSWER_MAX, Selection, Target, none_runs};

const EXAMPLES: &str = "\
Examples:
  iomgr status                 every server of this user's
  iomgr status demo            one of them; exit code 1 if it does not answer
  iomgr status --json          with all statistics, latencies included";

/// Show the running servers and what their disks have done
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Status {
    #[command(flatten)]
    selection: Selection,
}

/// What a control socket answered.
type Answer = Result<ServerStatus, Failure>;

impl Status {
    pub(crate) fn run(&self, json: bool) -> Result<ExitCode, Failure> {
        let answers: Vec<_> = self
            .selection
            .targets()
            .into_iter()
            .map(|target| (ask(&target), target))
            .collect();
        if json {
            print_json(
                &answers
                    .iter()
                    .map(|(answer, target)| entry(answer, target))
                    .collect::<Vec<_>>(),
            )?;
        } else {
            tell(&answers)?;
        }
        // A dead server's socket in the folder is a finding; a named server that does not answer is a failure.
        let failed = self.selection.is_explicit() && answers.iter().any(|(answer, _)| answer.is_err());
        Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

fn ask(target: &Target) -> Answer {
    Ok(target.connect(ANSWER_MAX)?.status()?)
}

fn entry(answer: &Answer, target: &Target) -> serde_json::Value {
    let (name, control) = (&target.name, target.control.to_string_lossy());
    match answer {
        Ok(status) => json!({ "name": name, "control": control, "status": status }),
        Err(failure) => json!({ "name": name, "control": control, "error": failure.to_string() }),
    }
}

fn tell(answers: &[(Answer, Target)]) -> Result<(), Failure> {
    if answers.is_empty() {
        note(&none_runs());
    }
    let live: Vec<_> = answers.iter().filter_map(|(answer, _)| answer.as_ref().ok()).collect();
    if !live.is_empty() {
        print(&describe(&live))?;
    }
    for (answer, target) in answers {
        if let Err(failure) = answer {
            note(&format!(
                "{}: does not answer; a socket of a dead server is replaced when it starts again: {failure}",
                target.name
            ));
        }
    }
    Ok(())
}

const HEAD: [&str; 11] = [
    "NAME", "PID", "UP", "FORMAT", "SIZE", "MODE", "CLIENTS", "PENDING", "READ", "WRITTEN", "ERRORS",
];

/// A table with a row for each disk, and under it the images and URIs, which are too long for columns.
fn describe(servers: &[&ServerStatus]) -> String {
    let mut rows = vec![HEAD.map(str::to_owned)];
    rows.extend(
        servers
            .iter()
            .flat_map(|server| server.devices.iter().map(|disk| row(server, disk))),
    );
    let mut text = table(&rows);
    for server in servers {
        for disk in &server.devices {
            text += &format!("\n{}: {}\n", disk.info.name, disk.info.path.display());
            disk.uris.iter().for_each(|uri| text += &format!("  {uri}\n"));
        }
    }
    text
}

fn row(server: &ServerStatus, disk: &DeviceStatus) -> [String; HEAD.len()] {
    let (info, stats) = (&disk.info, &disk.stats);
    let mode = match (info.failed, info.read_only) {
        (true, _) => "FAILED",
        (false, true) => "ro",
        (false, false) => "rw",
    };
    let up = Duration::try_from_secs_f64(server.uptime_s.floor()).unwrap_or_default();
    let errors: u64 = vbd::Direction::ALL
        .iter()
        .map(|&direction| stats.of(direction).errors)
        .sum();
    [
        info.name.clone(),
        server.pid.to_string(),
        humantime::format_duration(up).to_string(),
        info.format.clone(),
        BinaryBytes(info.size_bytes).to_string(),
        mode.to_owned(),
        server.nbd.connections.to_string(),
        server.pending.to_string(),
        BinaryBytes(stats.read.bytes).to_string(),
        BinaryBytes(stats.write.bytes).to_string(),
        errors.to_string(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(failed: bool) -> ServerStatus {
        let latency = json!({ "p50_us": 1.0, "p90_us": 1.0, "p99_us": 1.0, "p999_us": 1.0, "max_us": 1.0 });
        let figures =
            |bytes: u64, errors: u64| json!({ "ops": 3, "bytes": bytes, "errors": errors, "latency": latency });
        let device = json!({
            "name": "demo", "path": "/images/demo.vhd", "format": "vhd-dynamic", "size_bytes": 1u64 << 30,
            "read_only": false, "cache": "writeback", "failed": failed,
            "uris": ["nbd+unix:///demo?socket=/run/iomgr/demo.sock"],
            "stats": { "read": figures(65536, 0), "write": figures(8 << 20, 1), "flush": figures(0, 2), "trim": figures(0, 0) },
        });
        let status = json!({
            "pid": 4711, "version": "0.1.0", "uri": "nbd+unix:///?socket=/run/iomgr/demo.sock", "uptime_s": 63.9,
            "manager": "none", "pending": 5, "devices": [device],
            "nbd": { "connections": 2, "connections_total": 9, "in_flight": 5, "requests_total": 12 },
        });
        serde_json::from_value(status).unwrap()
    }

    #[test]
    fn a_row_for_each_disk() {
        insta::assert_snapshot!(describe(&[&server(false)]), @r"
        NAME  PID   UP     FORMAT       SIZE      MODE  CLIENTS  PENDING  READ       WRITTEN   ERRORS
        demo  4711  1m 3s  vhd-dynamic  1.00 GiB  rw    2        5        64.00 KiB  8.00 MiB  3

        demo: /images/demo.vhd
          nbd+unix:///demo?socket=/run/iomgr/demo.sock
        ");
    }

    #[test]
    fn a_failed_disk_is_seen_to_have_failed() {
        assert!(describe(&[&server(true)]).contains(" FAILED "));
    }
}
