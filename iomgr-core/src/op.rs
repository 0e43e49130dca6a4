//! Ops: what a device asks of the files below it, and the queue that runs them.
//!
//! A device names files and memory by small handles that the queue gave out. The queue owns the memory: from
//! [`OpQueue::push`] until the op's [`OpDone`] the kernel may read or write it, and [`OpQueue::bytes_mut`] refuses it.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use crate::Errno;

/// Who gets a completion: an index that the frontend gives to each device queue on its thread. 0 is the frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Owner(pub u16);

/// The name of an op, chosen by who pushes it: the owner in the upper 16 bits, 48 bits of the owner's own below.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(u64);

impl Token {
    /// Bits for the owner's own use.
    pub const VALUE_BITS: u32 = 48;

    /// # Panics
    /// If `value` needs more than 48 bits.
    pub const fn new(owner: Owner, value: u64) -> Self {
        assert!(value >> Self::VALUE_BITS == 0, "a token's value has 48 bits");
        Self((owner.0 as u64) << Self::VALUE_BITS | value)
    }

    /// Whose op it is.
    pub const fn owner(self) -> Owner {
        Owner((self.0 >> Self::VALUE_BITS) as u16)
    }

    /// The owner's own bits.
    pub const fn value(self) -> u64 {
        self.0 & ((1 << Self::VALUE_BITS) - 1)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({}:{:#x})", self.owner().0, self.value())
    }
}

/// A file as ops see it: an open descriptor, shared, or a file of a simulated disk.
///
/// The descriptor stays open until the last clone is gone, and the queue keeps one for every op in flight.
#[derive(Clone, Debug)]
pub enum FileHandle {
    /// A real descriptor.
    Fd(Arc<OwnedFd>),
    /// A file of the simulated engine; real engines refuse it.
    Simulated(SimFile),
}

/// The number of a file in a simulation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SimFile(pub u32);

impl FileHandle {
    /// Shares `fd`.
    pub fn new(fd: impl Into<OwnedFd>) -> Self {
        Self::Fd(Arc::new(fd.into()))
    }

    /// The descriptor, if it is a real file.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Fd(fd) => Some(fd.as_fd()),
            Self::Simulated(_) => None,
        }
    }
}

/// A file that a queue knows ([`OpQueue::add_file`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileSlot(pub u32);

/// A buffer that a queue knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BufId(pub u32);

/// The right to one buffer of the queue's pool, aligned to 4096 bytes. Give it back with [`OpQueue::free`]; a lease that
/// is dropped instead keeps its memory from being used again until the queue ends.
#[must_use = "a dropped lease is lost to the pool; give it back with `OpQueue::free`"]
#[derive(Debug, PartialEq, Eq)]
pub struct Lease {
    id: BufId,
    len: u32,
}

impl Lease {
    /// For implementations of [`OpQueue`] only.
    pub fn new(id: BufId, len: u32) -> Self {
        Self { id, len }
    }

    /// The buffer's name.
    pub fn id(&self) -> BufId {
        self.id
    }

    /// Usable bytes: what was asked for.
    pub fn len_bytes(&self) -> u32 {
        self.len
    }

    /// All of the buffer.
    pub fn data(&self) -> Data {
        Data {
            home: DataHome::Buffer(self.id),
            offset: 0,
            len: self.len,
        }
    }
}

/// Where the memory behind a [`Data`] lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DataHome {
    /// Nowhere: no bytes at all.
    None,
    /// A buffer of the queue.
    Buffer(BufId),
    /// A slot of the ring's registered buffers that the kernel filled in (ublk zero copy): its bytes are out of reach.
    Registered(u32),
}

/// A run of memory by name: which buffer, from where, how long. Cheap to copy and to cut; it grants no access by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Data {
    /// Which buffer.
    pub home: DataHome,
    /// First byte in it.
    pub offset: u32,
    /// How many bytes.
    pub len: u32,
}

impl Data {
    /// No memory.
    pub const NONE: Self = Self {
        home: DataHome::None,
        offset: 0,
        len: 0,
    };

    /// `len` bytes from `offset` of this run.
    ///
    /// # Panics
    /// If they do not lie in it.
    pub fn slice(self, offset: u32, len: u32) -> Self {
        assert!(
            offset <= self.len && len <= self.len - offset,
            "a slice lies inside its run"
        );
        Self {
            home: self.home,
            offset: self.offset + offset,
            len,
        }
    }
}

/// What an op does, at which byte of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Fill `data` from byte `offset`. The file ending before is [`OpError::EndOfFile`].
    Read {
        /// First byte in the file.
        offset: u64,
        /// Where to put it.
        data: Data,
    },
    /// Write `data` at byte `offset`.
    Write {
        /// First byte in the file.
        offset: u64,
        /// What to write.
        data: Data,
        /// Complete only when the bytes, and the metadata needed to read them again, survive a power cut (`RWF_DSYNC`).
        durable: bool,
    },
    /// `fdatasync`: what was completed on this file before the op was pushed survives a power cut.
    Flush,
    /// Give the bytes back to the storage. They read as zeros or as before; a file that cannot do it completes with success.
    Discard {
        /// First byte in the file.
        offset: u64,
        /// How many bytes.
        len: u64,
    },
    /// Make the bytes read as zeros, by whatever means the file has; the size never changes.
    WriteZeroes {
        /// First byte in the file.
        offset: u64,
        /// How many bytes.
        len: u64,
        /// May the space be given back (a hole)?
        unmap: bool,
        /// Fail with `ENOTSUP`, and leave the bytes alone, where zeros would have to be written.
        fast: bool,
    },
    /// Get the bytes into the page cache. A hint: it ends well whatever came of it.
    Prefetch {
        /// First byte in the file.
        offset: u64,
        /// How many bytes.
        len: u64,
    },
}

/// One op on one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Op {
    /// Comes back with the completion.
    pub token: Token,
    /// On which file.
    pub file: FileSlot,
    /// What to do.
    pub action: Action,
}

/// How an op ended. All of it was done, or the error says what happened; a short transfer is continued by the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpDone {
    /// The op's token.
    pub token: Token,
    /// The outcome.
    pub result: Result<(), OpError>,
}

/// Why an op failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpError {
    /// The kernel said so.
    Os(Errno),
    /// The file ended before the read did.
    EndOfFile,
    /// It was cancelled before the kernel saw it: nothing was read or written.
    NeverStarted,
}

impl OpError {
    /// As an error number: `EIO` for the end of the file, `ECANCELED` for what never started.
    pub fn errno(self) -> Errno {
        match self {
            Self::Os(errno) => errno,
            Self::EndOfFile => Errno::IO,
            Self::NeverStarted => Errno::CANCELED,
        }
    }
}

impl fmt::Display for OpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Os(errno) => write!(f, "{errno}"),
            Self::EndOfFile => f.write_str("the file ends before the read does"),
            Self::NeverStarted => f.write_str("cancelled before it started"),
        }
    }
}

impl std::error::Error for OpError {}

/// The queue took all that it can hold; here is the op back. Nothing happened to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full(pub Op);

/// A queue of ops on one thread. `tqueue` implements it on io_uring, by blocking calls, and in simulation.
///
/// # Contract
/// - An op that was pushed completes exactly once, in a later pass; an op that came back as [`Full`] never does.
/// - Ops start in any order, and overlapping ops that are outstanding together have no order. A flush covers what had
///   *completed* when it was pushed.
/// - Nothing here blocks or allocates.
pub trait OpQueue {
    /// Makes `file` known. Refused (`ENFILE`) when the table is full, or when the engine cannot use such a file.
    fn add_file(&mut self, file: &FileHandle) -> Result<FileSlot, Errno>;

    /// Forgets a file. Its descriptor stays open until the ops that use it have ended.
    fn remove_file(&mut self, slot: FileSlot);

    /// Queues an op, or defers it; hands it back when even the deferred list is full.
    fn push(&mut self, op: Op) -> Result<(), Full>;

    /// Completes every op with this token that the kernel has not seen yet as [`OpError::NeverStarted`]; says how many.
    /// What the kernel has seen goes on to its own end.
    fn cancel(&mut self, token: Token) -> usize;

    /// Leases `len` bytes (1 byte to the arena's largest run). `None` when none are free now.
    fn alloc(&mut self, len: u32) -> Option<Lease>;

    /// Gives a buffer back. Memory that ops still use is held back until they have ended.
    fn free(&mut self, lease: Lease);

    /// Looks at memory. `None` while an op that writes to the buffer (a read) is outstanding, and for memory out of reach.
    fn bytes(&self, data: Data) -> Option<&[u8]>;

    /// Fills memory with zeros, also while ops on other parts of the buffer are outstanding. False for memory out of reach.
    fn fill_zeros(&mut self, data: Data) -> bool;

    /// A file that reads as zeros without end, on a queue with memory out of reach: what [`fill_zeros`](Self::fill_zeros) cannot
    /// reach, a read from it fills. It is no file of a device's: filters do not see it.
    fn zeros(&self) -> Option<FileSlot> {
        None
    }

    /// Changes memory. `None` while any op on the buffer is outstanding, and for memory out of reach.
    fn bytes_mut(&mut self, data: Data) -> Option<&mut [u8]>;

    /// Copies memory to memory of another buffer. False if the lengths differ, and where [`bytes`](Self::bytes) or
    /// [`bytes_mut`](Self::bytes_mut) would refuse.
    fn copy(&mut self, from: Data, to: Data) -> bool {
        let mut page = [0; 4096];
        let mut at = 0;
        if from.len != to.len {
            return false;
        }
        while at < from.len {
            let len = (from.len - at).min(4096);
            let page = &mut page[..len as usize];
            let Some(bytes) = self.bytes(from.slice(at, len)) else {
                return false;
            };
            page.copy_from_slice(bytes);
            let Some(bytes) = self.bytes_mut(to.slice(at, len)) else {
                return false;
            };
            bytes.copy_from_slice(page);
            at += len;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_keeps_its_owner_and_value() {
        let token = Token::new(Owner(0xfffe), 0x1234_5678_9abc);
        assert_eq!((token.owner(), token.value()), (Owner(0xfffe), 0x1234_5678_9abc));
    }

    #[test]
    fn slices_of_slices_add_up() {
        let data = Lease::new(BufId(3), 4096).data();
        assert_eq!(data.slice(512, 1024).slice(512, 512), data.slice(1024, 512));
    }
}
