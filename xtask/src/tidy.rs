//! `cargo xtask tidy`: the rules that a compiler cannot check.

mod arrows;
mod duplicates;
mod licences;
mod sources;

use crate::{Result, metadata};

/// Prints every finding; any makes the check fail.
pub(crate) fn run() -> Result {
    let metadata = metadata::read()?;
    let findings: Vec<String> = [
        arrows::check(&metadata),
        licences::check(&metadata),
        duplicates::check(&metadata),
        sources::check(&metadata)?,
    ]
    .concat();
    for finding in &findings {
        println!("tidy: {finding}");
    }
    match findings.len() {
        0 => {
            println!(
                "tidy: {} crates, {} packages in all",
                metadata.workspace_members.len(),
                metadata.packages.len()
            );
            Ok(())
        }
        count => Err(format!("{count} findings").into()),
    }
}
