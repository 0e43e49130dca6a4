//! `cargo xtask bench --ublk`: what a request takes of our block devices, beside rublk's and the kernel's loop devices.
//!
//! One guest whose clock counts instructions, as for [`icount`], and in it each server in turn under fio. The figures are those of
//! the whole machine, fio and the kernel included: what can be saved is only what lies between the block device and the storage.
//!
//! | figure | counted by |
//! |---|---|
//! | instructions | the guest's clock |
//! | those of the server, the kernel's for it included | `/proc`, by the same clock |
//! | switches | `/proc`, for all threads of the server |
//! | enters, allocations | the kernel's trace events, for the same; in rounds of their own, as that takes instructions |
//!
//! The file lies on ext4 in memory and is read and written directly, as is the VHD beside it; the loop device lies on tmpfs.
//!
//! # References
//!
//! ARCHITECTURE.md, "Measuring"; the kernel's `Documentation/trace/histogram.rst` and `uprobetracer.rst`.

mod bounds;
mod figures;
mod rublk;

use std::process::Command;

use super::{icount, into_readme, need};
use crate::guest::Setup;
use crate::scratch::Scratch;
use crate::{Result, cmd, test};
use figures::{Figures, Load, Target, verdicts};

/// In the guest.
const SCRIPT: &str = include_str!("ublk/script.sh");

const ROUNDS: u32 = 3;
/// Requests of one measurement.
const COUNT: u32 = 10_000;

const LOADS: [Load; 5] = [
    load("random-read", 1),
    load("random-read", 32),
    load("random-write", 1),
    load("random-write", 32),
    load("sequential-write", 32),
];

const fn load(pattern: &'static str, depth: u32) -> Load {
    Load { pattern, depth }
}

/// In the order of the table.
const TARGETS: [Target; 9] = [
    target("iomgr", "null"),
    target("rublk", "null"),
    target("iomgr", "file"),
    target("rublk", "file"),
    target("kernel", "file"),
    target("iomgr", "vhd"),
    target("iomgr", "loop"),
    target("rublk", "loop"),
    target("kernel", "loop"),
];

const fn target(server: &'static str, storage: &'static str) -> Target {
    Target { server, storage }
}

/// What the guest needs of this machine, besides the servers; and what tells where functions are.
const PROGRAMS: [&str; 3] = ["fio", "mkfs.ext4", "losetup"];
const SYMBOLS: &str = "nm";

/// The C library's functions that allocate; what Rust's allocator calls.
const ALLOCATORS: [&str; 5] = ["malloc", "calloc", "realloc", "posix_memalign", "aligned_alloc"];

/// Builds, boots, prints the tables; a bound that is broken is an error.
pub(super) fn run(readme: bool) -> Result {
    need(&PROGRAMS)?;
    need(&[SYMBOLS])?;
    let product = test::build()?;
    let rublk = rublk::provide();
    let scratch = Scratch::new(&cmd::target().join("bench"), "ublk-")?;
    let mut setup = icount::setup(&scratch, SCRIPT)?;
    setup.memory = 1536;
    setup
        .module
        .extend(["ublk_drv", "brd rd_nr=1 rd_size=262144"].map(str::to_owned));
    setup.program.extend(PROGRAMS.map(str::to_owned));
    setup.program.push(format!("{product}:iomgr"));
    match &rublk {
        Ok(program) => setup.program.push(program.display().to_string()),
        Err(reason) => println!("skipped: {reason}"),
    }
    let text = count(&setup, &product, rublk.is_ok())?;
    judge(&text, rublk, readme)
}

/// Runs the script.
fn count(setup: &Setup, product: &str, has_rublk: bool) -> Result<String> {
    let targets = TARGETS.iter().filter(|target| has_rublk || target.server != "rublk");
    let targets: Vec<_> = targets
        .map(|target| format!("{}-{}", target.server, target.storage))
        .collect();
    let loads = LOADS.map(|load| format!("{}:{}", load.pattern, load.depth));
    let words = [
        ROUNDS.to_string(),
        COUNT.to_string(),
        loads.join(" "),
        targets.join(" "),
        allocators(product)?,
    ];
    icount::in_guest(setup, words)
}

/// Prints the tables; the second is what the bounds make of the first.
fn judge(text: &str, rublk: std::result::Result<std::path::PathBuf, String>, readme: bool) -> Result {
    let figures = Figures(text);
    let bounds = LOADS.map(|load| bounds::of(load, &figures, rublk.is_ok())).concat();
    let table = format!(
        "Counted by `cargo xtask bench --ublk`: medians of {ROUNDS} rounds of {COUNT} requests in a guest with one processor, fio's and the\n\
         kernel's instructions included; rublk {}.\n\n{}",
        rublk::VERSION,
        figures.table(&LOADS, &TARGETS),
    );
    println!("\n{table}\n{}", verdicts(&bounds));
    if readme {
        into_readme("bench-ublk", &table)?;
    }
    let broken = bounds.iter().filter(|bound| bound.is_broken()).count();
    match (broken, rublk) {
        (0, Err(reason)) if std::env::var("CI").is_ok_and(|ci| ci == "true") => Err(reason.into()),
        (0, _) => Ok(()),
        _ => Err(format!("{broken} bounds are broken").into()),
    }
}

/// The C library, and where in it the functions are that allocate. (Its functions' addresses are their places in the file.)
fn allocators(product: &str) -> Result<String> {
    let libraries = cmd::capture(Command::new("ldd").arg(product).env("LC_ALL", "C"))?;
    let libc = libraries.split_whitespace().find(|word| word.contains("/libc.so."));
    let libc = libc.ok_or_else(|| format!("{product} has no C library"))?;
    let symbols = cmd::capture(Command::new(SYMBOLS).args(["--dynamic", "--defined-only"]).arg(libc))?;
    let places: Vec<_> = symbols.lines().filter_map(place).collect();
    if places.len() < ALLOCATORS.len() {
        return Err(format!("{libc} lacks some of {ALLOCATORS:?}").into());
    }
    Ok(format!("{libc} {}", places.join(" ")))
}

/// `0000000000098930 T malloc@@GLIBC_2.2.5`: where it is, if it allocates.
fn place(symbol: &str) -> Option<String> {
    let mut words = symbol.split_whitespace();
    let (address, name) = (words.next()?, words.nth(1)?);
    let name = name.split('@').next()?;
    ALLOCATORS.contains(&name).then(|| format!("0x{address}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_that_allocate_are_found_by_their_whole_names() {
        let found = place("0000000000098930 T malloc@@GLIBC_2.2.5");
        assert_eq!(found.as_deref(), Some("0x0000000000098930"));
        assert_eq!(place("0000000000098931 T malloc_trim@@GLIBC_2.2.5"), None);
        assert_eq!(place("                 U malloc"), None);
    }
}
