//! `cargo xtask ci`: every check, one after the other; all failures are reported, not only the first.

use clap::Args as ClapArgs;

use crate::cmd;
use crate::{Result, asan, fuzz, test, tidy};

/// Which checks to leave out.
#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Leave a check out (fmt, clippy, doc, tidy, asan, fuzz, test); may be given several times
    #[arg(long, value_name = "CHECK")]
    skip: Vec<String>,
}

/// A check and its name.
type Check = (&'static str, fn() -> Result);

const CHECKS: &[Check] = &[
    ("fmt", fmt),
    ("clippy", clippy),
    ("doc", doc),
    ("tidy", tidy::run),
    ("asan", asan::run),
    ("fuzz", fuzzing),
    ("test", tests),
];

/// Runs the checks and lists those that failed.
pub(crate) fn run(args: &Args) -> Result {
    if let Some(unknown) = args
        .skip
        .iter()
        .find(|skip| CHECKS.iter().all(|(name, _)| name != skip))
    {
        return Err(format!("no check is called {unknown}").into());
    }
    let mut failed = Vec::new();
    for (name, check) in CHECKS
        .iter()
        .filter(|(name, _)| !args.skip.iter().any(|skip| skip == name))
    {
        println!("\n== {name}");
        if let Err(error) = check() {
            println!("{name} failed: {error}");
            failed.push(*name);
        }
    }
    if failed.is_empty() {
        Ok(())
    } else {
        Err(format!("failed: {}", failed.join(", ")).into())
    }
}

fn fmt() -> Result {
    cmd::run(cmd::cargo().args(["fmt", "--all", "--check"]))
}

fn clippy() -> Result {
    let all = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--keep-going",
        "--quiet",
        "--",
        "--deny",
        "warnings",
    ];
    cmd::run(cmd::cargo().args(all))
}

fn doc() -> Result {
    let all = ["doc", "--workspace", "--no-deps", "--document-private-items", "--quiet"];
    cmd::run(cmd::cargo().args(all).env("RUSTDOCFLAGS", "--deny warnings"))
}

fn fuzzing() -> Result {
    fuzz::run(&fuzz::Args::for_ci())
}

fn tests() -> Result {
    test::run(&test::Args {
        groups: test::Groups::default(),
        no_install: false,
        filters: Vec::new(),
    })
}
