//! Two versions of one package cost build time and size; each needs a reason here.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::Metadata;

/// Packages that may be there in several versions, and why nothing is done about it.
const ALLOWED: &[(&str, &str)] = &[(
    "syn",
    "used at build time only: the macros of tracing are at 2, those of serde and clap at 3",
)];

/// Findings about duplicates without a reason, and about reasons that are no longer needed.
pub(super) fn check(metadata: &Metadata) -> Vec<String> {
    let mut versions: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for package in &metadata.packages {
        versions
            .entry(&package.name)
            .or_default()
            .insert(package.version.to_string());
    }
    versions.retain(|_, versions| versions.len() > 1);
    let reason = |name: &str| ALLOWED.iter().find(|(allowed, _)| *allowed == name).map(|(_, why)| why);
    let mut findings = Vec::new();
    for (name, versions) in &versions {
        let list = versions.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        match reason(name) {
            Some(why) => println!("tidy: {name} {list}: allowed, {why}"),
            None => findings.push(format!("{name} is there in several versions: {list}")),
        }
    }
    let stale = ALLOWED.iter().filter(|(name, _)| !versions.contains_key(name));
    findings.extend(stale.map(|(name, _)| format!("{name} is there once only: take it off the list of duplicates")));
    findings
}
