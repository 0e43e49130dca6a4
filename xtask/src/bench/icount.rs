//! `cargo xtask bench --icount`: instructions per op, tqueue's beside those of fio's io_uring engine.
//!
//! Both run in a guest whose clock counts instructions, those of the kernel included: a nanosecond is an instruction, and
//! a busy machine changes nothing. One processor, so the kernel's work for an op is in the figure whichever thread does it.
//!
//! # References
//!
//! ARCHITECTURE.md, "Measuring"; QEMU's `docs/devel/tcg-icount.rst`.

use std::collections::BTreeMap;
use std::path::Path;

use super::report::median;
use crate::guest::{Outcome, Setup};
use crate::scratch::Scratch;
use crate::{Result, cmd};

/// The middle one of so many counts: they differ by half a percent.
const ROUNDS: u32 = 3;
/// Ops of one measurement.
const OPS: u32 = 30_000;

/// tqueue's instructions are at most so many times fio's.
const RATIO_MAX: f64 = 1.05;

const TQUEUE: &str = "tqueue";

/// What tqueue is compared with, what that is, and whether the bound holds for it.
const PEERS: &[(&str, &str, bool)] = &[
    ("fio", "as it is", true),
    ("fio-lean", "without its own statistics", true),
    ("fio-tuned", "and with registered buffers and files, in batches", false),
];

/// Instructions per op by program and depth, one for each round.
type Counts = BTreeMap<(String, u32), Vec<f64>>;

/// Builds the load, boots, prints the table; a ratio above the bound is an error.
pub(super) fn run() -> Result {
    cmd::run(cmd::cargo().args(["build", "--release", "--package", "tqueue", "--example", "load"]))?;
    let load = cmd::target().join("release/examples/load");
    let counts = counts(&in_guest(&load)?);
    let rows = rows(&counts);
    print_table(&rows);
    match rows
        .iter()
        .filter(|row| row.is_bound && row.ratio() > RATIO_MAX)
        .count()
    {
        0 => Ok(()),
        above => Err(format!("{above} ratios are above {RATIO_MAX}").into()),
    }
}

/// What the script printed.
fn in_guest(load: &Path) -> Result<String> {
    let scratch = Scratch::new(&cmd::target().join("bench"), "icount-")?;
    let script = scratch.join("icount.sh");
    std::fs::write(&script, include_str!("icount.sh"))?;
    let setup = Setup {
        memory: 1024,
        module: vec!["loop".to_owned()],
        program: vec!["fio".to_owned(), load.display().to_string()],
        file: vec![format!("{}:/icount.sh", script.display())],
        icount: true,
        timeout: 1200,
        ..Setup::default()
    };
    let command = ["sh", "/icount.sh", &ROUNDS.to_string(), &OPS.to_string()].map(str::to_owned);
    let mut text = Vec::new();
    match setup.run(&command, &mut |bytes| show(bytes, &mut text))? {
        Outcome::Exit(0) => Ok(String::from_utf8_lossy(&text).into_owned()),
        outcome => Err(format!("the guest ended by {outcome:?}").into()),
    }
}

fn show(bytes: &[u8], text: &mut Vec<u8>) {
    print!("{}", String::from_utf8_lossy(bytes));
    text.extend_from_slice(bytes);
}

/// `PROGRAM DEPTH NANOSECONDS …`
fn counts(text: &str) -> Counts {
    let mut counts = Counts::new();
    for line in text.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        if let [program, depth, ns, ..] = words.as_slice()
            && let (Ok(depth), Ok(ns)) = (depth.parse(), ns.parse())
        {
            counts.entry(((*program).to_owned(), depth)).or_default().push(ns);
        }
    }
    counts
}

/// tqueue beside one peer at one depth.
#[derive(Debug, Clone, Copy)]
struct Row {
    peer: &'static str,
    about: &'static str,
    is_bound: bool,
    depth: u32,
    ours: f64,
    theirs: f64,
}

impl Row {
    fn ratio(&self) -> f64 {
        self.ours / self.theirs
    }
}

fn rows(counts: &Counts) -> Vec<Row> {
    let ours = counts.iter().filter(|((program, _), _)| program == TQUEUE);
    let rows = ours.flat_map(|((_, depth), ours)| {
        PEERS.iter().filter_map(move |&(peer, about, is_bound)| {
            let theirs = counts.get(&(peer.to_owned(), *depth))?;
            Some(Row {
                peer,
                about,
                is_bound,
                depth: *depth,
                ours: median(ours),
                theirs: median(theirs),
            })
        })
    });
    rows.collect()
}

fn print_table(rows: &[Row]) {
    println!(
        "\n| depth | tqueue, instructions per op | compared with | its instructions | ratio |\n|---|---|---|---|---|"
    );
    for row in rows {
        let bound = if row.is_bound {
            format!(" (at most {RATIO_MAX})")
        } else {
            String::new()
        };
        println!(
            "| {} | {:.0} | {} ({}) | {:.0} | {:.3}{bound} |",
            row.depth,
            row.ours,
            row.peer,
            row.about,
            row.theirs,
            row.ratio()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_over_the_rounds_are_compared_at_each_depth() {
        let text = "tqueue 1 90.5 ns and 1 enters\nfio 1 100 ns\ntqueue 1 990.5 ns\nfio 1 100 ns\n\
                    tqueue 1 89.0 ns\nfio 1 999 ns\nnoise\ntqueue 32 50 ns\nfio-tuned 32 40 ns\n";
        let rows = rows(&counts(text));
        let brief: Vec<_> = rows.iter().map(|row| (row.depth, row.peer, row.is_bound)).collect();
        assert_eq!(brief, [(1, "fio", true), (32, "fio-tuned", false)]);
        assert!((rows[0].ratio() - 0.905).abs() < 1e-9);
    }
}
