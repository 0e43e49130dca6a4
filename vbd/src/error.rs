//! The crate's error.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// What went wrong, for handling. In JSON it is a word, as `needs-repair`, which stays the same from version to version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// The file or its content cannot be opened as asked.
    Open,
    /// Somebody else uses the image.
    Locked,
    /// The format is neither given nor told by the extension, or there is none of that name.
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
    /// The disk is paused, or is not, or is being closed: what was asked for does not fit.
    State,
    /// The queue of ops could not be set up.
    Queue,
    /// The frontend could not be set up.
    Server,
    /// A server's control socket does not answer, or its answer makes no sense.
    Control,
    /// What a client says on a control socket is no request.
    Request,
    /// The server has no such disk.
    NotFound,
    /// This server, this disk, or an image of this format, cannot do that.
    Unsupported,
    /// A manager is refused: by a device, or because of its name.
    Manager,
    /// Another manager is the current one.
    NotCurrent,
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

    /// Names what the field is a part of.
    #[must_use]
    pub(crate) fn within(mut self, whole: &str) -> Self {
        self.field = Some(match self.field {
            Some(part) => format!("{whole}.{part}"),
            None => whole.to_owned(),
        });
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

    /// With its cause, for who gets no more than a line.
    pub(crate) fn line(&self) -> String {
        match &self.source {
            Some(cause) => format!("{self}: {cause}"),
            None => self.to_string(),
        }
    }

    /// The kind.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Its parts, for programs. Field and way out are the cause's where none were given.
    pub fn parts(&self) -> ErrorParts<'_> {
        let image = self
            .source
            .as_ref()
            .and_then(|source| source.downcast_ref::<vhd::Error>());
        ErrorParts {
            path: self.path.as_deref(),
            field: self.field.as_deref().or(image.map(|error| error.context().field)),
            what: &self.what,
            hint: self.hint.as_deref().or_else(|| way_out(self.source.as_deref()?)),
        }
    }
}

/// What can be done about a cause, where that is known for all that it may cause.
fn way_out(cause: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    if let Some(error) = cause.downcast_ref::<vhd::Error>() {
        return match error.kind() {
            vhd::ErrorKind::TooShort | vhd::ErrorKind::NotVhd => Some("if it is a raw image, say --format raw"),
            vhd::ErrorKind::Corrupt => Some("`iomgr check` names all that is wrong with it"),
            vhd::ErrorKind::Unsupported => Some("convert it with the tool that made it"),
            vhd::ErrorKind::Invalid if error.context().field == "size" => {
                Some("a fixed VHD or a raw image may be larger")
            }
            vhd::ErrorKind::Invalid => Some("`iomgr create --help` says what it may be"),
            _ => cause.source().and_then(way_out),
        };
    }
    if let Some(error) = cause.downcast_ref::<blkdev_nbd::Error>() {
        return std::error::Error::source(error).and_then(way_out);
    }
    let errno = cause.downcast_ref::<rustix::io::Errno>().copied();
    let from_io = |error: &std::io::Error| error.raw_os_error().map(rustix::io::Errno::from_raw_os_error);
    match errno.or_else(|| cause.downcast_ref().and_then(from_io))? {
        rustix::io::Errno::NOSPC => Some("make room on the file system"),
        rustix::io::Errno::DQUOT => Some("this user's quota is used up"),
        rustix::io::Errno::FBIG => {
            Some("the file system, or `ulimit -f`, allows no file so large; try another, or raise that")
        }
        rustix::io::Errno::ACCESS | rustix::io::Errno::PERM => Some("this user may not; ask for the permission"),
        rustix::io::Errno::ROFS => Some("the file system is read-only; try another"),
        rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR => Some("see whether the path is right"),
        rustix::io::Errno::IO => Some("the storage below failed; the kernel's log says more"),
        rustix::io::Errno::MFILE | rustix::io::Errno::NFILE => Some("raise the limit of open files (`ulimit -n`)"),
        rustix::io::Errno::NOMEM => Some("make memory free"),
        _ => None,
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
        self.parts().hint.into_iter().try_for_each(|hint| write!(f, "; {hint}"))
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| &**source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_that_is_known_shows_the_way_out() {
        let full = std::io::Error::from_raw_os_error(28);
        let error = Error::new(ErrorKind::Io, "cannot be written")
            .at("a.img".as_ref())
            .because(full);
        assert_eq!(
            error.to_string(),
            "a.img: cannot be written; make room on the file system"
        );
        let error = error.hint("try another disk").field("footer");
        assert_eq!(error.to_string(), "a.img: footer: cannot be written; try another disk");
        let empty = crate::ImageFile::create(&tempfile::tempdir().unwrap().path().join("a.vhd"), false).unwrap();
        let short = vhd::info(&empty);
        let error = Error::new(ErrorKind::Image, "is none").because(short.unwrap_err());
        assert_eq!(error.parts().hint, Some("if it is a raw image, say --format raw"));
        assert!(error.parts().field.is_some());
    }
}
