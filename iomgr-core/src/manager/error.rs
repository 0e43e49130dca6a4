//! What can go wrong with managers and devices.

use std::fmt;

use super::{NAME_MAX, Refusal};

/// What kind of failure it was, for handling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The name cannot be a manager's.
    BadName,
    /// Another manager than "none" is current; replace it, or unregister it first.
    Occupied,
    /// The manager is not the current one.
    NotCurrent,
    /// The manager is current, or was before and requests that it admitted are still on their way.
    InUse,
    /// The manager refused a device.
    Refused,
    /// The registry was [closed](super::Registry::close).
    Closed,
    /// The manager panicked while a device was shown to it.
    Panicked,
}

/// Why a registration, a swap or an attach failed. Nothing has changed.
#[derive(Clone, Debug)]
pub struct Error {
    kind: ErrorKind,
    manager: String,
    device: Option<String>,
    source: Option<Refusal>,
}

impl Error {
    pub(super) fn new(kind: ErrorKind, manager: &str) -> Self {
        Self {
            kind,
            manager: manager.to_owned(),
            device: None,
            source: None,
        }
    }

    pub(super) fn with_device(mut self, device: &str, reason: Option<Refusal>) -> Self {
        self.device = Some(device.to_owned());
        self.source = reason;
        self
    }

    /// What kind of failure it was.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let manager = &self.manager;
        match self.kind {
            ErrorKind::BadName => write!(
                f,
                "{manager:?} is no name for a manager: it takes 1 to {NAME_MAX} printable ASCII characters, not \"none\""
            ),
            ErrorKind::Occupied => write!(f, "manager {manager} is current already"),
            ErrorKind::NotCurrent => write!(f, "manager {manager} is not the current one"),
            ErrorKind::InUse => write!(f, "manager {manager} is still in use"),
            ErrorKind::Closed => write!(f, "manager {manager} comes too late: everything goes, until the end"),
            ErrorKind::Refused => write!(f, "manager {manager} refuses {}", self.device()),
            ErrorKind::Panicked => write!(f, "manager {manager} panicked when it was shown {}", self.device()),
        }
    }
}

impl Error {
    fn device(&self) -> String {
        self.device
            .as_ref()
            .map_or_else(|| "a device".into(), |name| format!("device {name}"))
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|reason| reason as _)
    }
}
