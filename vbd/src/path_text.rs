//! Paths in JSON, which is Unicode and they need not be: what is none becomes U+FFFD.

use std::path::Path;

use serde::Serializer;

/// For `#[serde(serialize_with)]`: serde's own way is an error.
pub(crate) fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}
