//! `cargo xtask asan`: tests of the crates with unsafe islands under AddressSanitizer.

use crate::Result;
use crate::cmd;
use crate::runner::{self, Selection};

/// The crates with unsafe islands.
const PACKAGES: &[&str] = &["tqueue", "blkdev-ublk"];

/// The sanitizer needs an explicit target, else it would be put into build scripts and proc macros as well.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds into a folder of its own, so that the usual one stays warm.
pub(crate) fn run() -> Result {
    if cfg!(not(all(
        target_arch = "x86_64",
        target_os = "linux",
        target_env = "gnu"
    ))) {
        println!("skipped: AddressSanitizer is set up for {TARGET} only");
        return Ok(());
    }
    let target = cmd::root().join("target/asan").to_string_lossy().into_owned();
    let mut packages = vec!["--lib", "--tests", "--target", TARGET];
    packages.extend(PACKAGES.iter().flat_map(|&package| ["--package", package]));
    let selection = Selection::of(&packages, Vec::new());
    let selection = selection
        .env("RUSTC_BOOTSTRAP", "1")
        // Random scripts are run for longer without the sanitizer.
        .env("IOMGR_SIM_SECS", "10")
        .env("RUSTFLAGS", "-Zsanitizer=address");
    let ended = runner::run(&selection.env("CARGO_TARGET_DIR", target))?;
    ended.tally.print();
    if ended.ok {
        Ok(())
    } else {
        Err("tests failed under AddressSanitizer".into())
    }
}
