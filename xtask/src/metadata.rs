//! What cargo knows of the workspace.

use cargo_metadata::{Metadata, MetadataCommand};

use crate::Result;
use crate::cmd;

/// The only platform: packages for others are not built.
const PLATFORM: &str = "x86_64-unknown-linux-gnu";

/// `cargo metadata` of the workspace, with all dependencies resolved.
pub(crate) fn read() -> Result<Metadata> {
    let options = ["--filter-platform", PLATFORM].map(str::to_owned).to_vec();
    Ok(MetadataCommand::new()
        .other_options(options)
        .manifest_path(cmd::root().join("Cargo.toml"))
        .exec()?)
}
