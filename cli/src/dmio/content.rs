//! What is written.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::failure::Failure;

const SECTOR: usize = 512;

/// `0xNN`, a file, or `-`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Byte(u8),
    File(PathBuf),
    Stdin,
}

impl Content {
    pub(super) fn parse(text: OsString) -> Result<Self, String> {
        match text.to_str() {
            Some("-") => Ok(Self::Stdin),
            Some(text) if text.starts_with("0x") => byte(&text[2..]).map(Self::Byte),
            _ => Ok(Self::File(text.into())),
        }
    }

    /// The first `len` bytes of it.
    pub(super) fn read(&self, len: usize) -> Result<Vec<u8>, Failure> {
        match self {
            Self::Byte(byte) => Ok(vec![*byte; len]),
            Self::File(path) => start_of(File::open(path), len, path),
            Self::Stdin => start_of(Ok(io::stdin().lock()), len, Path::new("stdin")),
        }
    }
}

fn byte(digits: &str) -> Result<u8, String> {
    u8::from_str_radix(digits, 16).map_err(|_| "is no byte; say 0x00 to 0xff, or ./0x… for a file".into())
}

fn start_of(from: io::Result<impl Read>, len: usize, path: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::with_capacity(len);
    let read = from.and_then(|from| from.take(len as u64).read_to_end(&mut bytes));
    match read {
        Err(error) => Err(Failure::new("cannot be read").at(path).because(error)),
        Ok(read) if read < len => {
            let what = format!("--data holds {read} bytes, a region {len}");
            Err(Failure::new(what)
                .at(path)
                .hint("give more, or say a shorter LENGTH of the regions"))
        }
        Ok(_) => Ok(bytes),
    }
}

/// Sectors that say what they are: which part of which write, and when that began.
pub(super) fn pattern(len: usize, round: u64) -> Vec<u8> {
    let when = humantime::format_rfc3339_millis(SystemTime::now());
    let mut bytes = vec![b'.'; len];
    for (number, sector) in bytes.chunks_mut(SECTOR).enumerate() {
        let text = format!(
            "iomgr dmio write {round} at {when}, sector {number} of {}\n",
            len / SECTOR
        );
        sector[..text.len()].copy_from_slice(text.as_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_a_byte_a_file_or_stdin() {
        assert_eq!(Content::parse("0xa5".into()), Ok(Content::Byte(0xa5)));
        assert_eq!(Content::parse("-".into()), Ok(Content::Stdin));
        assert_eq!(Content::parse("./0x00".into()), Ok(Content::File("./0x00".into())));
        assert!(Content::parse("0x100".into()).unwrap_err().contains("0xff"));
        assert_eq!(Content::Byte(7).read(3).unwrap(), [7; 3]);
    }

    #[test]
    fn too_little_is_an_error() {
        let read = start_of(Ok(&[1, 2, 3][..]), 4, Path::new("f"));
        let text = read.unwrap_err().to_string();
        assert!(text.contains("holds 3 bytes, a region 4"), "{text}");
        assert_eq!(start_of(Ok(&[1, 2, 3][..]), 2, Path::new("f")).unwrap(), [1, 2]);
    }

    #[test]
    fn sectors_tell_which_they_are() {
        let bytes = pattern(1024, 7);
        let second = String::from_utf8_lossy(&bytes[512..]);
        assert!(
            second.starts_with("iomgr dmio write 7 at ") && second.contains("sector 1 of 2\n"),
            "{second}"
        );
    }
}
