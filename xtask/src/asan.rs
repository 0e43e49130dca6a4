//! `cargo xtask asan`: tests of the crates with unsafe islands under AddressSanitizer.

use crate::Result;
use crate::cmd;
use crate::runner::{self, Selection};

/// The crates with unsafe islands that hold code. `blkdev-ublk` joins when its kernel interface is written.
const PACKAGES: &[&str] = &["tqueue"];

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
    let env = [
        ("RUSTC_BOOTSTRAP", "1".to_owned()),
        ("RUSTFLAGS", "-Zsanitizer=address".to_owned()),
        ("CARGO_TARGET_DIR", target),
    ];
    let mut packages = vec![
        "--lib".to_owned(),
        "--tests".to_owned(),
        "--target".to_owned(),
        TARGET.to_owned(),
    ];
    packages.extend(
        PACKAGES
            .iter()
            .flat_map(|&package| ["--package".to_owned(), package.to_owned()]),
    );
    let env = env.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let ended = runner::run(&Selection {
        packages,
        env,
        ..Selection::default()
    })?;
    ended.tally.print();
    if ended.ok {
        Ok(())
    } else {
        Err("tests failed under AddressSanitizer".into())
    }
}
