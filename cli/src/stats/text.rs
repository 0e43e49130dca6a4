//! What disks do, as text.

use indicatif::BinaryBytes;
use vbd::{DirectionStats, DiskSample};

use super::Told;
use crate::output::{self, microseconds};

const HEAD: [&str; 12] = [
    "DISK",
    "READS/S",
    "READ/S",
    "P50",
    "P99",
    "WRITES/S",
    "WRITTEN/S",
    "P50",
    "P99",
    "PENDING",
    "WAITS/S",
    "WAIT P99",
];

/// A line for each disk, below a head.
pub(super) fn table(told: &[Told]) -> String {
    let mut rows = vec![HEAD.map(str::to_owned)];
    rows.extend(rows_of(told));
    output::table(&rows)
}

/// The table where the last one was.
pub(super) fn refreshed(table: &str, is_first: bool) -> String {
    // Clear all, once; then go home, end each line where the new one ends, and clear what is left below.
    let start = if is_first { "\x1b[2J\x1b[H" } else { "\x1b[H" };
    format!("{start}{}\x1b[J", table.replace('\n', "\x1b[K\n"))
}

/// Lines whose columns stay where they are from one time to the next.
pub(super) fn lines(told: &[Told], with_head: bool) -> String {
    let head = with_head.then(|| HEAD.map(str::to_owned));
    let rows = head.into_iter().chain(rows_of(told));
    rows.map(|row| line(&row)).collect()
}

fn line(row: &[String; HEAD.len()]) -> String {
    let cells = row.iter().enumerate().map(|(column, cell)| match column {
        0 => format!("{cell:16}"),
        _ => format!("{cell:>11}"),
    });
    format!("{}\n", cells.collect::<Vec<_>>().join(" "))
}

fn rows_of(told: &[Told]) -> impl Iterator<Item = [String; HEAD.len()]> {
    told.iter().flat_map(|told| &told.sample.disks).map(row)
}

fn row(disk: &DiskSample) -> [String; HEAD.len()] {
    let per_s = |count: u64| count as f64 / disk.interval_s.max(1e-9);
    let [reads, read, read_p50, read_p99] = direction(&disk.stats.read, per_s);
    let [writes, written, write_p50, write_p99] = direction(&disk.stats.write, per_s);
    let wait = match disk.waits {
        0 => "-".to_owned(),
        _ => microseconds(disk.wait_p99_us),
    };
    [
        disk.name.clone(),
        reads,
        read,
        read_p50,
        read_p99,
        writes,
        written,
        write_p50,
        write_p99,
        disk.pending.to_string(),
        rate(per_s(disk.waits)),
        wait,
    ]
}

fn direction(stats: &DirectionStats, per_s: impl Fn(u64) -> f64) -> [String; 4] {
    let latency = |us| match stats.ops {
        0 => "-".to_owned(),
        _ => microseconds(us),
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "whole bytes will do"
    )]
    let bytes = BinaryBytes(per_s(stats.bytes) as u64).to_string();
    [
        rate(per_s(stats.ops)),
        bytes,
        latency(stats.latency.p50_us),
        latency(stats.latency.p99_us),
    ]
}

/// Whole ones, unless there are few.
fn rate(per_s: f64) -> String {
    match per_s {
        per_s if per_s > 0.0 && per_s < 10.0 => format!("{per_s:.1}"),
        per_s => format!("{per_s:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told() -> Told {
        let figures = |ops: u64, bytes: u64| {
            json!({
                "ops": ops, "bytes": bytes, "errors": 0,
                "latency": { "p50_us": 11.2, "p90_us": 15.0, "p99_us": 1234.5, "p999_us": 2e3, "max_us": 3e6 },
            })
        };
        let disk = |name: &str, ops: u64| {
            json!({
                "name": name, "interval_s": 2.0, "pending": ops / 100, "waits": ops / 10, "wait_p99_us": 2048.0,
                "read": figures(ops, ops << 12), "write": figures(ops / 1000, ops << 9), "flush": figures(1, 0),
                "trim": figures(0, 0),
            })
        };
        let sample = json!({ "manager": "throttle", "pending": 40, "disks": [disk("disk0", 4000), disk("idle", 0)] });
        Told {
            server: "disk0".into(),
            sample: serde_json::from_value(sample).unwrap(),
        }
    }

    #[test]
    fn a_line_for_each_disk() {
        insta::assert_snapshot!(table(&[told()]));
    }

    #[test]
    fn lines_of_a_pipe_have_columns() {
        insta::assert_snapshot!(format!("{}{}", lines(&[told()], true), lines(&[told()], false)));
    }

    #[test]
    fn a_table_on_a_terminal_leaves_nothing_of_the_last_one() {
        assert_eq!(refreshed("a\nb\n", true), "\x1b[2J\x1b[Ha\x1b[K\nb\x1b[K\n\x1b[J");
        assert_eq!(refreshed("a\n", false), "\x1b[Ha\x1b[K\n\x1b[J");
    }
}
