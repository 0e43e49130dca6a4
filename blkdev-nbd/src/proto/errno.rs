//! Error numbers on the wire, and the one place where the stack's become the protocol's.

use std::fmt;

use iomgr_core::{Errno, RequestFlags};

/// An error of a command, as the protocol numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum NbdError {
    /// Not permitted: a write to a read-only export.
    Perm = 1,
    /// Input or output error.
    Io = 5,
    /// Out of memory.
    NoMem = 12,
    /// Invalid argument.
    Inval = 22,
    /// No space left, or a write beyond the end.
    NoSpc = 28,
    /// Value too large.
    Overflow = 75,
    /// Not supported.
    NotSup = 95,
    /// The server is shutting down.
    Shutdown = 108,
}

impl NbdError {
    /// The number on the wire.
    pub const fn code(self) -> u32 {
        self as u32
    }
}

impl From<Errno> for NbdError {
    /// What the protocol has no number for is `EIO`.
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::PERM | Errno::ACCESS | Errno::ROFS => Self::Perm,
            Errno::NOMEM => Self::NoMem,
            Errno::INVAL => Self::Inval,
            Errno::NOSPC | Errno::DQUOT | Errno::FBIG => Self::NoSpc,
            Errno::OVERFLOW => Self::Overflow,
            Errno::NOTSUP => Self::NotSup,
            Errno::SHUTDOWN => Self::Shutdown,
            _ => Self::Io,
        }
    }
}

impl fmt::Display for NbdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Perm => "EPERM",
            Self::Io => "EIO",
            Self::NoMem => "ENOMEM",
            Self::Inval => "EINVAL",
            Self::NoSpc => "ENOSPC",
            Self::Overflow => "EOVERFLOW",
            Self::NotSup => "ENOTSUP",
            Self::Shutdown => "ESHUTDOWN",
        };
        f.write_str(name)
    }
}

/// Why a command failed, in number and words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The number.
    pub error: NbdError,
    /// For people.
    text: &'static str,
    /// The byte of the export that is to blame, where that is known.
    pub offset: Option<u64>,
}

impl Failure {
    /// The longest message.
    pub const TEXT_BYTES_MAX: usize = 80;

    /// A failure that has no place.
    pub(super) const fn new(error: NbdError, text: &'static str) -> Self {
        assert!(text.len() <= Self::TEXT_BYTES_MAX, "messages are short");
        Self {
            error,
            text,
            offset: None,
        }
    }

    /// The same, at a byte of the export.
    pub(super) fn at(self, offset: Option<u64>) -> Self {
        Self { offset, ..self }
    }

    /// What a device ended a request of these flags with. `ENOTSUP` is for `FAST_ZERO` alone: no client expects it elsewhere.
    pub fn of_device(errno: Errno, flags: RequestFlags) -> Self {
        match NbdError::from(errno) {
            NbdError::NotSup if flags.contains(RequestFlags::FAST_ZERO) => {
                Self::new(NbdError::NotSup, "zeros cannot be written fast here")
            }
            NbdError::NotSup => Self::new(NbdError::Inval, "the device does not do this"),
            NbdError::NoSpc => Self::new(NbdError::NoSpc, "the device has no space left"),
            NbdError::Perm => Self::new(NbdError::Perm, "the device does not permit it"),
            error => Self::new(error, "the device failed"),
        }
    }

    /// The message.
    pub fn text(&self) -> &'static str {
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_and_a_quota_are_no_space() {
        for errno in [Errno::NOSPC, Errno::DQUOT, Errno::FBIG] {
            assert_eq!(NbdError::from(errno), NbdError::NoSpc);
        }
    }

    #[test]
    fn not_supported_is_for_fast_zeros_only() {
        let code = |flags| Failure::of_device(Errno::NOTSUP, flags).error.code();
        assert_eq!(code(RequestFlags::FAST_ZERO), 95);
        assert_eq!(code(RequestFlags::FUA), 22);
    }

    #[test]
    fn numbers_without_a_counterpart_are_input_output_errors() {
        for errno in [Errno::IO, Errno::NODATA, Errno::STALE, Errno::CANCELED, Errno::AGAIN] {
            assert_eq!(NbdError::from(errno).code(), 5);
        }
    }
}
