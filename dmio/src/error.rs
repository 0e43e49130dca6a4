//! Why a request was refused, or a client could not be made or go on.

use std::borrow::Cow;
use std::fmt;

use iomgr_core::Errno;

/// What kind of failure it is, for handling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A configuration that asks for nothing, or for more than any machine could give.
    Config,
    /// A request that cannot be run as it is: its regions, its memory or its flags.
    Invalid,
    /// It would have to wait and must not, or what it is about cannot be given up.
    WouldBlock,
    /// There is no room for another request now; there is again when one is over and forgotten.
    Full,
    /// There is no such request, region or device.
    Unknown,
    /// A synchronous call from inside a notification: it would wait for itself.
    Deadlock,
    /// Handles or orphans are left.
    Busy,
    /// A limit on memory was hit.
    Memory,
    /// A device could not be opened, or the queue below failed.
    Device,
}

/// Why a request was refused, or a client could not be made or go on.
///
/// Making one for a fixed text allocates nothing.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    context: Cow<'static, str>,
    /// Which region of a request it is about.
    region: Option<usize>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, context: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind,
            context: context.into(),
            region: None,
            source: None,
        }
    }

    pub(crate) fn invalid(context: &'static str) -> Self {
        Self::new(ErrorKind::Invalid, context)
    }

    pub(crate) fn because(self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self {
            source: Some(source.into()),
            ..self
        }
    }

    pub(crate) fn at_region(self, region: usize) -> Self {
        Self {
            region: Some(region),
            ..self
        }
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The number that a system call would fail with.
    pub fn errno(&self) -> Errno {
        match self.kind {
            ErrorKind::Config | ErrorKind::Invalid => Errno::INVAL,
            ErrorKind::WouldBlock => Errno::AGAIN,
            ErrorKind::Full => Errno::NOBUFS,
            ErrorKind::Unknown => Errno::NOENT,
            ErrorKind::Deadlock => Errno::DEADLK,
            ErrorKind::Busy => Errno::BUSY,
            ErrorKind::Memory => Errno::NOMEM,
            ErrorKind::Device => Errno::IO,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(region) = self.region {
            write!(f, "region {region}: ")?;
        }
        f.write_str(&self.context)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| &**source as _)
    }
}
