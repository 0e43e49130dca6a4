//! How far a tool has come.

use serde::Serialize;

use crate::error::{Error, ErrorKind};

/// Told again and again while a tool works. Who answers false ends the work, with [`ErrorKind::Interrupted`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What is going on.
    pub phase: Phase,
    /// Bytes of the disk that are done.
    pub done_bytes: u64,
    /// Bytes of the disk in all.
    pub size_bytes: u64,
}

/// What a tool is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Copying.
    Copy,
    /// Comparing the copy with its source.
    Verify,
    /// Comparing.
    Compare,
}

pub(crate) fn interrupted() -> Error {
    Error::new(ErrorKind::Interrupted, "interrupted")
}
