//! The checksums that are remembered: a table of fixed size, in which every sector of every file has one place.
//!
//! ```text
//!  place  = (sector + the file's own start) modulo the table's length, which is a power of two
//!  entry  = 0: nothing, or  63 … 56  55 … 32                      31 … 0
//!                           file     sector / the table's length  checksum
//! ```
//!
//! An entry says exactly whose it is: the low part of the sector follows from the place. So a sector may displace another, and
//! is never taken for another.

use std::fmt;
use std::fs;
use std::ops::Range;
use std::os::fd::AsRawFd;

use iomgr_core::FileHandle;
use rustix::fs::{FileType, fstat};

use crate::{Errno, Error, ErrorKind};

/// Sectors of a file whose upper part is larger are not remembered.
const UPPER_BITS: u32 = 24;

/// See the module.
#[derive(Default)]
pub(super) struct Memory {
    entries: Vec<u64>,
    /// By number, which begins at 1; those without uses are vacant.
    files: Vec<File>,
}

/// A file.
#[derive(Debug)]
struct File {
    id: FileId,
    name: String,
    uses: u32,
}

/// What a file is, whichever descriptor it is seen by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FileId {
    Regular { device: u64, inode: u64 },
    Block { device: u64 },
}

impl Memory {
    /// Makes room for so many sectors, a power of two, once.
    pub(super) fn reserve(&mut self, sectors: u64) -> Result<(), Error> {
        if !self.entries.is_empty() {
            return Ok(());
        }
        let out_of_memory = |_| {
            let context = format!(
                "checksum: {} MiB to remember sectors; give the filter a smaller size",
                sectors >> 17
            );
            Error::new(ErrorKind::Memory, context, Errno::NOMEM)
        };
        let len = usize::try_from(sectors).expect("the size is bounded");
        self.entries.try_reserve_exact(len).map_err(out_of_memory)?;
        self.entries.resize(len, 0);
        Ok(())
    }

    /// One more use of a file: its number, if it is a file to be remembered, and there is one left.
    pub(super) fn add_file(&mut self, handle: &FileHandle) -> Option<u8> {
        let id = FileId::of(handle)?;
        let known = self.files.iter().position(|file| file.uses > 0 && file.id == id);
        let vacant = || self.files.iter().position(|file| file.uses == 0);
        let at = known.or_else(vacant).unwrap_or(self.files.len());
        let Ok(number) = u8::try_from(at + 1) else {
            tracing::warn!(
                name = name_of(handle),
                "checksum_unverified: 255 files are known already"
            );
            return None;
        };
        if known.is_none() {
            let file = File {
                id,
                name: name_of(handle),
                uses: 0,
            };
            match self.files.get_mut(at) {
                Some(vacant) => *vacant = file,
                None => self.files.push(file),
            }
        }
        self.files[at].uses += 1;
        Some(number)
    }

    /// One use less. With the last one all that is known of the file is forgotten: anybody may change it now.
    pub(super) fn remove_file(&mut self, number: u8) {
        let file = &mut self.files[usize::from(number) - 1];
        file.uses -= 1;
        if file.uses == 0 {
            self.forget_all(number, 0..u64::MAX);
        }
    }

    /// Where the file lay when it was added.
    pub(super) fn name(&self, number: u8) -> &str {
        &self.files[usize::from(number) - 1].name
    }

    /// The checksum of a sector.
    pub(super) fn known(&self, file: u8, sector: u64) -> Option<u32> {
        let owner = self.owner(file, sector)?;
        let entry = self.entries[self.place(file, sector)];
        (entry >> 32 == owner).then_some(low_half(entry))
    }

    /// Remembers a sector.
    pub(super) fn learn(&mut self, file: u8, sector: u64, checksum: u32) {
        let Some(owner) = self.owner(file, sector) else { return };
        let place = self.place(file, sector);
        self.entries[place] = owner << 32 | u64::from(checksum);
    }

    /// Remembers that sectors are all the same; of more than there is room for, the first.
    pub(super) fn learn_all(&mut self, file: u8, sectors: Range<u64>, checksum: u32) {
        let room = self.entries.len();
        sectors.take(room).for_each(|sector| self.learn(file, sector, checksum));
    }

    /// Forgets sectors.
    pub(super) fn forget(&mut self, file: u8, sectors: Range<u64>) {
        if sectors.end - sectors.start >= self.entries.len() as u64 {
            return self.forget_all(file, sectors);
        }
        for sector in sectors {
            if self.known(file, sector).is_some() {
                let place = self.place(file, sector);
                self.entries[place] = 0;
            }
        }
    }

    /// The same by a look at every entry.
    fn forget_all(&mut self, file: u8, sectors: Range<u64>) {
        let (start, len) = (self.start(file), self.entries.len() as u64);
        for (place, entry) in (0u64..).zip(&mut self.entries) {
            let upper = *entry >> 32 & ((1 << UPPER_BITS) - 1);
            let sector = upper * len + (place.wrapping_sub(start) & (len - 1));
            if *entry >> (32 + UPPER_BITS) == u64::from(file) && sectors.contains(&sector) {
                *entry = 0;
            }
        }
    }

    /// The place of a file's first sector: files begin far from each other.
    fn start(&self, file: u8) -> u64 {
        u64::from(file).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32 & (self.entries.len() as u64 - 1)
    }

    fn place(&self, file: u8, sector: u64) -> usize {
        let place = sector.wrapping_add(self.start(file)) & (self.entries.len() as u64 - 1);
        usize::try_from(place).expect("less than the table's length")
    }

    /// The upper half of a sector's entry; never 0.
    fn owner(&self, file: u8, sector: u64) -> Option<u64> {
        let upper = sector / self.entries.len() as u64;
        (upper >> UPPER_BITS == 0).then_some(u64::from(file) << UPPER_BITS | upper)
    }
}

impl fmt::Debug for Memory {
    /// Without the entries: there are millions.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory")
            .field("sectors", &self.entries.len())
            .field("files", &self.files)
            .finish()
    }
}

impl FileId {
    fn of(handle: &FileHandle) -> Option<Self> {
        let stat = fstat(handle.fd()?).ok()?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Some(Self::Regular {
                device: stat.st_dev,
                inode: stat.st_ino,
            }),
            FileType::BlockDevice => Some(Self::Block { device: stat.st_rdev }),
            _ => None,
        }
    }
}

/// The path behind a descriptor.
fn name_of(handle: &FileHandle) -> String {
    let link = handle.fd().map(|fd| format!("/proc/self/fd/{}", fd.as_raw_fd()));
    let path = link.and_then(|link| fs::read_link(link).ok());
    path.map_or_else(|| "a file".to_owned(), |path| path.to_string_lossy().into_owned())
}

#[allow(clippy::cast_possible_truncation, reason = "the lower half is what is asked for")]
fn low_half(entry: u64) -> u32 {
    entry as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Room for 2048 sectors, and two files. Whoever has a file numbered keeps it open: else its inode is another's.
    fn memory() -> (Memory, [FileHandle; 2]) {
        let mut memory = Memory::default();
        memory.reserve(2048).unwrap();
        let files = [0, 1].map(|_| file());
        assert_eq!(files.each_ref().map(|file| memory.add_file(file)), [Some(1), Some(2)]);
        (memory, files)
    }

    fn file() -> FileHandle {
        FileHandle::new(tempfile::tempfile().unwrap())
    }

    #[test]
    fn a_sector_is_never_taken_for_another() {
        let (mut memory, _files) = memory();
        memory.learn(1, 5, 0);
        assert_eq!(memory.known(1, 5), Some(0), "a checksum of zero is one as well");
        assert_eq!(
            (memory.known(1, 5 + 2048), memory.known(2, 5), memory.known(1, 6)),
            (None, None, None)
        );
        memory.learn(1, 5 + 2048, 7);
        assert_eq!((memory.known(1, 5), memory.known(1, 5 + 2048)), (None, Some(7)));
        memory.forget(1, 5..6);
        assert_eq!(memory.known(1, 5 + 2048), Some(7), "another's entry is left alone");
    }

    #[test]
    fn as_many_sectors_as_there_is_room_for_lie_side_by_side() {
        let (mut memory, _files) = memory();
        memory.learn_all(2, 1000..1_000_000, 3);
        assert!((1000..3048).all(|sector| memory.known(2, sector) == Some(3)));
        assert_eq!(memory.known(2, 3048), None);
        memory.forget(2, 3000..9000);
        assert!((1000..3000).all(|sector| memory.known(2, sector) == Some(3)));
        assert!((3000..3048).all(|sector| memory.known(2, sector).is_none()));
    }

    #[test]
    fn sectors_beyond_what_an_entry_can_say_are_not_remembered() {
        let (mut memory, _files) = memory();
        let first = 2048 << UPPER_BITS;
        memory.learn(1, first - 1, 1);
        memory.learn(1, first, 2);
        assert_eq!((memory.known(1, first - 1), memory.known(1, first)), (Some(1), None));
        memory.forget(1, 0..u64::MAX);
        assert_eq!(memory.known(1, first - 1), None);
    }

    #[test]
    fn a_file_is_one_by_whatever_descriptor_until_its_last_use() {
        let (mut memory, _files) = memory();
        let real = tempfile::tempfile().unwrap();
        let handles = [0, 1].map(|_| FileHandle::new(real.try_clone().unwrap()));
        assert_eq!(
            handles.each_ref().map(|handle| memory.add_file(handle)),
            [Some(3), Some(3)]
        );
        memory.learn(3, 1, 9);
        memory.remove_file(3);
        assert_eq!(memory.known(3, 1), Some(9));
        memory.remove_file(3);
        let another = file();
        assert_eq!((memory.add_file(&another), memory.known(3, 1)), (Some(3), None));
    }

    #[test]
    fn sockets_are_no_files_and_there_are_255_numbers() {
        let (mut memory, _files) = memory();
        let (socket, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(memory.add_file(&FileHandle::new(socket)), None);
        let files: Vec<_> = (0..254).map(|_| file()).collect();
        let added: Vec<_> = files.iter().map(|file| memory.add_file(file)).collect();
        assert_eq!(added[252..], [Some(255), None]);
        assert_eq!(memory.files.len(), 255);
    }
}
