//! `cargo xtask fuzz`: the fuzz targets, for some seconds each, from the corpus that is kept in the tree.

use std::path::PathBuf;

use clap::Args as ClapArgs;

use crate::Result;
use crate::cmd;
use crate::tally::{Skip, Tally};
use crate::test;

/// What to fuzz, and how long.
#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Only this target
    target: Option<String>,
    /// How long, for each target
    #[arg(long, default_value_t = 60)]
    secs: u64,
}

impl Args {
    /// All targets, briefly.
    pub(crate) fn for_ci() -> Self {
        Self { target: None, secs: 10 }
    }
}

/// The targets: files in `fuzz/fuzz_targets`.
const TARGETS: &[&str] = &["nbd_server"];

/// Fuzzes and prints the sum. The corpus itself is run by the tests as well, without any tool.
pub(crate) fn run(args: &Args) -> Result {
    if let Some(unknown) = args.target.as_deref().filter(|target| !TARGETS.contains(target)) {
        return Err(format!("no fuzz target is called {unknown}; there are: {}", TARGETS.join(" ")).into());
    }
    let tally = each(args.target.as_deref(), args.secs);
    tally.print();
    match tally.failed {
        0 => test::refuse_skips(&tally, std::env::var("CI").is_ok_and(|ci| ci == "true")),
        _ => Err("the fuzzer found failures; their inputs lie in fuzz/corpus, where the tests will find them".into()),
    }
}

/// Fuzzes one target or all, `secs` seconds each.
pub(crate) fn each(only: Option<&str>, secs: u64) -> Tally {
    let mut tally = Tally::default();
    for target in TARGETS.iter().filter(|target| only.is_none_or(|only| only == **target)) {
        tally.add(one(target, secs));
    }
    tally
}

/// A tool that is missing is a skip, not a failure.
fn one(target: &str, secs: u64) -> Tally {
    let mut tally = Tally::default();
    if cmd::which("cargo-fuzz").is_none() {
        println!("skipped: {MISSING}");
        tally.skips.insert(Skip {
            test: format!("fuzz {target}"),
            reason: MISSING.into(),
        });
        return tally;
    }
    match fuzz(target, secs) {
        Ok(()) => tally.ended_well = 1,
        Err(error) => {
            println!("fuzz {target} failed: {error}");
            tally.failed = 1;
        }
    }
    tally
}

const MISSING: &str = "cargo-fuzz is not installed (cargo install cargo-fuzz --locked)";

/// What is found new goes to the target folder, so that the tree stays as it is; what fails goes to the corpus, to stay there.
///
/// No sanitizer: what is fuzzed forbids unsafe code, and runs twice as fast without.
fn fuzz(target: &str, secs: u64) -> Result {
    let (folder, corpus) = (cmd::root().join("fuzz"), PathBuf::from("corpus").join(target));
    let found = found(target);
    std::fs::create_dir_all(&found)?;
    let mut command = cmd::cargo();
    command.args([
        "fuzz",
        "run",
        "--fuzz-dir",
        ".",
        "--sanitizer",
        "none",
        "--codegen-units",
        "16",
        target,
    ]);
    command.args([&found, &corpus]).arg("--");
    command.args([
        format!("-max_total_time={secs}"),
        format!("-artifact_prefix={}/", corpus.display()),
    ]);
    command.args(["-max_len=16384", "-timeout=10", "-print_final_stats=1", "-verbosity=0"]);
    // cargo-fuzz asks for compiler flags that stable compilers keep to themselves.
    cmd::run(command.current_dir(folder).env("RUSTC_BOOTSTRAP", "1"))
}

/// Where inputs are kept from one run to the next on this machine.
fn found(target: &str) -> PathBuf {
    cmd::target().join("fuzz-corpus").join(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_has_its_file_and_its_seeds() {
        let fuzz = cmd::root().join("fuzz");
        let files = std::fs::read_dir(fuzz.join("fuzz_targets")).unwrap();
        let mut names: Vec<_> = files
            .map(|file| file.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
            .collect();
        names.sort();
        assert_eq!(names, TARGETS);
        for target in TARGETS {
            assert!(fuzz.join("corpus").join(target).is_dir());
        }
    }
}
