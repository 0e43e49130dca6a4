//! The crate's error: a kind to act on, a context to read.

use std::fmt;
use std::io;

/// What went wrong, for callers that act on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The file is shorter than any image.
    TooShort,
    /// There is no footer: not a VHD, or one whose footers are all lost.
    NotVhd,
    /// A field lies; the context names it.
    Corrupt,
    /// A right image of a sort that this version does not open.
    Unsupported,
    /// Readable, but a footer must be repaired before it may be written.
    NeedsRepair,
    /// The caller asked for what cannot be.
    Invalid,
    /// The storage failed.
    Io,
}

impl ErrorKind {
    fn text(self) -> &'static str {
        match self {
            Self::TooShort => "file too short",
            Self::NotVhd => "not a vhd image",
            Self::Corrupt => "corrupt image",
            Self::Unsupported => "unsupported image",
            Self::NeedsRepair => "image needs repair",
            Self::Invalid => "invalid request",
            Self::Io => "i/o error",
        }
    }
}

/// Where it went wrong, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// The structure and field, or the step: `"footer: current size"`.
    pub field: &'static str,
    /// The byte offset in the file, where there is one.
    pub offset: Option<u64>,
    /// What is wrong with it, with the value found.
    pub detail: String,
}

/// An error of this crate.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    ctx: Context,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, field: &'static str, offset: Option<u64>, detail: impl Into<String>) -> Self {
        Self {
            kind,
            ctx: Context {
                field,
                offset,
                detail: detail.into(),
            },
            source: None,
        }
    }

    pub(crate) fn corrupt(field: &'static str, offset: u64, detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::Corrupt, field, Some(offset), detail)
    }

    pub(crate) fn invalid(field: &'static str, detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, field, None, detail)
    }

    /// Turns an I/O error into one that says what was being done, and where.
    pub(crate) fn io(field: &'static str, offset: u64) -> impl FnOnce(io::Error) -> Self {
        move |source| Self {
            kind: ErrorKind::Io,
            ctx: Context {
                field,
                offset: Some(offset),
                detail: String::new(),
            },
            source: Some(Box::new(source)),
        }
    }

    /// What to act on.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What to read.
    pub fn context(&self) -> &Context {
        &self.ctx
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.text(), self.ctx.field)?;
        if let Some(offset) = self.ctx.offset {
            write!(f, " at byte {offset}")?;
        }
        if !self.ctx.detail.is_empty() {
            write!(f, ": {}", self.ctx.detail)?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error as _;

    #[test]
    fn display_names_kind_field_place_and_detail() {
        let error = Error::corrupt("dynamic header: block size", 512, "511 is no power of two");
        assert_eq!(
            error.to_string(),
            "corrupt image: dynamic header: block size at byte 512: 511 is no power of two"
        );
    }

    #[test]
    fn the_source_is_kept_and_not_printed() {
        let error = Error::io("reading the footer", 7)(io::Error::other("boom"));
        assert_eq!(error.to_string(), "i/o error: reading the footer at byte 7");
        assert_eq!(error.source().map(ToString::to_string), Some("boom".into()));
    }
}
