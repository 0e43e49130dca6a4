//! Why a device is not there, or not served any more.

use std::error::Error as StdError;
use std::fmt;

/// Why a device is not there, or not served any more.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    context: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// What happened, for handling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The kernel has no ublk driver, or it is not loaded.
    NoDriver,
    /// The driver is there, but not for this process.
    Denied,
    /// The driver cannot do what is needed.
    Unsupported,
    /// This kernel is known to break when a device is added.
    BadKernel,
    /// A device of that number exists.
    Taken,
    /// The driver takes no more devices.
    Full,
    /// There is no device of that number.
    NotFound,
    /// Somebody uses the device.
    Busy,
    /// The configuration cannot be served.
    Config,
    /// The queue of a thread could not be made, or failed.
    Queue,
    /// The device to be served did not open.
    Device,
    /// The driver did not answer in time.
    TimedOut,
    /// The system refused something else.
    Os,
    /// A queue thread panicked: our own bug.
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

    /// What caused it.
    pub fn into_source(self) -> Option<Box<dyn StdError + Send + Sync>> {
        self.source
    }

    /// What happened.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
