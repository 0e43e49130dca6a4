//! The crate's error.

use std::fmt;
use std::path::{Path, PathBuf};

/// What went wrong, for handling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The file or its content cannot be opened as asked.
    Open,
    /// Somebody else uses the image.
    Locked,
    /// The format is neither given nor told by the extension, or does not fit the file.
    Format,
    /// The image's own structure is at fault, or not supported.
    Image,
    /// The image needs `repair` before it may be written.
    NeedsRepair,
    /// An option has a value out of its range.
    InvalidOption,
    /// The file exists already.
    Exists,
    /// Reading or writing failed.
    Io,
    /// Somebody asked for an end before the work was done.
    Interrupted,
    /// A copy is not what its source is.
    Differs,
    /// The queue of ops could not be set up.
    Queue,
    /// The frontend could not be set up.
    Server,
    /// A server's control socket does not answer, or says no.
    Control,
}

/// An error of this crate: what kind, what it was about, and what caused it.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    path: Option<PathBuf>,
    what: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error about no file in particular. `what` is lower case, without a full stop, and says the way out.
    pub fn new(kind: ErrorKind, what: impl Into<String>) -> Self {
        Self {
            kind,
            path: None,
            what: what.into(),
            source: None,
        }
    }

    /// Names the file.
    #[must_use]
    pub fn at(mut self, path: &Path) -> Self {
        self.path = Some(path.to_path_buf());
        self
    }

    /// Names the cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The kind.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            Some(path) => write!(f, "{}: {}", path.display(), self.what),
            None => f.write_str(&self.what),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| &**source as _)
    }
}
