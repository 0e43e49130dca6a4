//! `iomgr check`: all that is wrong with an image.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;
use vbd::vhd::{Finding, Report, Severity, Verdict};

use crate::args::Format;
use crate::failure::Failure;
use crate::output::{print, print_json, table};
use crate::size;

const EXAMPLES: &str = "\
Examples:
  iomgr check disk.vhd                      exit code 0: clean
  iomgr check disk.vhd --json               findings with code, severity and offset

Exit codes: 0 clean, 1 cannot be checked, 2 corrupt, 3 leaked space only (harmless).";

const EXIT_UNSUPPORTED: u8 = 1;
const EXIT_CORRUPT: u8 = 2;
const EXIT_LEAKS: u8 = 3;

/// Check the structure of a VHD, and name all that is wrong
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Check {
    /// The image
    image: PathBuf,
    /// The format, where the extension does not tell it
    #[arg(long)]
    format: Option<Format>,
}

impl Check {
    pub(crate) fn run(&self, json: bool) -> Result<ExitCode, Failure> {
        let report = vbd::check(&self.image, self.format.map(Into::into))?;
        if json {
            print_json(&json!({
                "path": self.image.to_string_lossy(),
                "verdict": report.verdict(),
                "findings": report.findings,
                "stats": report.stats,
            }))?;
        } else {
            print(&self.describe(&report))?;
        }
        Ok(exit_code(report.verdict()))
    }

    fn describe(&self, report: &Report) -> String {
        // What ended the check is the verdict's word.
        let findings = report.findings.iter().filter(|finding| !is_unsupported(finding));
        let findings = table(&findings.map(row).collect::<Vec<_>>());
        format!("{findings}{}: {}\n", self.image.display(), verdict(report))
    }
}

/// `error  bat-overlap  at 8192  …`.
fn row(finding: &Finding) -> [String; 4] {
    let severity = match finding.severity {
        Severity::Info => "info",
        Severity::Warning => "warning",
        Severity::Leak => "leak",
        Severity::Unsupported => "unsupported",
        Severity::Error => "error",
    };
    let place = finding.offset.map_or(String::new(), |offset| format!("at {offset}"));
    [
        severity.to_owned(),
        finding.code.to_owned(),
        place,
        finding.text.clone(),
    ]
}

fn verdict(report: &Report) -> String {
    let stats = &report.stats;
    match report.verdict() {
        Verdict::Clean if stats.blocks == 0 => "clean".to_owned(),
        Verdict::Clean => format!("clean, {} of {} blocks allocated", stats.allocated, stats.blocks),
        Verdict::Leaks => format!("usable, with {} that nothing refers to", size::both(stats.leaked_bytes)),
        Verdict::Unsupported => {
            let what = report.findings.iter().find(|finding| is_unsupported(finding));
            format!("cannot be checked: {}", what.map_or(String::new(), ToString::to_string))
        }
        Verdict::Corrupt => "corrupt".to_owned(),
    }
}

fn is_unsupported(finding: &Finding) -> bool {
    finding.severity == Severity::Unsupported
}

fn exit_code(verdict: Verdict) -> ExitCode {
    match verdict {
        Verdict::Clean => ExitCode::SUCCESS,
        Verdict::Unsupported => EXIT_UNSUPPORTED.into(),
        Verdict::Leaks => EXIT_LEAKS.into(),
        Verdict::Corrupt => EXIT_CORRUPT.into(),
    }
}
