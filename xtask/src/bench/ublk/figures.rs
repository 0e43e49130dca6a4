//! What the script counted, by load and target.

use super::COUNT;
use super::bounds::Bound;
use crate::bench::report::median;

/// Requests of 4 KiB, so many at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) pattern: &'static str,
    pub(super) depth: u32,
}

/// A server and what it serves, as the script names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) server: &'static str,
    pub(super) storage: &'static str,
}

/// What the script printed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Figures<'a>(pub(super) &'a str);

impl Figures<'_> {
    /// The median of the rounds, for one request; NaN if there is none.
    pub(super) fn per_request(&self, load: Load, target: Target, figure: &str) -> f64 {
        let Load { pattern, depth } = load;
        let start = format!("{pattern} {depth} {}-{} {figure} ", target.server, target.storage);
        let totals = self.0.lines().filter_map(|line| line.strip_prefix(&start));
        let totals: Vec<f64> = totals.filter_map(|total| total.trim().parse().ok()).collect();
        median(&totals) / f64::from(COUNT)
    }

    /// Everything that was counted, as Markdown.
    pub(super) fn table(&self, loads: &[Load], targets: &[Target]) -> String {
        let head = "| load | device | server | instructions | of them the server's | enters | switches | allocations |\n|---|---|---|---|---|---|---|---|\n";
        let rows = loads
            .iter()
            .flat_map(|&load| targets.iter().map(move |&target| self.row(load, target)));
        head.to_owned() + &rows.collect::<String>()
    }

    fn row(&self, load: Load, target: Target) -> String {
        let figure = |name, digits| match self.per_request(load, target, name) {
            figure if figure.is_nan() => "–".to_owned(),
            figure => format!("{figure:.digits$}"),
        };
        format!(
            "| {load} | {} | {} | {} | {} | {} | {} | {} |\n",
            target.device(),
            target.server,
            figure("instructions", 0),
            figure("server", 0),
            figure("enters", 2),
            figure("switches", 2),
            figure("allocations", 2),
        )
    }
}

impl std::fmt::Display for Load {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, depth {}", self.pattern.replace('-', " "), self.depth)
    }
}

impl Target {
    /// For people.
    pub(super) fn device(self) -> &'static str {
        match self.storage {
            "file" => "raw file",
            "vhd" => "dynamic VHD",
            "loop" => "raw on a loop device",
            other => other,
        }
    }
}

/// Bounds as Markdown, each with its verdict.
pub(super) fn verdicts(bounds: &[Bound]) -> String {
    let head = "| bound, for a request | found | at most | verdict |\n|---|---|---|---|\n";
    head.to_owned() + &bounds.iter().map(Bound::row).collect::<String>()
}
