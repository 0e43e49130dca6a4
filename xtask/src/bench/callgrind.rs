//! Instructions per request of our own server, by callgrind: VHD over raw, without the noise of time.
//!
//! The server runs twice, for few and for many requests; the difference leaves start and end out. It is built apart, so
//! that rustix asks libc for the auxiliary vector: the kernel's own names a vDSO that is not there under valgrind. And it
//! runs by blocking calls: valgrind lets no other thread run while one waits in `io_uring_enter`.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::daemon::Daemon;
use super::load::{Load, Pattern};
use super::report::Report;
use super::{Bench, IMAGE_BYTES};
use crate::{Result, cmd};

const FEW: u64 = 5_000;
const MANY: u64 = 55_000;

/// Adds the figures for both images and their ratio.
pub(super) fn run(bench: &Bench, report: &mut Report) -> Result {
    let product = build()?;
    let raw = per_request(bench, &product, &bench.scratch.join("full.raw"))?;
    let vhd = per_request(bench, &product, &bench.scratch.join("full.vhd"))?;
    report.figure("instructions per read, raw", raw, "");
    report.figure("instructions per read, dynamic VHD", vhd, "");
    report.ratio(
        "instructions per read, VHD : raw, both ours (at most 1.05)",
        &[vhd],
        &[raw],
    );
    Ok(())
}

/// The product as valgrind can run it.
fn build() -> Result<PathBuf> {
    let target = cmd::root().join("target/callgrind");
    let mut cargo = cmd::cargo();
    // `vbd` is named because it knows rustix; features are one set for the whole build.
    cargo.args(["build", "--release", "--package", "iomgr", "--package", "vbd"]);
    cargo.args(["--features", "rustix/use-libc-auxv"]);
    cmd::run(cargo.env("CARGO_TARGET_DIR", &target))?;
    Ok(target.join("release/iomgr"))
}

fn per_request(bench: &Bench, product: &Path, image: &Path) -> Result<f64> {
    let few = instructions(bench, product, image, FEW)?;
    let many = instructions(bench, product, image, MANY)?;
    #[expect(clippy::cast_precision_loss, reason = "a few thousand requests")]
    let requests = (MANY - FEW) as f64;
    Ok((many - few) / requests)
}

/// All instructions of one life of the server.
fn instructions(bench: &Bench, product: &Path, image: &Path, requests: u64) -> Result<f64> {
    let output = bench.scratch.fresh("callgrind");
    let mut valgrind = Command::new("valgrind");
    valgrind
        .args(["--tool=callgrind", "--quiet"])
        .arg(format!("--callgrind-out-file={}", output.display()));
    valgrind.arg(product);
    let server = Daemon::ours_by(valgrind, &bench.scratch, image, &["--queues", "1", "--engine", "sync"])?;
    let load = Load {
        pattern: Pattern::RandomRead,
        depth: 32,
        secs: 0,
        size_bytes: IMAGE_BYTES,
    };
    load.run_requests(&server, requests)?;
    server.stop()?;
    let text = std::fs::read_to_string(&output)?;
    total(&text).ok_or_else(|| "callgrind's output has no total".into())
}

/// `summary: 123456` or `totals: 123456`
fn total(text: &str) -> Option<f64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("summary: ").or_else(|| line.strip_prefix("totals: ")))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callgrinds_total_is_found() {
        assert_eq!(total("version: 1\nsummary: 1234\nfn=(1)\n"), Some(1234.0));
    }
}
