//! `IMAGE[@START[+LENGTH]]`: where to read or write.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use vbd::iomgr_core::{Sector, SectorCount, SectorRange};

use crate::size;

const LEN_DEFAULT: u64 = 4096;
/// So that memory for it can be had.
const LEN_MAX: u64 = 64 << 20;
const SECTOR: u64 = 512;

/// A run of an image's disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) image: PathBuf,
    pub(super) start_bytes: u64,
    pub(super) len_bytes: u64,
}

impl Place {
    /// A path that exists as it stands is one; otherwise the last `@` ends it.
    pub(super) fn parse(text: OsString) -> Result<Self, String> {
        let bytes = text.as_bytes();
        let at = bytes.iter().rposition(|&byte| byte == b'@');
        let Some(at) = at.filter(|_| !Path::new(&text).exists()) else {
            return Ok(Self {
                image: text.into(),
                start_bytes: 0,
                len_bytes: LEN_DEFAULT,
            });
        };
        let (image, run) = (OsStr::from_bytes(&bytes[..at]), OsStr::from_bytes(&bytes[at + 1..]));
        if image.is_empty() {
            return Err("no image is named before the @".into());
        }
        let (start_bytes, len_bytes) = parse_run(&run.to_string_lossy())?;
        Ok(Self {
            image: image.into(),
            start_bytes,
            len_bytes,
        })
    }

    /// Its sectors. `None`: they are beyond what can be numbered.
    pub(super) fn sectors(&self) -> Option<SectorRange> {
        let start = Sector(self.start_bytes / SECTOR);
        SectorRange::new(start, SectorCount(self.len_bytes / SECTOR))
    }
}

/// As it can be said on the command line.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (start, len) = (self.start_bytes, self.len_bytes);
        write!(f, "{}@{start}+{len}", self.image.display())
    }
}

fn parse_run(text: &str) -> Result<(u64, u64), String> {
    let (start, len) = match text.split_once('+') {
        Some((start, len)) => (start, Some(len)),
        None => (text, None),
    };
    let start = parse_bytes("START", start)?;
    let len = len.map_or(Ok(LEN_DEFAULT), |len| parse_bytes("LENGTH", len))?;
    match len {
        0 => Err("LENGTH is 0; the least is 512".into()),
        len if len > LEN_MAX => Err(format!("LENGTH is {len}; the most is {LEN_MAX}, 64M")),
        len => Ok((start, len)),
    }
}

fn parse_bytes(what: &str, text: &str) -> Result<u64, String> {
    let bytes = size::parse(text)
        .map_err(|error| format!("no file has this name, and {what} after its last @, {text:?}, {error}"))?;
    match bytes.is_multiple_of(SECTOR) {
        true => Ok(bytes),
        false => Err(format!("{what} is {bytes}, no multiple of 512")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<(String, u64, u64), String> {
        let place = Place::parse(text.into())?;
        Ok((place.image.display().to_string(), place.start_bytes, place.len_bytes))
    }

    #[test]
    fn a_region_is_an_image_a_start_and_a_length() {
        let is = |text, image: &str, start, len| assert_eq!(parsed(text), Ok((image.to_owned(), start, len)), "{text}");
        is("a.img", "a.img", 0, 4096);
        is("a.img@1M", "a.img", 1 << 20, 4096);
        is("a.img@4k+512", "a.img", 4096, 512);
        is("me@host@0+64k", "me@host", 0, 65536);
    }

    #[test]
    fn what_is_no_region_says_which_part() {
        for (text, says) in [
            ("@4k", "no image"),
            ("me@host", "START"),
            ("a@1", "START is 1, no multiple"),
            ("a@0+100", "LENGTH is 100, no multiple"),
            ("a@0+0", "least is 512"),
            ("a@0+65M", "64M"),
            ("a@0+", "LENGTH"),
            ("a@-512", "START"),
        ] {
            let error = parsed(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn a_path_that_exists_wins() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a@512");
        std::fs::write(&path, "").unwrap();
        let place = Place::parse(path.clone().into()).unwrap();
        assert_eq!((place.image, place.start_bytes), (path, 0));
    }

    #[test]
    fn it_is_shown_as_it_can_be_said() {
        let place = Place::parse("a.img@1M+8k".into()).unwrap();
        assert_eq!(Place::parse(place.to_string().into()), Ok(place));
    }
}
