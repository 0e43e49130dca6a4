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

/// What an error's words are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorParts<'a> {
    /// The file.
    pub path: Option<&'a Path>,
    /// The field of the file, or the option.
    pub field: Option<&'a str>,
    /// What is wrong.
    pub what: &'a str,
    /// The way out, where it is not part of what is wrong.
    pub hint: Option<&'a str>,
}

/// An error of this crate: what kind, what it was about, and what caused it.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    path: Option<PathBuf>,
    field: Option<String>,
    what: String,
    hint: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error about no file in particular. `what` is lower case, without a full stop, and says the way out.
    pub fn new(kind: ErrorKind, what: impl Into<String>) -> Self {
        Self {
            kind,
            path: None,
            field: None,
            what: what.into(),
            hint: None,
            source: None,
        }
    }

    /// Names the file.
    #[must_use]
    pub fn at(mut self, path: &Path) -> Self {
        self.path = Some(path.to_path_buf());
        self
    }

    /// Names the field of the file, or the option, that is at fault.
    #[must_use]
    pub fn field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// Says the way out, in words that may follow a semicolon.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
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

    /// Its parts, for programs.
    pub fn parts(&self) -> ErrorParts<'_> {
        ErrorParts {
            path: self.path.as_deref(),
            field: self.field.as_deref(),
            what: &self.what,
            hint: self.hint.as_deref(),
        }
    }
}

impl fmt::Display for Error {
    /// `path: field: what; hint`, as far as there are such.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = &self.path {
            write!(f, "{}: ", path.display())?;
        }
        if let Some(field) = &self.field {
            write!(f, "{field}: ")?;
        }
        f.write_str(&self.what)?;
        self.hint.iter().try_for_each(|hint| write!(f, "; {hint}"))
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| &**source as _)
    }
}
