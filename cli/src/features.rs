//! `iomgr features`: what the kernel's ublk driver can do.

use std::process::ExitCode;

use clap::Args;
use vbd::{UblkFeature, ublk_features};

use crate::failure::Failure;
use crate::output::{print, print_json, table};

const EXAMPLES: &str = "\
Examples:
  iomgr features               one line for each, and the kernel that brought it
  iomgr features --json        the same for programs";

/// Say what the kernel's ublk driver can do
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Features {}

impl Features {
    #[expect(clippy::unused_self, reason = "all verbs run alike")]
    pub(crate) fn run(&self, json: bool) -> Result<ExitCode, Failure> {
        let features = ublk_features()?;
        match json {
            true => print_json(&features)?,
            false => print(&text(&features))?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn text(features: &[UblkFeature]) -> String {
    let row = |feature: &UblkFeature| {
        [
            if feature.is_there { "yes" } else { "no" }.to_owned(),
            feature.name.clone(),
            feature.since.clone().unwrap_or_default(),
        ]
    };
    table(&features.iter().map(row).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_feature_says_whether_it_is_there() {
        let feature = |name: &str, is_there| UblkFeature {
            name: name.into(),
            since: Some("Linux 6.5".into()),
            is_there,
        };
        insta::assert_snapshot!(text(&[feature("USER_COPY", true), feature("QUIESCE", false)]), @r"
        yes  USER_COPY  Linux 6.5
        no   QUIESCE    Linux 6.5
        ");
    }
}
