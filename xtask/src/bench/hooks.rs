//! `cargo xtask bench --hooks`: instructions per request under manager "none", beside a build without hooks.
//!
//! The same program (`vbd/examples/requests.rs`: random 4 KiB reads of a raw disk) is built twice, once with
//! `--cfg iomgr_no_hooks`. Both take turns in a guest whose clock counts instructions, the kernel's included, on a loop
//! device by direct I/O.

use super::icount;
use super::report::median;
use crate::guest::Setup;
use crate::scratch::Scratch;
use crate::{Result, cmd};

const ROUNDS: u32 = 5;
/// Requests of one measurement.
const REQUESTS: u32 = 30_000;
const DEPTHS: [u32; 2] = [1, 32];
/// "none" takes at most so many times the instructions.
const RATIO_MAX: f64 = 1.01;

/// The programs, as they are called in the guest.
const WITH: &str = "with-hooks";
const WITHOUT: &str = "without-hooks";

/// Prints `DEPTH PROGRAM NANOSECONDS …`.
const SCRIPT: &str = "\
rounds=$1 count=$2
shift 2
for round in $(seq $rounds); do
    for depth in \"$@\"; do
        for program in with-hooks without-hooks; do
            echo \"$depth $program $($program /dev/loop0 $depth $count)\" || exit
        done
    done
done
";

/// Builds both, boots, prints the table; a ratio above its bound is an error.
pub(super) fn run() -> Result {
    let scratch = Scratch::new(&cmd::target().join("bench"), "hooks-")?;
    let setup = Setup {
        program: vec![build(WITH, &[])?, build(WITHOUT, &["--cfg", "iomgr_no_hooks"])?],
        ..icount::setup(&scratch, SCRIPT)?
    };
    let mut words = vec![ROUNDS.to_string(), REQUESTS.to_string()];
    words.extend(DEPTHS.map(|depth| depth.to_string()));
    judge(&icount::in_guest(&setup, words)?)
}

/// The example built with these flags, for the guest to have it under this name.
fn build(name: &str, flags: &[&str]) -> Result<String> {
    // Apart for each: other flags build everything anew.
    let target = cmd::target().join("bench").join(name);
    let flags: Vec<_> = flags.iter().map(|flag| format!("{flag:?}")).collect();
    let mut cargo = cmd::cargo();
    cargo.args(["build", "--release", "--package", "vbd", "--example", "requests"]);
    cargo.args(["--config", &format!("build.rustflags=[{}]", flags.join(","))]);
    cmd::run(cargo.env("CARGO_TARGET_DIR", &target).env_remove("RUSTFLAGS"))?;
    let program = target.join("release/examples/requests");
    Ok(format!("{}:{name}", program.display()))
}

/// Prints the table of what the script printed.
fn judge(text: &str) -> Result {
    println!(
        "\n| depth | instructions per request, manager \"none\" | hooks compiled out | ratio (at most {RATIO_MAX}) |"
    );
    println!("|---|---|---|---|");
    let mut is_above = false;
    for depth in DEPTHS {
        let (with, without) = (figures(text, depth, WITH), figures(text, depth, WITHOUT));
        let ratio = median(&with) / median(&without);
        // No figures make no ratio.
        is_above |= ratio.is_nan() || ratio > RATIO_MAX;
        println!(
            "| {depth} | {:.0} | {:.0} | {ratio:.4} |",
            median(&with),
            median(&without)
        );
    }
    match is_above {
        false => Ok(()),
        true => Err("the hooks take more instructions than they may".into()),
    }
}

/// What a program took per request, one figure for each round.
fn figures(text: &str, depth: u32, program: &str) -> Vec<f64> {
    let start = format!("{depth} {program} ");
    let rest = text.lines().filter_map(|line| line.strip_prefix(&start));
    rest.filter_map(|rest| rest.split(' ').next()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(with: u32) -> String {
        let of = |depth| {
            format!("{depth} with-hooks {with}.0 ns per request\n{depth} without-hooks 1000.0 ns per request\n")
        };
        DEPTHS.map(of).concat()
    }

    #[test]
    fn the_ratio_is_held_to_its_bound() {
        judge(&text(1010)).unwrap();
        judge(&text(1011)).unwrap_err();
        judge("a guest that said nothing\n").unwrap_err();
    }
}
