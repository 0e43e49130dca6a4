//! A writer of the archive format that the kernel unpacks as its first root file system.
//!
//! # References
//!
//! Linux, `Documentation/driver-api/early-userspace/buffer-format.rst`: the "newc" format.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

const FOLDER: u32 = 0o040_755;
const CHARACTER_DEVICE: u32 = 0o020_600;
const REGULAR: u32 = 0o100_000;

/// Headers, names and contents start at multiples of this.
const ALIGNMENT: u64 = 4;

/// Writes entries in the order in which they are added; a folder comes before what is in it.
#[derive(Debug)]
pub(super) struct Archive<W> {
    to: W,
    written: u64,
    /// The next inode's number; each entry has its own, so that none is a hard link.
    inode: u32,
}

/// What differs between entries beside their name.
#[derive(Debug, Default)]
struct Head {
    mode: u32,
    length: u32,
    device: (u32, u32),
}

impl<W: Write> Archive<W> {
    pub(super) fn new(to: W) -> Archive<W> {
        Archive {
            to,
            written: 0,
            inode: 1,
        }
    }

    pub(super) fn folder(&mut self, name: &str) -> io::Result<()> {
        self.entry(name, &Head::of(FOLDER), io::empty())
    }

    /// A character device, for what is needed before the kernel fills `/dev` itself.
    pub(super) fn device(&mut self, name: &str, major: u32, minor: u32) -> io::Result<()> {
        let device = (major, minor);
        let head = Head {
            device,
            ..Head::of(CHARACTER_DEVICE)
        };
        self.entry(name, &head, io::empty())
    }

    /// A file with these bytes.
    pub(super) fn bytes(&mut self, name: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
        self.file(name, REGULAR | mode, length(bytes.len() as u64)?, bytes)
    }

    /// A copy of a file.
    pub(super) fn copy(&mut self, name: &str, mode: u32, from: &Path) -> io::Result<()> {
        let from = File::open(from)?;
        let length = length(from.metadata()?.len())?;
        self.file(name, REGULAR | mode, length, from.take(u64::from(length)))
    }

    /// Ends the archive and gives back what it was written to.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.entry("TRAILER!!!", &Head::default(), io::empty())?;
        self.to.flush()?;
        Ok(self.to)
    }

    fn file(&mut self, name: &str, mode: u32, length: u32, contents: impl Read) -> io::Result<()> {
        let head = Head {
            length,
            ..Head::of(mode)
        };
        self.entry(name, &head, contents)
    }

    fn entry(&mut self, name: &str, head: &Head, mut contents: impl Read) -> io::Result<()> {
        let name = name.trim_start_matches('/');
        let (inode, links, owner, time, on) = (self.inode, 1, 0, 0, 0);
        let (major, minor) = head.device;
        let name_length = length(name.len() as u64 + 1)?;
        let fields = [
            inode,
            head.mode,
            owner,
            owner,
            links,
            time,
            head.length,
            on,
            on,
            major,
            minor,
            name_length,
            0,
        ];
        let fields: String = fields.iter().map(|field| format!("{field:08x}")).collect();
        self.put(&mut format!("070701{fields}{name}\0").as_bytes())?;
        let put = self.put(&mut contents)?;
        self.inode += 1;
        if put == u64::from(head.length) {
            Ok(())
        } else {
            Err(io::Error::other(format!("{name} changed its length while it was read")))
        }
    }

    /// Writes all of it and zeros up to the next boundary.
    fn put(&mut self, from: &mut impl Read) -> io::Result<u64> {
        let copied = io::copy(from, &mut self.to)?;
        self.written += copied;
        let gap = self.written.next_multiple_of(ALIGNMENT) - self.written;
        self.written += io::copy(&mut io::repeat(0).take(gap), &mut self.to)?;
        Ok(copied)
    }
}

impl Head {
    fn of(mode: u32) -> Head {
        Head {
            mode,
            ..Head::default()
        }
    }
}

/// The format's lengths have 32 bits.
fn length(bytes: u64) -> io::Result<u32> {
    u32::try_from(bytes).map_err(|_| io::Error::other("a file of the guest must be smaller than 4 GiB"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive() -> Vec<u8> {
        let mut archive = Archive::new(Vec::new());
        archive.folder("bin").unwrap();
        archive.bytes("/bin/abc", 0o755, b"12345").unwrap();
        archive.device("console", 5, 1).unwrap();
        archive.finish().unwrap()
    }

    #[test]
    fn headers_start_at_multiples_of_four() {
        let bytes = archive();
        let starts: Vec<_> = (0..bytes.len())
            .filter(|&at| bytes[at..].starts_with(b"070701"))
            .collect();
        assert_eq!(starts.len(), 4);
        assert!(starts.iter().all(|start| start % 4 == 0), "{starts:?}");
        assert_eq!(bytes.len() % 4, 0);
    }

    #[test]
    fn a_file_has_its_name_mode_and_contents() {
        let text = String::from_utf8(archive()).unwrap();
        let file = text.split("070701").nth(2).unwrap();
        assert_eq!(&file[8..16], "000081ed");
        assert_eq!(&file[48..56], "00000005");
        assert!(file[104..].starts_with("bin/abc\0"));
        assert!(file.contains("12345\0\0\0"));
    }
}
