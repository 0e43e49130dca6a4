//! What a frontend asks of a device: the request, and how it ended.

use crate::{Data, Errno, SectorRange, Timestamp};

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Fill the data from the sectors.
    Read,
    /// Put the data onto the sectors.
    Write,
    /// Make every write that was completed before this request was submitted survive a power cut. No sectors, no data.
    Flush,
    /// The content of the sectors is no longer needed; whole allocation units are given back to the storage below.
    /// Afterwards they read as zeros or as before, as the device's limits say.
    Discard,
    /// Make the sectors read as zeros.
    WriteZeroes,
    /// Get the sectors into memory, for a read that will come soon. A hint, without data: it ends well whatever came of it.
    Prefetch,
}

bitflags::bitflags! {
    /// Modifiers of a request.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct RequestFlags: u8 {
        /// Force unit access: complete only when what was written survives a power cut, its metadata included.
        const FUA = 1 << 0;
        /// Write-zeroes only: keep the space allocated.
        const NO_UNMAP = 1 << 1;
        /// Write-zeroes only: fail with `ENOTSUP` rather than write zeros slowly.
        const FAST_ZERO = 1 << 2;
    }
}

/// How managers tell requests apart: a "no" holds one class of one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// Reads and prefetches.
    Read,
    /// Everything that carries or changes data: writes, discards, write-zeroes.
    Write,
    /// Flushes. They pass held writes, which are not acknowledged yet.
    Other,
}

impl Class {
    /// All classes, in the order in which frontends serve them.
    pub const ALL: [Self; 3] = [Self::Other, Self::Read, Self::Write];

    /// A dense index, for tables of one entry per class.
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl Operation {
    /// The class by which managers judge it.
    pub const fn class(self) -> Class {
        match self {
            Self::Read | Self::Prefetch => Class::Read,
            Self::Write | Self::Discard | Self::WriteZeroes => Class::Write,
            Self::Flush => Class::Other,
        }
    }

    /// Does it change the device's content?
    pub const fn is_write(self) -> bool {
        matches!(self.class(), Class::Write)
    }
}

/// A request's slot number in the frontend that owns it. Unique among the requests that are outstanding on one device
/// queue, and below the depth given to [`QueueContext`](crate::QueueContext), so that a device can use it as an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(pub u32);

/// One request. The frontend keeps the buffer behind `data` until the request's [`Done`] comes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The frontend's slot number.
    pub tag: Tag,
    /// What to do.
    pub op: Operation,
    /// How.
    pub flags: RequestFlags,
    /// Where. Empty for a flush.
    pub range: SectorRange,
    /// Memory to read into or to write from; as long as `range` for reads and writes, empty for the rest.
    pub data: Data,
    /// When the frontend received it; latencies and deadlines count from here.
    pub arrival: Timestamp,
    /// When it should have ended, if anybody cares.
    pub deadline: Option<Timestamp>,
}

impl Request {
    /// The class by which managers judge it.
    pub fn class(&self) -> Class {
        self.op.class()
    }
}

/// How a request ended. Each accepted request yields exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// The request's tag, free for reuse from now on.
    pub tag: Tag,
    /// All of it done, or the first error. After an error on a read the data is undefined; after an error on a write
    /// each sector is old or new.
    pub result: Result<(), Errno>,
}

/// A request that ended on a [`Lane`](crate::Lane).
#[derive(Debug)]
pub struct Ended {
    /// As it was pushed.
    pub request: Request,
    /// All of it done, or the first error.
    pub result: Result<(), Errno>,
}
