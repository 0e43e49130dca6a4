//! tqueue beside fio's io_uring engine: what both the counts in a guest and the times on this machine have in common.

use std::path::PathBuf;

use super::report::{figures, median};
use crate::{Result, cmd};

/// Runs them in turns; the shell is the guest's as well.
pub(super) const SCRIPT: &str = include_str!("rivals.sh");

/// A load: what is done, and with how many ops at a time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    pub(super) pattern: &'static str,
    pub(super) depth: u32,
    /// tqueue takes at most so many times fio's time.
    pub(super) ratio_max: f64,
    /// Also of the tuned fio's?
    pub(super) is_hard: bool,
}

/// Ours, in what the script prints.
const OURS: &str = "tqueue";

/// A fio with options.
#[derive(Debug, Clone, Copy)]
struct Rival {
    name: &'static str,
    about: &'static str,
    is_tuned: bool,
}

const RIVALS: &[Rival] = &[
    Rival {
        name: "fio",
        about: "as it is",
        is_tuned: false,
    },
    Rival {
        name: "fio-lean",
        about: "without its own statistics",
        is_tuned: false,
    },
    Rival {
        name: "fio-tuned",
        about: "and with registered buffers and files, in batches",
        is_tuned: true,
    },
];

/// Builds the example that puts a load on tqueue.
pub(super) fn build() -> Result<PathBuf> {
    cmd::run(cmd::cargo().args(["build", "--release", "--package", "tqueue", "--example", "load"]))?;
    Ok(cmd::target().join("release/examples/load"))
}

/// The script's words for the loads.
pub(super) fn words(loads: &[Load]) -> impl Iterator<Item = String> {
    loads.iter().map(|load| format!("{}:{}", load.pattern, load.depth))
}

/// Prints the table of what the script printed; a ratio above its bound, or none at all, is an error.
pub(super) fn judge(text: &str, loads: &[Load], unit: &str) -> Result {
    println!("\n| load | tqueue, {unit} per op | compared with | its {unit} | ratio |\n|---|---|---|---|---|");
    let mut above = 0;
    for load in loads {
        // `PATTERN DEPTH PROGRAM FIGURE …`
        let figures = |program| figures(text, &format!("{} {} {program}", load.pattern, load.depth));
        let ours = figures(OURS);
        for rival in RIVALS {
            let theirs = figures(rival.name);
            let ratios: Vec<_> = ours.iter().zip(&theirs).map(|(ours, theirs)| ours / theirs).collect();
            let ratio = median(&ratios);
            let is_bound = load.is_hard || !rival.is_tuned;
            // No figures make no ratio.
            let is_above = ratio.is_nan() || ratio > load.ratio_max;
            above += usize::from(is_bound && is_above);
            println!(
                "| {}, depth {} | {:.0} | {} ({}) | {:.0} | {ratio:.3}{} |",
                load.pattern,
                load.depth,
                median(&ours),
                rival.name,
                rival.about,
                median(&theirs),
                if is_bound {
                    format!(" (at most {})", load.ratio_max)
                } else {
                    String::new()
                }
            );
        }
    }
    if above == 0 {
        Ok(())
    } else {
        Err(format!("{above} ratios are above their bounds").into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOAD: Load = Load {
        pattern: "random-read",
        depth: 1,
        ratio_max: 1.05,
        is_hard: false,
    };

    /// One round, with the tuned fio at 80.
    fn round(ours: u32, fio: u32) -> String {
        let line = |program, figure| format!("random-read 1 {program} {figure} ns and more\n");
        [
            line("tqueue", ours),
            line("fio", fio),
            line("fio-lean", fio),
            line("fio-tuned", 80),
        ]
        .concat()
    }

    #[test]
    fn the_median_of_the_rounds_ratios_is_held_to_the_bound() {
        let text = round(104, 100) + &round(300, 100) + &round(90, 100);
        assert!(judge(&text, &[LOAD], "ns").is_ok());
        assert!(judge(&text.replace("104", "106"), &[LOAD], "ns").is_err());
    }

    #[test]
    fn the_tuned_fio_is_a_bound_where_that_is_said() {
        let is_hard = Load { is_hard: true, ..LOAD };
        assert!(judge(&round(100, 100), &[is_hard], "ns").is_err());
        assert!(judge(&round(80, 100), &[is_hard], "ns").is_ok());
    }

    #[test]
    fn no_figures_are_a_failure() {
        assert!(judge("", &[LOAD], "ns").is_err());
        let deeper = Load { depth: 11, ..LOAD };
        assert!(judge(&round(100, 100), &[deeper], "ns").is_err());
    }
}
