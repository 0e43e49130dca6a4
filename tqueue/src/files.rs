//! The files that a queue knows: descriptors by slot, kept open while ops use them, and what each file cannot do.

use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use iomgr_core::{FileHandle, FileSlot, SimFile};

/// Bits of a `FileSlot` that are the index.
const INDEX_BITS: u32 = 20;

/// A file by its index in the table. Whoever has one holds a use of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FileIndex(pub(crate) u32);

/// One file.
#[derive(Debug)]
pub(crate) struct File {
    handle: Option<FileHandle>,
    /// The descriptor behind `handle`, at hand for the ring; -1 for none.
    fd: RawFd,
    generation: u16,
    closing: bool,
    uses: u32,
    /// Does the ring know it under its index?
    pub(crate) registered: bool,
    /// Does it lie in memory, and is it worked on by plain calls?
    pub(crate) plain: bool,
    /// Receives and polls outstanding: while there are any, we hear from the peer anyway.
    pub(crate) listens: u32,
    /// What `fallocate` can do here, as far as we know.
    pub(crate) can: Can,
}

/// What a file can do besides reading and writing; true until it proved otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Can {
    /// `FALLOC_FL_PUNCH_HOLE`.
    pub(crate) punch: bool,
    /// `FALLOC_FL_ZERO_RANGE`.
    pub(crate) zero_range: bool,
}

impl File {
    const VACANT: Self = Self {
        handle: None,
        fd: -1,
        generation: 0,
        closing: false,
        uses: 0,
        registered: false,
        plain: false,
        listens: 0,
        can: Can {
            punch: true,
            zero_range: true,
        },
    };

    /// The descriptor; -1 for a simulated file.
    pub(crate) fn raw_fd(&self) -> RawFd {
        self.fd
    }

    /// The descriptor, borrowed.
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.handle.as_ref()?.fd()
    }

    /// What its users gave us.
    pub(crate) fn handle(&self) -> &FileHandle {
        self.handle.as_ref().expect("a file that is used is known")
    }

    /// The number in the simulation.
    #[cfg_attr(
        not(feature = "test-utils"),
        allow(dead_code, reason = "only the simulated engine asks")
    )]
    pub(crate) fn simulated(&self) -> Option<SimFile> {
        match self.handle.as_ref()? {
            FileHandle::Simulated(file) => Some(*file),
            FileHandle::Fd(_) => None,
        }
    }
}

/// All files of a queue.
#[derive(Debug)]
pub(crate) struct Files {
    slots: Box<[File]>,
    vacant: Vec<u32>,
}

impl Files {
    pub(crate) fn new(count: u32) -> Self {
        Self {
            slots: (0..count).map(|_| File::VACANT).collect(),
            vacant: (0..count).rev().collect(),
        }
    }

    /// Makes a file known; `None` when the table is full.
    pub(crate) fn add(&mut self, handle: &FileHandle) -> Option<FileIndex> {
        let index = self.vacant.pop()?;
        let file = &mut self.slots[index as usize];
        *file = File {
            handle: Some(handle.clone()),
            fd: handle.fd().map_or(-1, |fd| fd.as_raw_fd()),
            generation: file.generation,
            ..File::VACANT
        };
        Some(FileIndex(index))
    }

    /// The name that users get for a file.
    pub(crate) fn slot(&self, index: FileIndex) -> FileSlot {
        let generation = self.slots[index.0 as usize].generation;
        FileSlot(u32::from(generation) << INDEX_BITS | index.0)
    }

    /// Takes a use of the file behind `slot`; `None` where there is none.
    pub(crate) fn take(&mut self, slot: FileSlot) -> Option<FileIndex> {
        let index = self.find(slot)?;
        self.slots[index.0 as usize].uses += 1;
        Some(index)
    }

    /// Ends a use. True: it was the last of a file that is to be forgotten, call [`forget`](Self::forget).
    #[must_use]
    pub(crate) fn done(&mut self, index: FileIndex) -> bool {
        let file = &mut self.slots[index.0 as usize];
        file.uses = file.uses.checked_sub(1).expect("each use ends once");
        file.closing && file.uses == 0
    }

    /// Takes no more ops for a file. `Some`: nothing uses it, call [`forget`](Self::forget).
    #[must_use]
    pub(crate) fn close(&mut self, slot: FileSlot) -> Option<FileIndex> {
        let index = self.find(slot)?;
        let file = &mut self.slots[index.0 as usize];
        file.closing = true;
        (file.uses == 0).then_some(index)
    }

    /// Drops our clone of the handle and makes the slot vacant.
    pub(crate) fn forget(&mut self, index: FileIndex) {
        let file = &mut self.slots[index.0 as usize];
        *file = File {
            generation: (file.generation + 1) & ((1 << (32 - INDEX_BITS)) - 1),
            ..File::VACANT
        };
        self.vacant.push(index.0);
    }

    /// How many files there are.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.vacant.len()
    }

    fn find(&self, slot: FileSlot) -> Option<FileIndex> {
        let index = slot.0 & ((1 << INDEX_BITS) - 1);
        let file = self.slots.get(index as usize)?;
        let known = file.handle.is_some() && !file.closing && u32::from(file.generation) == slot.0 >> INDEX_BITS;
        known.then_some(FileIndex(index))
    }
}

impl std::ops::Index<FileIndex> for Files {
    type Output = File;

    fn index(&self, index: FileIndex) -> &File {
        &self.slots[index.0 as usize]
    }
}

impl std::ops::IndexMut<FileIndex> for Files {
    fn index_mut(&mut self, index: FileIndex) -> &mut File {
        &mut self.slots[index.0 as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_forgotten_after_its_last_use() {
        let mut files = Files::new(1);
        let index = files.add(&FileHandle::Simulated(SimFile(5))).unwrap();
        assert!(files.add(&FileHandle::Simulated(SimFile(6))).is_none());
        let slot = files.slot(index);
        let used = files.take(slot).unwrap();
        assert_eq!(files.close(slot), None);
        assert_eq!(files.take(slot), None, "a closing file takes no new ops");
        assert!(files.done(used));
        files.forget(used);
        let next = files.add(&FileHandle::Simulated(SimFile(6))).unwrap();
        assert_ne!(files.slot(next), slot, "an old name is not the new file's");
        assert_eq!(files.take(slot), None);
    }
}
