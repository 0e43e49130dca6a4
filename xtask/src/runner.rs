//! The two test runners: cargo-nextest where it is installed, plain `cargo test` everywhere.

use std::path::PathBuf;
use std::process::Command;

use crate::Result;
use crate::cmd;
use crate::output::Reader;
use crate::tally::Tally;

/// What to run. Both runners take the same selection.
#[derive(Debug, Default, Clone)]
pub(crate) struct Selection {
    /// Arguments that choose packages and targets, as cargo takes them (`--workspace`, `-p X`, `--test it`).
    pub(crate) packages: Vec<String>,
    /// Only tests whose path contains one of these; empty: all.
    pub(crate) filters: Vec<String>,
    /// Environment for the tests.
    pub(crate) env: Vec<(String, String)>,
    /// A profile of `.config/nextest.toml`, for runs that take long.
    pub(crate) profile: Option<&'static str>,
}

impl Selection {
    /// Each crate's own tests.
    pub(crate) fn units(filters: Vec<String>) -> Selection {
        Selection::of(&["--workspace", "--exclude", "iomgr-tests"], filters)
    }

    /// Modules or tests of the system tests.
    pub(crate) fn system(filters: Vec<String>) -> Selection {
        Selection::of(&["--package", "iomgr-tests", "--tests"], filters)
    }

    /// Everything there is.
    pub(crate) fn all(filters: Vec<String>) -> Selection {
        Selection::of(&["--workspace"], filters)
    }

    /// Arguments that choose packages, as cargo takes them.
    pub(crate) fn of(packages: &[&str], filters: Vec<String>) -> Selection {
        let packages = packages.iter().map(|&word| word.to_owned()).collect();
        Selection {
            packages,
            filters,
            ..Selection::default()
        }
    }

    /// Sets a variable for the tests.
    pub(crate) fn env(mut self, name: &str, value: impl Into<String>) -> Selection {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    /// Takes the profile for long runs.
    pub(crate) fn long(mut self) -> Selection {
        self.profile = Some("soak");
        self
    }
}

/// How a run ended: the sum, and whether the runner itself was content (it also fails when a build does).
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) tally: Tally,
    pub(crate) ok: bool,
}

/// Runs the selection with the best runner at hand.
pub(crate) fn run(selection: &Selection) -> Result<Ended> {
    if cmd::which("cargo-nextest").is_some() {
        nextest(selection)
    } else {
        libtest(selection)
    }
}

/// Runs the documentation's examples: nextest cannot.
pub(crate) fn doctests(selection: &Selection) -> Result<Option<Ended>> {
    if cmd::which("cargo-nextest").is_none() {
        return Ok(None); // plain `cargo test` ran them already
    }
    let mut command = cargo(&["test", "--doc", "--no-fail-fast"], selection);
    follow(&mut command, Reader::default()).map(Some)
}

fn nextest(selection: &Selection) -> Result<Ended> {
    let profile = selection.profile.unwrap_or("default");
    let report = junit(selection, profile);
    // A report that an earlier run left would be taken for this one's.
    if report.exists() {
        std::fs::remove_file(&report)?;
    }
    let mut command = cargo(
        &[
            "nextest",
            "run",
            "--no-fail-fast",
            "--no-tests=pass",
            "--profile",
            profile,
        ],
        selection,
    );
    command.args(["--color", cmd::colour()]).args(&selection.filters);
    let mut reader = Reader::default();
    let ok = cmd::tee(&mut command, |line| reader.line(line))?;
    if let Ok(xml) = std::fs::read_to_string(&report) {
        reader.junit(&xml);
    }
    Ok(Ended {
        tally: reader.finish(),
        ok,
    })
}

fn libtest(selection: &Selection) -> Result<Ended> {
    let mut command = cargo(&["test", "--no-fail-fast"], selection);
    command
        .args(["--color", cmd::colour(), "--", "--show-output"])
        .args(&selection.filters);
    follow(&mut command, Reader::default())
}

fn follow(command: &mut Command, mut reader: Reader) -> Result<Ended> {
    let ok = cmd::tee(command, |line| reader.line(line))?;
    Ok(Ended {
        tally: reader.finish(),
        ok,
    })
}

fn cargo(verb: &[&str], selection: &Selection) -> Command {
    let mut command = cmd::cargo();
    command.args(verb).args(&selection.packages);
    command.envs(selection.env.iter().map(|(name, value)| (name, value)));
    command
}

/// nextest writes its report into the target folder of the run.
fn junit(selection: &Selection, profile: &str) -> PathBuf {
    let chosen = selection
        .env
        .iter()
        .find(|(name, _)| name == "CARGO_TARGET_DIR")
        .map(|(_, folder)| folder.into());
    let target = chosen.or_else(|| std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from));
    target
        .unwrap_or_else(|| cmd::root().join("target"))
        .join("nextest")
        .join(profile)
        .join("junit.xml")
}
