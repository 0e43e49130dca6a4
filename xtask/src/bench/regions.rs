//! `cargo xtask bench --regions`: instructions that dmio's client takes for a request, beside tqueue alone.
//!
//! The guest's clock counts instructions, as for [`icount`]. The same requests of 4 KiB, at depth 32 and by direct I/O on loop
//! devices, are made by the two crates' examples (`tqueue/examples/load.rs`, `dmio/examples/region_load.rs`) in turns: random reads from one
//! region, in memory of the pool; and random writes to two regions, beside two clients of which each writes to one.

use super::icount;
use super::report::{figures, median};
use crate::scratch::Scratch;
use crate::{Result, cmd};

const ROUNDS: u32 = 5;
/// Requests of one measurement.
const REQUESTS: u32 = 30_000;

/// A load: its name in what the script prints, what it is compared with there, what it is, and the bound of the ratio.
const LOADS: [(&str, &str, &str, f64); 2] = [
    ("read", "tqueue", "random read of one region : tqueue's alone", 1.05),
    (
        "mirror",
        "alone",
        "random write to two regions : two writers' of one each",
        1.1,
    ),
];

/// Prints `LOAD PROGRAM NANOSECONDS …`, one line for each writer.
const SCRIPT: &str = "\
rounds=$1 count=$2

dd if=/dev/urandom of=/tmp/other bs=1M count=64 2>/dev/null
losetup /dev/loop1 /tmp/other

for round in $(seq $rounds); do
    echo \"read tqueue $(load /dev/loop0 random-read 32 $count direct)\" || exit
    echo \"read dmio $(region_load /dev/loop0 random-read 32 $count direct)\" || exit
    for device in /dev/loop0 /dev/loop1; do
        echo \"mirror alone $(region_load $device random-write 32 $count direct)\" || exit
    done
    echo \"mirror dmio $(region_load /dev/loop0,/dev/loop1 random-write 32 $count direct)\" || exit
done
";

/// Builds both, boots, prints the table; a ratio above its bound is an error.
pub(super) fn run() -> Result {
    let scratch = Scratch::new(&cmd::target().join("bench"), "regions-")?;
    let mut setup = icount::setup(&scratch, SCRIPT)?;
    for (package, example) in [("tqueue", "load"), ("iomgr-dmio", "region_load")] {
        cmd::run(cmd::cargo().args(["build", "--release", "--package", package, "--example", example]))?;
        let program = cmd::target().join("release/examples").join(example);
        setup.program.push(program.display().to_string());
    }
    let words = [ROUNDS, REQUESTS].map(|number| number.to_string());
    judge(&icount::in_guest(&setup, words)?)
}

/// Prints the table of what the script printed.
fn judge(text: &str) -> Result {
    println!("\n| load | dmio, instructions per request | the other | ratio | at most |\n|---|---|---|---|---|");
    let mut is_above = false;
    for (name, other, about, max) in LOADS {
        let ours = median(&figures(text, &format!("{name} dmio")));
        let alone = figures(text, &format!("{name} {other}"));
        // As many writers as regions, one after the other.
        let writers = if name == "mirror" { 2 } else { 1 };
        let alone: Vec<_> = alone.chunks(writers).map(|round| round.iter().sum()).collect();
        let alone = median(&alone);
        let ratio = ours / alone;
        // No figures make no ratio.
        is_above |= ratio.is_nan() || ratio > max;
        println!("| {about} | {ours:.0} | {alone:.0} | {ratio:.3} | {max} |");
    }
    match is_above {
        false => Ok(()),
        true => Err("dmio takes more instructions than it may".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(read: u32, mirror: u32) -> String {
        format!(
            "read tqueue 1000 ns and more\nread dmio {read}.0 ns\nmirror alone 1000 ns\nmirror alone 1200 ns\n\
             mirror dmio {mirror} ns\n"
        )
    }

    #[test]
    fn each_ratio_is_held_to_its_bound() {
        judge(&text(1050, 2420)).unwrap();
        judge(&text(1051, 2420)).unwrap_err();
        judge(&text(1050, 2421)).unwrap_err();
        judge("a guest that said nothing\n").unwrap_err();
    }
}
