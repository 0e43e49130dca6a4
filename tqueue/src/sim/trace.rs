//! What happened on a machine, in order, for people and snapshots.

use std::collections::VecDeque;
use std::fmt;

use iomgr_core::Timestamp;
use rustix::io::Errno;

use super::START;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When.
    pub at: Timestamp,
    /// What.
    pub what: Happened,
}

/// What happened. Ops are numbered in the order in which the machine got them; one that the queue continues or tries again
/// gets a new number.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Happened {
    /// A queue issued an op.
    Issued {
        /// The op.
        op: u64,
        /// Of which queue, in order of their making.
        queue: usize,
        /// On which file, in order of their making; `None` for a timer.
        file: Option<u32>,
        /// What it is to do.
        call: SimCall,
    },
    /// It was done, and its completion is late.
    Done {
        /// The op.
        op: u64,
    },
    /// It completed.
    Completed {
        /// The op.
        op: u64,
        /// Bytes, or why not.
        result: Result<u32, Errno>,
    },
    /// A queue found no room in the ring.
    Refused {
        /// The queue.
        queue: usize,
    },
    /// A blocking call was made.
    Blocking {
        /// On which file.
        file: u32,
        /// What it did.
        call: SimCall,
        /// Why not, if it did not.
        result: Result<(), Errno>,
    },
    /// The power failed: everything ends as `EIO` from now on.
    PowerFailed,
    /// The power was cut, and the machine has started again.
    Cut {
        /// What chose which sectors survived.
        seed: u64,
    },
    /// The process was killed.
    Killed {
        /// What chose which of its ops still happened.
        seed: u64,
    },
    /// A file, or the whole machine, stalls.
    Stalled {
        /// The file; `None` for all.
        file: Option<u32>,
    },
    /// It does so no more, and what was held goes on.
    Released {
        /// The file; `None` for all.
        file: Option<u32>,
    },
}

/// What an op or a blocking call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SimCall {
    /// Read so many bytes from there.
    Read(u64, u64),
    /// Write so many bytes there; with `true` durably.
    Write(u64, u64, bool),
    /// Make so many bytes zeros there.
    Zero(u64, u64),
    /// Flush.
    Flush,
    /// Change the length.
    SetLen(u64),
    /// A timer.
    Timer(Timestamp),
    /// Something that the machine does not do.
    Other,
}

/// What happened last on a machine; see [`SimHandle::trace`](super::SimHandle::trace). As text, one line each:
///
/// ```text
///      0.000 µs  #0 q0 file 0: write 0+4096
///    812.440 µs  #0 = 4096
///    812.440 µs  power cut, seed 7
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// The events, oldest first.
    pub events: Vec<Event>,
    /// How many there were before.
    pub forgotten: u64,
}

/// Keeps events, as many as it was told to.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    events: VecDeque<Event>,
    most: usize,
    forgotten: u64,
}

impl Recorder {
    pub(crate) fn start(&mut self, most: usize) {
        *self = Self {
            most,
            ..Self::default()
        };
    }

    pub(crate) fn add(&mut self, at: Timestamp, what: Happened) {
        if self.most == 0 {
            return;
        }
        if self.events.len() == self.most {
            self.events.pop_front();
            self.forgotten += 1;
        }
        self.events.push_back(Event { at, what });
    }

    pub(crate) fn trace(&self) -> Trace {
        Trace {
            events: self.events.iter().cloned().collect(),
            forgotten: self.forgotten,
        }
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.forgotten > 0 {
            writeln!(f, "… {} before", self.forgotten)?;
        }
        self.events.iter().try_for_each(|event| writeln!(f, "{event}"))
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.at.since(START).as_nanos();
        write!(f, "{:>10}.{:03} µs  {}", nanos / 1000, nanos % 1000, self.what)
    }
}

impl fmt::Display for Happened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Issued { op, queue, file, call } => {
                write!(f, "#{op} q{queue} ")?;
                file.iter().try_for_each(|file| write!(f, "file {file}: "))?;
                write!(f, "{call}")
            }
            Self::Done { op } => write!(f, "#{op} done, not told yet"),
            Self::Completed { op, result } => {
                write!(f, "#{op} = ")?;
                match result {
                    Ok(bytes) => write!(f, "{bytes}"),
                    Err(errno) => write!(f, "{}", Name(*errno)),
                }
            }
            Self::Refused { queue } => write!(f, "q{queue} finds no room"),
            Self::Blocking { file, call, result } => {
                write!(f, "file {file}: blocking {call}")?;
                result.or_else(|errno| write!(f, " = {}", Name(errno)))
            }
            Self::PowerFailed => f.write_str("power fails"),
            Self::Cut { seed } => write!(f, "power cut, seed {seed}"),
            Self::Killed { seed } => write!(f, "killed, seed {seed}"),
            Self::Stalled { file } => write!(f, "{} stalls", Place(*file)),
            Self::Released { file } => write!(f, "{} is released", Place(*file)),
        }
    }
}

impl fmt::Display for SimCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(offset, len) => write!(f, "read {offset}+{len}"),
            Self::Write(offset, len, false) => write!(f, "write {offset}+{len}"),
            Self::Write(offset, len, true) => write!(f, "write {offset}+{len} durable"),
            Self::Zero(offset, len) => write!(f, "zero {offset}+{len}"),
            Self::Flush => f.write_str("flush"),
            Self::SetLen(len) => write!(f, "set length {len}"),
            Self::Timer(at) => write!(f, "timer at {} µs", at.since(START).as_micros()),
            Self::Other => f.write_str("something else"),
        }
    }
}

/// A file, or all.
struct Place(Option<u32>);

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(file) => write!(f, "file {file}"),
            None => f.write_str("everything"),
        }
    }
}

/// An error by its short name.
struct Name(Errno);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            Errno::AGAIN => "EAGAIN",
            Errno::BADF => "EBADF",
            Errno::BUSY => "EBUSY",
            Errno::CANCELED => "ECANCELED",
            Errno::INTR => "EINTR",
            Errno::INVAL => "EINVAL",
            Errno::IO => "EIO",
            Errno::NOMEM => "ENOMEM",
            Errno::NOSPC => "ENOSPC",
            Errno::OPNOTSUPP => "EOPNOTSUPP",
            Errno::STALE => "ESTALE",
            Errno::TIME => "ETIME",
            Errno::TIMEDOUT => "ETIMEDOUT",
            other => return write!(f, "errno {}", other.raw_os_error()),
        };
        f.write_str(name)
    }
}
