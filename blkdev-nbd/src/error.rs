//! What can go wrong with a server as a whole. What goes wrong with one connection ends that connection, and is logged.

use std::error::Error as StdError;
use std::fmt;

/// Why a server did not start, or did not do what it was asked, or did not end well.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    context: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// What happened, for handling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The configuration cannot be served.
    Config,
    /// A thread's queue could not be made.
    Queue,
    /// A device did not open.
    Device,
    /// The kernel refused something else.
    Os,
    /// There is no export of that name.
    NotFound,
    /// An export comes or goes, or does not go in time.
    Busy,
    /// A worker thread panicked: our own bug.
    Panicked,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, context: impl Into<String>) -> Self {
        Self {
            kind,
            context: context.into(),
            source: None,
        }
    }

    pub(crate) fn caused_by(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What happened.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            ErrorKind::Config => "this cannot be served",
            ErrorKind::Queue => "the queue of a thread cannot be made",
            ErrorKind::Device => "a device cannot be opened",
            ErrorKind::Os => "the system refused",
            ErrorKind::NotFound => "there is no such export",
            ErrorKind::Busy => "this cannot be done now",
            ErrorKind::Panicked => "a server thread panicked",
        };
        write!(f, "{kind}: {}", self.context)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}
