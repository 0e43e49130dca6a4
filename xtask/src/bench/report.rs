//! The table of a benchmark, as Markdown for the README.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use super::load::Sample;
use crate::cmd;

/// Rows in the order in which they were measured.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// Servers by load.
    servers: BTreeMap<String, Vec<String>>,
    figures: Vec<String>,
}

impl Report {
    pub(super) fn server(&mut self, name: &str, load: &str, samples: &[Sample]) {
        let cpu = median(&samples.iter().map(|sample| sample.cpu_us).collect::<Vec<_>>());
        let iops = median(&samples.iter().map(|sample| sample.iops).collect::<Vec<_>>());
        let row = format!("| {name} | {cpu:.2} | {:.1} k |", iops / 1e3);
        self.servers.entry(load.to_owned()).or_default().push(row);
    }

    /// A server that could not be measured here.
    pub(super) fn absent(&mut self, name: &str, load: &str) {
        let row = format!("| {name} | not installed | |");
        self.servers.entry(load.to_owned()).or_default().push(row);
    }

    /// The median of the rounds' ratios: what the machine did in one round, it did to both.
    pub(super) fn ratio(&mut self, what: &str, ours: &[f64], theirs: &[f64]) {
        let ratios: Vec<f64> = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
        self.figure(what, median(&ratios), "");
    }

    pub(super) fn figure(&mut self, what: &str, value: f64, unit: &str) {
        let value = format!("{value:.2} {unit}");
        self.figures.push(format!("| {what} | {} |", value.trim_end()));
    }

    /// All of it as Markdown.
    pub(super) fn markdown(&self, pairs: usize, secs: u64) -> String {
        let mut text = format!(
            "Measured by `cargo xtask bench`: medians of {pairs} interleaved rounds of {secs} s, one connection on a unix\n\
             socket, images on tmpfs; {}.\n",
            machine()
        );
        for (load, rows) in &self.servers {
            let rows = rows.join("\n");
            text += &format!("\n| {load} | server CPU µs per I/O | IOPS |\n|---|---|---|\n{rows}\n");
        }
        text + &format!("\n| figure | |\n|---|---|\n{}\n", self.figures.join("\n"))
    }
}

/// A text with another table between the marks of a name; none without marks.
pub(super) fn between_marks(text: &str, name: &str, table: &str) -> Option<String> {
    let (begin, end) = (format!("<!-- {name}:begin -->\n"), format!("<!-- {name}:end -->"));
    let (before, rest) = text.split_once(&begin)?;
    let (_, after) = rest.split_once(&end)?;
    Some(format!("{before}{begin}{table}{end}{after}"))
}

/// The figures in what a script printed: the first word behind `start` in each line that begins with it.
pub(super) fn figures(text: &str, start: &str) -> Vec<f64> {
    let rest = text
        .lines()
        .filter_map(|line| line.strip_prefix(start)?.strip_prefix(' '));
    rest.filter_map(|rest| rest.split(' ').next()?.parse().ok()).collect()
}

/// The middle one; of an even number, the upper of the two.
pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Processor, kernel and the peers' versions.
fn machine() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .unwrap_or("unknown processor");
    let model = model.trim_start_matches(['\t', ' ', ':']);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = kernel.split('-').next().unwrap_or_default().trim();
    let versions = ["fio", "nbdkit", "qemu-nbd"].map(version).join(", ");
    format!("{cores} cores of {model}, Linux {release}, {versions}")
}

/// `nbdkit 1.32.5`: the name and the first word with a digit.
fn version(program: &str) -> String {
    let text = cmd::capture(Command::new(program).arg("--version")).unwrap_or_default();
    let line = text.lines().next().unwrap_or_default().replace("fio-", "fio ");
    let number = line
        .split_whitespace()
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
    format!("{program} {}", number.unwrap_or("?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_takes_the_place_of_the_last_one() {
        let text = "a\n<!-- bench:begin -->\nold\n<!-- bench:end -->\nb\n";
        let expected = "a\n<!-- bench:begin -->\nnew\n<!-- bench:end -->\nb\n";
        assert_eq!(between_marks(text, "bench", "new\n").as_deref(), Some(expected));
        assert_eq!(between_marks(text, "bench-ublk", "new\n"), None);
    }

    #[test]
    fn the_median_is_not_moved_by_one_bad_round() {
        assert!((median(&[3.0, 100.0, 1.0]) - 3.0).abs() < f64::EPSILON);
    }
}
