//! `cargo xtask test --ublk`: the scripts in `tests/guest`, one after the other in one guest for each kernel.
//!
//! A script prints a line for each of its tests: `ok NAME`, `not ok NAME`, or `ok NAME # SKIP reason`. Its first comment
//! lines say what it needs:
//!
//! ```text
//! # needs: fio mkfs.ext4      programs of this machine; the product is always there
//! # helpers: shadow            programs of the package `iomgr-tests`
//! # modules: ublk_drv, loop   instead of ublk_drv alone; parameters may follow a name
//! # memory: 1536              MiB, instead of 512
//! # timeout: 900              seconds, instead of 600
//! # kernel: 7                 instead of 6
//! ```
//!
//! The guest has what all of its scripts need together. With `IOMGR_SOAK` set, or in `cargo xtask soak`, a script's
//! first argument is `soak`: it takes its long form, and ten times as long.

mod boot;
mod script;
mod verdict;

use std::fs;
use std::path::{Path, PathBuf};

use clap::ValueEnum;

use super::kernel::Series;
use crate::tally::Tally;
use crate::{Result, cmd};
use script::Script;

/// Runs the scripts of whose names, `guest::NAME`, one of the filters is a part; without filters, all.
pub(crate) fn run(product: &str, filters: &[String]) -> Result<Tally> {
    run_form(product, filters, std::env::var_os("IOMGR_SOAK").is_some())
}

/// Runs the long forms of all.
pub(crate) fn soak(product: &str) -> Result<Tally> {
    run_form(product, &[], true)
}

fn run_form(product: &str, filters: &[String], is_long: bool) -> Result<Tally> {
    let mut tally = Tally::default();
    let mut ready = Vec::new();
    for file in scripts(&cmd::root().join("tests/guest"))? {
        let name = script::name(&file);
        if !filters.is_empty() && !filters.iter().any(|filter| name.contains(filter.as_str())) {
            continue;
        }
        match Script::read(name.clone(), &file, product) {
            Err(error) => tally.add(verdict::failure(&name, &error.to_string())),
            Ok(script) => match script.lacking() {
                Some(reason) => tally.add(verdict::skipped(&name, reason)),
                None => ready.push(script),
            },
        }
    }
    for series in Series::value_variants() {
        let (now, later): (Vec<_>, Vec<_>) = ready.into_iter().partition(|script| script.setup.kernel == *series);
        tally.add(boot::run(&now, is_long));
        ready = later;
    }
    Ok(tally)
}

/// The scripts in a folder, by name.
fn scripts(folder: &Path) -> Result<Vec<PathBuf>> {
    let files = fs::read_dir(folder)?.map(|entry| Ok(entry?.path()));
    let mut files = files.collect::<std::io::Result<Vec<_>>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "sh"));
    files.sort();
    Ok(files)
}
