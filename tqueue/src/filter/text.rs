//! The text form of filters: `NAME` or `NAME:FIELD=VALUE,FIELD=VALUE`, and what errors in it look like.

use std::str::FromStr;
use std::time::Duration;

use crate::{Errno, Error};

/// The longest time that a filter may hold an op for.
pub(super) const TIME_MAX: Duration = Duration::from_secs(3600);

/// One `FIELD=VALUE` of a filter, or a bare `VALUE`, whose field has no name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field<'a> {
    filter: &'a str,
    pub(super) name: &'a str,
    pub(super) value: &'a str,
}

impl<'a> Field<'a> {
    /// Takes the part behind the filter's name apart. A field may be given once.
    pub(super) fn list(filter: &'a str, text: &'a str) -> Result<Vec<Self>, Error> {
        let mut fields: Vec<Self> = Vec::new();
        for part in text.split(',').filter(|_| !text.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or(("", part));
            let field = Self { filter, name, value };
            if part.is_empty() {
                return Err(field.wrong("a field is missing beside a comma; leave the comma out"));
            }
            if fields.iter().any(|other| other.name == name) {
                return Err(field.wrong("it is given twice; say it once"));
            }
            fields.push(field);
        }
        Ok(fields)
    }

    /// An error about the value. `way_out` says what would do.
    pub(super) fn wrong(&self, way_out: &str) -> Error {
        let Self { filter, name, value } = self;
        let equals = if name.is_empty() { "" } else { "=" };
        Error::filter(format!("{filter}: {name}{equals}{value}: {way_out}"))
    }

    /// An error about a field that the filter does not have.
    pub(super) fn unknown(&self, known: &str) -> Error {
        self.wrong(&format!("no such field; there is {known}"))
    }

    /// Any number.
    pub(super) fn number<T: FromStr>(&self, way_out: &str) -> Result<T, Error> {
        self.value.parse().map_err(|_| self.wrong(way_out))
    }

    /// A seed.
    pub(super) fn seed(&self) -> Result<u64, Error> {
        self.number("say a number from 0 to 18446744073709551615")
    }

    /// `1MiB`, `4K`, or plain bytes; units are binary.
    pub(super) fn size(&self, text: &str) -> Result<u64, Error> {
        let binary = parse_size::Config::new().with_binary();
        let size = binary.parse_size(text);
        size.map_err(|_| self.wrong("say bytes, or a size such as 4K or 1MiB"))
    }

    /// `1ms`, `250us`, `2s`: with a unit.
    pub(super) fn time(&self, text: &str) -> Result<Duration, Error> {
        let time = humantime::parse_duration(text).ok().filter(|&time| time <= TIME_MAX);
        time.ok_or_else(|| self.wrong("say a time with its unit, such as 250us, 1ms or 2s, up to 1h"))
    }

    /// `EIO`, or a number.
    pub(super) fn errno(&self) -> Result<Errno, Error> {
        let named = ERRNOS
            .iter()
            .find(|(name, _)| *name == self.value)
            .map(|&(_, errno)| errno);
        let number = || self.value.parse().ok().filter(|number| (1..4096).contains(number));
        named.or_else(|| number().map(Errno::from_raw_os_error)).ok_or_else(|| {
            let names: Vec<_> = ERRNOS.iter().map(|(name, _)| *name).collect();
            self.wrong(&format!("say {}, or an error's number", names.join(", ")))
        })
    }
}

/// The errors that storage is known to give, by name.
const ERRNOS: [(&str, Errno); 18] = [
    ("EIO", Errno::IO),
    ("ENOSPC", Errno::NOSPC),
    ("EAGAIN", Errno::AGAIN),
    ("EBUSY", Errno::BUSY),
    ("EINTR", Errno::INTR),
    ("ESTALE", Errno::STALE),
    ("ETIMEDOUT", Errno::TIMEDOUT),
    ("ENOMEM", Errno::NOMEM),
    ("EROFS", Errno::ROFS),
    ("EDQUOT", Errno::DQUOT),
    ("EFBIG", Errno::FBIG),
    ("ENODEV", Errno::NODEV),
    ("ENXIO", Errno::NXIO),
    ("ENODATA", Errno::NODATA),
    ("EILSEQ", Errno::ILSEQ),
    ("EREMOTEIO", Errno::REMOTEIO),
    ("EOPNOTSUPP", Errno::OPNOTSUPP),
    ("EINVAL", Errno::INVAL),
];

/// An error's name, or its number.
pub(super) fn errno_name(errno: Errno) -> String {
    let named = ERRNOS.iter().find(|(_, other)| *other == errno);
    named.map_or_else(|| errno.raw_os_error().to_string(), |(name, _)| (*name).to_owned())
}

/// A size as the text form has it.
pub(super) fn size_text(bytes: u64) -> String {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let whole = |&&(_, shift): &&(&str, u32)| bytes > 0 && bytes.trailing_zeros() >= shift;
    let unit = units.iter().find(whole);
    unit.map_or_else(
        || bytes.to_string(),
        |(name, shift)| format!("{}{name}", bytes >> shift),
    )
}

/// A time as the text form has it.
pub(super) fn time_text(time: Duration) -> String {
    humantime::format_duration(time).to_string().replace(' ', "")
}

/// Is nothing of it in capitals?
pub(super) fn is_lower(text: &str) -> bool {
    !text.chars().any(char::is_uppercase)
}
