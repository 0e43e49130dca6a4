//! `cargo xtask bench --hooks`: instructions per request under manager "none", beside a build without hooks.
//!
//! Two programs are built twice, once with `--cfg iomgr_no_hooks`: the server, which serves a block device by ublk to fio, and
//! one without a frontend (`vbd/examples/requests.rs`). Each reads 4 KiB at random places of a loop device by direct I/O. They
//! take turns in a guest whose clock counts instructions, the kernel's included.
//!
//! The bound is for requests as they are served. The bare program shows what the hooks cost where nothing else does.

use super::icount;
use super::report::{figures, median};
use crate::scratch::Scratch;
use crate::{Result, cmd};

const ROUNDS: u32 = 5;
/// Requests of one measurement.
const REQUESTS: u32 = 30_000;
const DEPTHS: [u32; 2] = [1, 32];
/// "none" takes at most so many times the instructions.
const RATIO_MAX: f64 = 1.01;

/// The builds: a word of the programs' names in the guest, and the flags.
const BUILDS: [(&str, &[&str]); 2] = [("with-hooks", &[]), ("without-hooks", &["--cfg", "iomgr_no_hooks"])];

/// How requests come to the hooks, and the ratio's bound, if there is one.
const WAYS: [(&str, Option<f64>); 2] = [("served", Some(RATIO_MAX)), ("bare", None)];

/// Prints `DEPTH WAY BUILD NANOSECONDS …`.
const SCRIPT: &str = "\
rounds=$1 count=$2
shift 2

bare() { bare-$1 /dev/loop0 $depth $count; }

# The ninth field of fio's line is the milliseconds of all reads.
served() {
    dev=$(iomgr-$1 add raw /dev/loop0) || exit
    line=$(fio --name=load --filename=$dev --direct=1 --ioengine=io_uring --rw=randread --norandommap --bs=4k \
        --io_size=$((count * 4))k --iodepth=$depth --gtod_reduce=1 --minimal) || exit
    iomgr-$1 del -n ${dev#/dev/ublkb} >&2 || exit
    echo $(($(echo \"$line\" | cut -d';' -f9) * 1000000 / count))
}

for round in $(seq $rounds); do
    for depth in \"$@\"; do
        for way in served bare; do
            for build in with-hooks without-hooks; do
                echo \"$depth $way $build $($way $build)\" || exit
            done
        done
    done
done
";

/// Builds both, boots, prints the table; a ratio above its bound is an error.
pub(super) fn run() -> Result {
    let scratch = Scratch::new(&cmd::target().join("bench"), "hooks-")?;
    let mut setup = icount::setup(&scratch, SCRIPT)?;
    setup.module.push("ublk_drv".to_owned());
    setup.program.push("fio".to_owned());
    for (name, flags) in BUILDS {
        setup.program.extend(build(name, flags)?);
    }
    let mut words = vec![ROUNDS.to_string(), REQUESTS.to_string()];
    words.extend(DEPTHS.map(|depth| depth.to_string()));
    judge(&icount::in_guest(&setup, words)?)
}

/// Server and example built with these flags, for the guest to have them under this name.
fn build(name: &str, flags: &[&str]) -> Result<[String; 2]> {
    // Apart for each: other flags build everything anew.
    let target = cmd::target().join("bench").join(name);
    let flags: Vec<_> = flags.iter().map(|flag| format!("{flag:?}")).collect();
    for what in [["iomgr", "--bin", "iomgr"], ["vbd", "--example", "requests"]] {
        let mut cargo = cmd::cargo();
        cargo.args(["build", "--release", "--package"]).args(what);
        cargo.args(["--config", &format!("build.rustflags=[{}]", flags.join(","))]);
        cmd::run(cargo.env("CARGO_TARGET_DIR", &target).env_remove("RUSTFLAGS"))?;
    }
    let program = |path, word| format!("{}:{word}-{name}", target.join("release").join(path).display());
    Ok([program("iomgr", "iomgr"), program("examples/requests", "bare")])
}

/// Prints the table of what the script printed.
fn judge(text: &str) -> Result {
    println!("\n| way | depth | instructions per request, manager \"none\" | hooks compiled out | ratio | at most |");
    println!("|---|---|---|---|---|---|");
    let mut is_above = false;
    for (way, max) in WAYS {
        for depth in DEPTHS {
            let [with, without] = BUILDS.map(|(build, _)| median(&figures(text, &format!("{depth} {way} {build}"))));
            let ratio = with / without;
            // No figures make no ratio.
            is_above |= ratio.is_nan() || max.is_some_and(|max| ratio > max);
            let max = max.map_or_else(|| "–".to_owned(), |max| max.to_string());
            println!("| {way} | {depth} | {with:.0} | {without:.0} | {ratio:.4} | {max} |");
        }
    }
    match is_above {
        false => Ok(()),
        true => Err("the hooks take more instructions than they may".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(served: u32) -> String {
        let of = |depth| {
            format!(
                "{depth} served with-hooks {served}\n{depth} served without-hooks 1000\n\
                 {depth} bare with-hooks 1100.0 ns per request\n{depth} bare without-hooks 1000.0 ns per request\n"
            )
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
