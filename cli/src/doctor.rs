//! `iomgr doctor`: what this machine offers, and how to get what lacks.

mod frontends;
mod kernel;
mod queue;
mod tools;

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use crate::failure::Failure;
use crate::output::{print, print_json, table};

const EXAMPLES: &str = "\
Examples:
  iomgr doctor                 one line for each thing, and what to do about those that lack
  iomgr doctor --json          the same for programs

The exit code is 1 only if nothing can be served here at all.";

/// Say what this machine offers for serving disks, and how to get what lacks
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Doctor {}

/// How well one thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    /// As it should be.
    Ok,
    /// It works, but less well.
    Limited,
    /// Not there; nothing depends on it.
    Missing,
    /// Nothing can be served.
    Fatal,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
struct Check {
    name: &'static str,
    verdict: Verdict,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

#[derive(Debug, Serialize)]
struct Report {
    can_serve: bool,
    checks: Vec<Check>,
}

impl Check {
    fn new(name: &'static str, verdict: Verdict, found: impl Into<String>) -> Self {
        Self {
            name,
            verdict,
            found: found.into(),
            advice: None,
        }
    }

    #[must_use]
    fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }
}

impl Doctor {
    #[expect(clippy::unused_self, reason = "all verbs run alike")]
    pub(crate) fn run(&self, json: bool) -> Result<ExitCode, Failure> {
        let report = examine();
        if json {
            print_json(&report)?
        } else {
            print(&report.text())?
        }
        Ok(if report.can_serve {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

fn examine() -> Report {
    let mut checks = vec![kernel::version()];
    checks.extend(queue::checks());
    checks.extend([frontends::runtime_folder(), frontends::nbd(), frontends::ublk()]);
    checks.extend(tools::clients());
    Report {
        can_serve: checks.iter().all(|check| check.verdict != Verdict::Fatal),
        checks,
    }
}

impl Report {
    fn text(&self) -> String {
        let row = |check: &Check| {
            [
                check.verdict.word().to_owned(),
                check.name.to_owned(),
                check.found.clone(),
            ]
        };
        let mut text = table(&self.checks.iter().map(row).collect::<Vec<_>>());
        let advice: Vec<_> = self
            .checks
            .iter()
            .filter_map(|check| Some(format!("  {}: {}\n", check.name, check.advice.as_ref()?)))
            .collect();
        if !advice.is_empty() {
            text += &format!("\nwhat can be done:\n{}", advice.concat());
        }
        text + if self.can_serve {
            "\nthis machine can serve disks\n"
        } else {
            "\nthis machine cannot serve disks\n"
        }
    }
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Limited => "limited",
            Self::Missing => "missing",
            Self::Fatal => "FATAL",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_ends_with_advice_and_the_verdict() {
        let lacking = Check::new("fio", Verdict::Missing, "not on PATH").advise("install fio");
        let mut report = Report {
            can_serve: true,
            checks: vec![Check::new("kernel", Verdict::Ok, "6.18.0"), lacking],
        };
        insta::assert_snapshot!(report.text(), @r"
        ok       kernel  6.18.0
        missing  fio     not on PATH

        what can be done:
          fio: install fio

        this machine can serve disks
        ");
        report.can_serve = false;
        assert!(report.text().ends_with("cannot serve disks\n"));
    }
}
