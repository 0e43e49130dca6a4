//! Servers as text: a line for each disk, and on request what each disk has done and who is connected.

use std::time::Duration;

use indicatif::BinaryBytes;
use vbd::{
    ConnectionStatus, DeviceStatus, Direction, DirectionStats, DiskInfo, LimitsStatus, NbdStatus, PauseStatus,
    RetryStatus, Stats, Status,
};

use crate::manager;
use crate::output::{indent, microseconds, table};

const DISKS: [&str; 11] = [
    "NAME", "PID", "UP", "FORMAT", "SIZE", "MODE", "CLIENTS", "PENDING", "READ", "WRITTEN", "ERRORS",
];
const LATENCIES: [&str; 9] = ["OP", "COUNT", "BYTES", "ERRORS", "P50", "P90", "P99", "P99.9", "MAX"];
const CLIENTS: [&str; 12] = [
    "CLIENT",
    "DISK",
    "PEER",
    "FOR",
    "IDLE",
    "PENDING",
    "MEMORY",
    "READ",
    "READ P99",
    "WRITTEN",
    "WRITE P99",
    "ERRORS",
];

/// A table with a row for each disk, and under it the images and URIs, which are too long for columns.
pub(super) fn overview(servers: &[&Status]) -> String {
    let disks = |server: &&'_ Status| -> Vec<_> { server.devices.iter().map(|disk| disk_row(server, disk)).collect() };
    let mut text = with_head(DISKS, servers.iter().flat_map(disks).collect());
    for server in servers {
        for disk in &server.devices {
            text += &format!("\n{}: {}\n", disk.info.name, disk.info.path.display());
            disk.uris.iter().for_each(|uri| text += &format!("  {uri}\n"));
            server
                .filters
                .iter()
                .for_each(|filter| text += &format!("  filter {filter}\n"));
            text += &disk.info.paused.as_ref().map(pause_line).unwrap_or_default();
        }
    }
    text
}

/// What each disk has done, what manages its requests, who is connected, and what clients may take.
pub(super) fn details(server: &Status) -> String {
    let mut text = format!("\n{}{}", manager::summary(&server.managing), trouble_lines(&server.nbd));
    for disk in &server.devices {
        let rows = Direction::ALL.map(|direction| latency_row(direction, disk.stats.of(direction)));
        text += &format!("\n{}:\n{}", disk.info.name, indent(&with_head(LATENCIES, rows.into())));
        text += &disk.retry.as_ref().map(retry_line).unwrap_or_default();
    }
    if !server.connections.is_empty() {
        let rows = server.connections.iter().map(client_row).collect();
        text += &format!("\nclients:\n{}", indent(&with_head(CLIENTS, rows)));
    }
    text + &server.limits.as_ref().map(limits_line).unwrap_or_default()
}

fn with_head<const N: usize>(head: [&str; N], mut rows: Vec<[String; N]>) -> String {
    rows.insert(0, head.map(str::to_owned));
    table(&rows)
}

fn disk_row(server: &Status, disk: &DeviceStatus) -> [String; DISKS.len()] {
    let (info, stats) = (&disk.info, &disk.stats);
    let is_its = |client: &&ConnectionStatus| client.export.as_ref() == Some(&info.name);
    let clients = || server.connections.iter().filter(is_its);
    let pending = match &server.ublk {
        Some(ublk) => ublk.in_flight,
        None => clients().map(|client| client.in_flight).sum(),
    };
    [
        info.name.clone(),
        server.pid.to_string(),
        seconds(server.uptime_s),
        info.format.clone(),
        bytes(info.size_bytes),
        mode(info).to_owned(),
        clients().count().to_string(),
        pending.to_string(),
        bytes(stats.read.bytes),
        bytes(stats.write.bytes),
        errors(stats),
    ]
}

/// Whether it takes writes, and if not, why.
pub(crate) fn mode(info: &DiskInfo) -> &'static str {
    match (&info.paused, info.failed, info.read_only) {
        (Some(_), _, _) => "paused",
        (None, true, _) => "FAILED",
        (None, false, true) => "ro",
        (None, false, false) => "rw",
    }
}

fn errors(stats: &Stats) -> String {
    let errors = Direction::ALL.map(|direction| stats.of(direction).errors);
    errors.iter().sum::<u64>().to_string()
}

fn latency_row(direction: Direction, stats: &DirectionStats) -> [String; LATENCIES.len()] {
    let all = &stats.latency;
    let [p50, p90, p99, p999, max] =
        [all.p50_us, all.p90_us, all.p99_us, all.p999_us, all.max_us].map(|us| latency(stats, us));
    [
        direction.name().to_owned(),
        stats.ops.to_string(),
        bytes(stats.bytes),
        stats.errors.to_string(),
        p50,
        p90,
        p99,
        p999,
        max,
    ]
}

/// A latency of `stats`; what was never done took no time.
fn latency(stats: &DirectionStats, us: f64) -> String {
    if stats.ops == 0 {
        "-".to_owned()
    } else {
        microseconds(us)
    }
}

fn client_row(client: &ConnectionStatus) -> [String; CLIENTS.len()] {
    let stats = &client.stats;
    [
        client.id.to_string(),
        client.export.clone().unwrap_or_else(|| "-".to_owned()),
        client.peer.clone(),
        seconds(client.opened_for_s),
        seconds(client.idle_for_s),
        client.in_flight.to_string(),
        bytes(client.held_bytes),
        bytes(stats.read.bytes),
        latency(&stats.read, stats.read.latency.p99_us),
        bytes(stats.write.bytes),
        latency(&stats.write, stats.write.latency.p99_us),
        errors(stats),
    ]
}

fn limits_line(limits: &LimitsStatus) -> String {
    let idle = limits.idle_timeout_s.map_or("never".to_owned(), duration);
    format!(
        "\nlimits: {} connections, {} commands in flight on each; timeouts: handshake {}, idle {idle}, stall {}\n",
        limits.connections,
        limits.in_flight,
        duration(limits.handshake_timeout_s),
        duration(limits.stall_timeout_s),
    )
}

/// What should not happen, where it has.
fn trouble_lines(nbd: &NbdStatus) -> String {
    let troubles = [
        (nbd.slow_passes_total, "passes in which the manager took above 1 ms"),
        (nbd.stuck_passes_total, "times that the manager took a second or longer"),
        (
            nbd.stuck_ops_total,
            "disk operations that the kernel kept for longer than 10s",
        ),
    ];
    let seen = troubles.into_iter().filter(|(count, _)| *count > 0);
    seen.map(|(count, what)| format!("  {what}: {count}, see the log\n"))
        .collect()
}

fn retry_line(retry: &RetryStatus) -> String {
    if retry.timeout_s == 0.0 {
        return "  retries: switched off\n".to_owned();
    }
    format!(
        "  retries: {} ({} for {}); given up: {}; waiting now: {}\n",
        retry.retries,
        retry.errors.join(" "),
        duration(retry.timeout_s),
        retry.given_up,
        retry.waiting,
    )
}

fn pause_line(pause: &PauseStatus) -> String {
    let end = match (pause.resumes_in_s, pause.leased) {
        (Some(left), _) => format!(", resumes in {}", seconds(left.ceil())),
        (None, true) => ", resumes when who paused it goes away".to_owned(),
        (None, false) => String::new(),
    };
    let trouble = pause
        .error
        .as_ref()
        .map(|error| format!("; cannot be resumed: {error}"));
    format!(
        "  paused for {}{end}{}\n",
        seconds(pause.for_s),
        trouble.unwrap_or_default()
    )
}

fn bytes(bytes: u64) -> String {
    BinaryBytes(bytes).to_string()
}

fn duration(seconds: f64) -> String {
    let time = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    humantime::format_duration(time).to_string()
}

/// Whole ones.
fn seconds(seconds: f64) -> String {
    duration(seconds.floor())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use vbd::UblkStatus;

    use super::*;

    fn server(failed: bool) -> Status {
        let latency = json!({ "p50_us": 11.24, "p90_us": 150.4, "p99_us": 1234.5, "p999_us": 2.5e6, "max_us": 3e6 });
        let figures = |ops: u64, bytes: u64, errors: u64| json!({ "ops": ops, "bytes": bytes, "errors": errors, "latency": latency });
        let device = json!({
            "name": "demo", "path": "/images/demo.vhd", "format": "vhd-dynamic", "size_bytes": 1u64 << 30,
            "read_only": false, "cache": "writeback", "failed": failed,
            "uris": ["nbd+unix:///demo?socket=/run/iomgr/demo.sock", "nbd://127.0.0.1:10809/demo"],
            "stats": {
                "read": figures(16, 65536, 0), "write": figures(2048, 8 << 20, 1), "flush": figures(2, 0, 2),
                "trim": figures(0, 0, 0),
            },
            "retry": {
                "errors": ["EAGAIN", "EBUSY", "EINTR", "EIO"], "timeout_s": 120.0, "retries": 12, "given_up": 1, "waiting": 3,
            },
        });
        let client = |id: u64, export: Option<&str>, peer: &str| {
            json!({
                "id": id, "peer": peer, "export": export, "structured": true, "opened_for_s": 61.2, "idle_for_s": 0.3,
                "in_flight": 5, "held_bytes": 20480,
                "stats": {
                    "read": figures(16, 65536, 0), "write": figures(2048, 8 << 20, 1), "flush": figures(2, 0, 2),
                    "trim": figures(0, 0, 0),
                },
            })
        };
        let status = json!({
            "pid": 4711, "version": "0.1.0", "uri": "nbd+unix:///?socket=/run/iomgr/demo.sock", "uptime_s": 63.9,
            "manager": "limit", "managing": {
                "name": "limit", "config": { "policy": { "name": "limit", "max": 8 } }, "generations": [],
                "hooks": {
                    "pending": 5, "grants": 120, "waits": 17, "aborts": 0, "allocs": 120, "frees": 115,
                    "ngs": { "device_until": 0, "device_freed": 0, "class_until": 0, "class_freed": 30 },
                    "wait": { "sum_us": 1e5, "p50_us": 1e3, "p90_us": 2e3, "p99_us": 1e4, "p999_us": 1e4, "max_us": 1e4, "buckets": [] },
                },
            },
            "filters": ["latency:1ms", "trace:last=64"], "pending": 5, "devices": [device],
            "nbd": { "connections": 2, "connections_total": 9, "in_flight": 5, "requests_total": 12 },
            "connections": [client(3, Some("demo"), "unix pid 4800 uid 0"), client(4, None, "127.0.0.1:40000")],
            "limits": {
                "connections": 64, "in_flight": 128, "handshake_timeout_s": 10.0, "idle_timeout_s": null,
                "stall_timeout_s": 0.5,
            },
        });
        serde_json::from_value(status).unwrap()
    }

    #[test]
    fn a_row_for_each_disk() {
        insta::assert_snapshot!(overview(&[&server(false)]));
    }

    #[test]
    fn all_about_a_server() {
        insta::assert_snapshot!(details(&server(false)));
    }

    /// Its requests come from the kernel, not from clients.
    #[test]
    fn a_ublk_device_has_requests_pending_without_clients() {
        let mut status = server(false);
        status.connections.clear();
        status.ublk = Some(UblkStatus {
            id: 0,
            path: "/dev/ublkb0".into(),
            queues: 1,
            depth: 128,
            buffer_bytes: 512 << 10,
            zero_copy: false,
            in_flight: 17,
            requests_total: 12,
            enters_total: 9,
            sqes_total: 20,
            merges_total: 0,
        });
        let row = disk_row(&status, &status.devices[0]);
        assert_eq!((row[6].as_str(), row[7].as_str()), ("0", "17"));
    }

    #[test]
    fn a_pause_says_how_it_ends() {
        let mut status = server(false);
        let mut paused = |pause: serde_json::Value| {
            status.devices[0].info.paused = Some(serde_json::from_value(pause).unwrap());
            overview(&[&status])
        };
        let text = paused(json!({ "for_s": 61.5, "leased": true }));
        assert!(
            text.contains(" paused ") && text.contains("paused for 1m 1s, resumes when who paused"),
            "{text}"
        );
        let text = paused(json!({ "for_s": 2.0, "leased": false, "resumes_in_s": 3.2, "error": "is gone" }));
        assert!(
            text.contains("paused for 2s, resumes in 4s; cannot be resumed: is gone\n"),
            "{text}"
        );
        assert!(paused(json!({ "for_s": 2.0, "leased": false })).contains("paused for 2s\n"));
    }

    #[test]
    fn a_failed_disk_is_seen_to_have_failed() {
        assert!(overview(&[&server(true)]).contains(" FAILED "));
    }

    #[test]
    fn what_should_not_happen_is_said_where_it_has() {
        let mut status = server(false);
        assert!(!details(&status).contains("see the log"));
        status.nbd.stuck_passes_total = 2;
        status.nbd.stuck_ops_total = 3;
        let text = details(&status);
        assert!(
            text.contains("\n  times that the manager took a second or longer: 2, see the log\n"),
            "{text}"
        );
        assert!(text.contains("kept for longer than 10s: 3, see the log\n"), "{text}");
        assert!(!text.contains("above 1 ms"), "{text}");
    }

    /// One of the last version's may still run.
    #[test]
    fn a_server_that_tells_less_is_shown_all_the_same() {
        let mut status = serde_json::to_value(server(false)).unwrap();
        let fields = status.as_object_mut().unwrap();
        fields.remove("connections");
        fields.remove("limits");
        fields.remove("managing");
        fields["devices"][0].as_object_mut().unwrap().remove("retry");
        fields.remove("filters");
        let status: Status = serde_json::from_value(status).unwrap();
        assert!(!details(&status).contains("clients:"));
    }
}
