//! Ops from the machine's side: what they will do, when, and what goes wrong with them.

use iomgr_core::{SimFile, Timestamp};
use rustix::io::Errno;

use super::fault::Mishap;
use super::trace::SimCall;
use crate::inflight::Key;

/// The file of a timer.
pub(crate) const NO_FILE: SimFile = SimFile(u32::MAX);

/// What an op on its way will do.
#[derive(Debug)]
pub(crate) enum Act {
    Read {
        offset: u64,
        len: u32,
    },
    Write {
        offset: u64,
        bytes: Vec<u8>,
        durable: bool,
    },
    Flush {
        covered: u64,
    },
    Zero {
        offset: u64,
        len: u64,
    },
    /// Nothing but take time.
    Timer,
    /// Fail with this, and do nothing.
    Fail(Errno),
    /// It is done; this is to be told.
    Tell {
        result: Result<u32, Errno>,
        bytes: Vec<u8>,
    },
}

/// An op on its way.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) queue: usize,
    pub(crate) key: Key,
    /// Its place in the order of issue.
    pub(crate) number: u64,
    pub(crate) file: SimFile,
    pub(crate) act: Act,
    pub(crate) due: Timestamp,
    pub(crate) mishap: Mishap,
}

/// An op that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) key: Key,
    pub(crate) result: Result<u32, Errno>,
    /// What a read has read.
    pub(crate) bytes: Vec<u8>,
}

impl Pending {
    pub(crate) fn is_disk(&self) -> bool {
        self.file != NO_FILE
    }
}

impl Act {
    /// For the trace, and for faults.
    pub(crate) fn call(&self) -> SimCall {
        match self {
            Self::Read { offset, len } => SimCall::Read(*offset, u64::from(*len)),
            Self::Write { offset, bytes, durable } => SimCall::Write(*offset, bytes.len() as u64, *durable),
            Self::Flush { .. } => SimCall::Flush,
            Self::Zero { offset, len } => SimCall::Zero(*offset, *len),
            Self::Timer | Self::Fail(_) | Self::Tell { .. } => SimCall::Other,
        }
    }
}

/// A queue's ticket: which queue of which boot. Tickets of earlier boots get nothing done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    pub(crate) queue: usize,
    pub(crate) boot: u32,
}

/// What ops come to when the power is off, or their process gone.
pub(crate) fn failed(key: Key) -> Ended {
    Ended {
        key,
        result: Err(Errno::IO),
        bytes: Vec::new(),
    }
}
