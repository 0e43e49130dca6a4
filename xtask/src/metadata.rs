//! What cargo knows of the workspace.

use cargo_metadata::{Metadata, MetadataCommand};

use crate::Result;
use crate::cmd;

/// `cargo metadata` of the workspace, with all dependencies resolved.
pub(crate) fn read() -> Result<Metadata> {
    Ok(MetadataCommand::new()
        .manifest_path(cmd::root().join("Cargo.toml"))
        .exec()?)
}
