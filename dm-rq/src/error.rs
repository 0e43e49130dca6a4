//! What is wrong with a table.

use std::fmt;

/// What kind of fault, for handling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A line is not `start length target [args]`.
    Syntax,
    /// A line covers no sectors, or more than there can be.
    BadRange,
    /// The lines do not begin at 0, or leave sectors between them out.
    Gap,
    /// A line begins before the one above it ends.
    Overlap,
    /// There is no line at all.
    Empty,
}

/// Why a table was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    kind: ErrorKind,
    /// The line's number, from 1; 0 for the table as a whole.
    line: usize,
    text: String,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, text: impl Into<String>) -> Self {
        Self {
            kind,
            line: 0,
            text: text.into(),
        }
    }

    pub(crate) fn at_line(self, line: usize) -> Self {
        Self { line, ..self }
    }

    /// What kind of fault it is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line != 0 {
            write!(f, "line {}: ", self.line)?;
        }
        f.write_str(&self.text)
    }
}

impl std::error::Error for Error {}
