//! Why a queue could not be made or could not go on.

use std::fmt;

use rustix::io::Errno;

/// What kind of failure it is, for handling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The configuration asks for something that no machine could give.
    Config,
    /// A filter's text form says nothing that could be done.
    Filter,
    /// The kernel has no io_uring, or one that is too old.
    Unsupported,
    /// The kernel has io_uring, but not for this process.
    Denied,
    /// A limit on memory was hit.
    Memory,
    /// A limit on open files was hit.
    Files,
    /// The kernel failed in another way.
    Os,
}

/// Why a queue could not be made or could not go on.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    context: String,
    source: Option<Errno>,
}

impl Error {
    pub(crate) fn config(context: impl Into<String>) -> Self {
        Self {
            kind: ErrorKind::Config,
            context: context.into(),
            source: None,
        }
    }

    pub(crate) fn filter(context: impl Into<String>) -> Self {
        Self {
            kind: ErrorKind::Filter,
            context: context.into(),
            source: None,
        }
    }

    pub(crate) fn new(kind: ErrorKind, context: impl Into<String>, source: Errno) -> Self {
        Self {
            kind,
            context: context.into(),
            source: Some(source),
        }
    }

    pub(crate) fn unsupported(context: impl Into<String>) -> Self {
        Self {
            kind: ErrorKind::Unsupported,
            context: context.into(),
            source: None,
        }
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The kernel's error number, where there is one.
    pub fn errno(&self) -> Option<Errno> {
        self.source
    }

    /// Can the synchronous engine do in place of io_uring?
    pub(crate) fn is_about_the_kernel(&self) -> bool {
        !matches!(self.kind, ErrorKind::Config | ErrorKind::Filter)
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Config => "bad queue configuration",
            Self::Filter => "bad filter",
            Self::Unsupported => "io_uring is not supported",
            Self::Denied => "io_uring is not permitted",
            Self::Memory => "out of memory for the queue",
            Self::Files => "out of file descriptors for the queue",
            Self::Os => "the queue failed",
        })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.context)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|errno| errno as _)
    }
}
