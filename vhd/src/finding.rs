//! Findings: what is odd or wrong about an image, each with a stable code, a weight and a place.

use std::fmt;

use serde::Serialize;

/// How much a finding weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Odd; this crate copes, another program may not.
    Warning,
    /// Space that nothing refers to.
    Leak,
    /// Of a sort that this version does not know, which ended the check: right or wrong, nobody has looked.
    Unsupported,
    /// Wrong: data may be missing, or the image may be read differently by others.
    Error,
}

/// Something found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it is, for programs: `bat-overlap`.
    pub code: &'static str,
    /// How much it weighs.
    pub severity: Severity,
    /// Where in the file, in bytes.
    pub offset: Option<u64>,
    /// What it is, for people.
    pub text: String,
}

impl Finding {
    pub(crate) fn new(severity: Severity, code: &'static str, offset: u64, text: impl Into<String>) -> Self {
        Self {
            code,
            severity,
            offset: Some(offset),
            text: text.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
