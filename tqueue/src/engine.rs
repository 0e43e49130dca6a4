//! What runs the calls: one of three engines, behind one face.

use std::time::Duration;

use iomgr_core::Timestamp;
use rustix::fs::{FileType, fstat, fstatfs};
use rustix::time::{ClockId, clock_gettime};

use crate::Error;
use crate::buf::Arena;
use crate::config::Features;
use crate::counters::Counters;
use crate::files::{File, FileIndex, Files};
use crate::inflight::{Attempt, Key};
use crate::net::{Interest, Sends};
use crate::raw::{Place, RawCommand};
use crate::ring::Ring;
use crate::run::Run;
use crate::sync::SyncEngine;

/// One call for the kernel, or what stands for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Read {
        offset: u64,
        run: Run,
    },
    Write {
        offset: u64,
        run: Run,
        durable: bool,
    },
    /// [`Surroundings::runs`], one behind the other in the file.
    ReadMany {
        offset: u64,
    },
    /// Likewise.
    WriteMany {
        offset: u64,
        durable: bool,
    },
    Sync,
    /// `fallocate(PUNCH_HOLE | KEEP_SIZE)`.
    Punch {
        offset: u64,
        len: u64,
    },
    /// `fallocate(ZERO_RANGE | KEEP_SIZE)`.
    ZeroRange {
        offset: u64,
        len: u64,
    },
    /// `posix_fadvise(POSIX_FADV_WILLNEED)`.
    WillNeed {
        offset: u64,
        len: u32,
    },
    Recv {
        run: Run,
    },
    Send {
        run: Run,
        attempt: Attempt,
    },
    /// The parts of a send slot, without the first `skip` bytes.
    SendMany {
        slot: u32,
        skip: u64,
        attempt: Attempt,
    },
    Poll {
        interest: Interest,
    },
    Timer {
        at: Timestamp,
    },
}

/// What a call works on.
pub(crate) struct Surroundings<'a> {
    pub(crate) arena: &'a mut Arena,
    pub(crate) files: &'a Files,
    pub(crate) sends: &'a Sends,
    pub(crate) counters: &'a mut Counters,
    /// The memory of a merged op, part by part.
    pub(crate) runs: &'a [Run],
}

/// What became of a call that was handed to an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Issued {
    /// A result will come.
    Taken,
    /// Likewise; and if all goes well the result comes for certain right after the next enter.
    Quiet,
    /// Not now.
    NoRoom,
}

/// A result: bytes or a negative error number, as in a completion queue entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) key: Key,
    pub(crate) result: i32,
}

/// The result of a quiet send that went through. No count of bytes and no error number is that small.
pub(crate) const ALL_SENT: i32 = i32::MIN;

/// The result of a cancel that found its op before it had begun; the op's own result follows.
pub(crate) const UNBEGUN: i32 = i32::MIN + 1;

/// How long to stay in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Not at all.
    No,
    /// Until there is a result.
    Forever,
    /// Likewise, but no longer than this.
    AtMost(Duration),
}

/// An engine.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one per queue, and it is never moved")]
pub(crate) enum Engine {
    Ring(Ring),
    Sync(SyncEngine),
    #[cfg(feature = "test-utils")]
    Sim(crate::sim::SimEngine),
}

/// Calls `$method` on whichever engine it is.
macro_rules! each {
    ($self:ident, $engine:ident => $call:expr) => {
        match $self {
            Engine::Ring($engine) => $call,
            Engine::Sync($engine) => $call,
            #[cfg(feature = "test-utils")]
            Engine::Sim($engine) => $call,
        }
    };
}

impl Engine {
    /// Hands a call over.
    #[inline]
    pub(crate) fn issue(&mut self, key: Key, file: Option<FileIndex>, call: Call, on: &mut Surroundings<'_>) -> Issued {
        each!(self, engine => engine.issue(key, file, call, on))
    }

    /// Hands a driver's command over. False: not now.
    #[inline]
    pub(crate) fn command(&mut self, key: Key, place: &Place, command: RawCommand, files: &Files) -> bool {
        match self {
            Self::Ring(ring) => ring.command(key, place, command, files),
            _ => unreachable!("other engines have no commands"),
        }
    }

    /// Ends a call early, if it can be: sockets, polls, timers, and what the kernel has not begun. False: no room to say so now.
    pub(crate) fn cancel(&mut self, key: Key) -> bool {
        each!(self, engine => engine.cancel(key))
    }

    /// Lets the kernel see what was issued, and waits.
    pub(crate) fn enter(&mut self, wait: Wait, on: &mut Surroundings<'_>) -> Result<(), Error> {
        each!(self, engine => engine.enter(wait, on))
    }

    /// Lets waits end at `at`, once, if nothing does before. The ring has a timer for that, so that enters cost the same as ever;
    /// in the simulation the wait itself is cut (true). Blocking calls cannot be looked at while they last.
    pub(crate) fn set_alarm(&mut self, at: Timestamp, wait: Wait) -> (Wait, bool) {
        match self {
            Self::Ring(ring) => ring.set_alarm(at),
            Self::Sync(_) => {}
            #[cfg(feature = "test-utils")]
            Self::Sim(sim) => return wait.until(at, sim.now()),
        }
        (wait, false)
    }

    /// The next result, if there is one.
    #[inline]
    pub(crate) fn next_outcome(&mut self, counters: &mut Counters) -> Option<Outcome> {
        each!(self, engine => engine.next_outcome(counters))
    }

    /// Gets to know a file: under its index, and by what it is.
    pub(crate) fn register_file(&mut self, files: &mut Files, index: FileIndex) {
        if let Self::Ring(ring) = self {
            let file = &mut files[index];
            file.registered = ring.register_file(index, file.raw_fd());
            file.plain = ring.features().contains(Features::PLAIN_MEMORY_FILES) && lies_in_memory(file);
        }
    }

    /// The reverse.
    pub(crate) fn unregister_file(&mut self, index: FileIndex) {
        if let Self::Ring(ring) = self {
            ring.register_file(index, -1);
        }
    }

    /// Does it run files of the simulation (or else real ones)?
    pub(crate) fn is_simulated(&self) -> bool {
        #[cfg(feature = "test-utils")]
        return matches!(self, Self::Sim(_));
        #[cfg(not(feature = "test-utils"))]
        false
    }

    /// The size behind which a write makes the file grow; `None` for what never grows.
    pub(crate) fn growing_from(&self, files: &Files, index: FileIndex) -> Option<u64> {
        #[cfg(feature = "test-utils")]
        if let Self::Sim(sim) = self {
            return sim.growing_from(files[index].simulated()?);
        }
        let stat = fstat(files[index].fd()?).ok()?;
        let is_regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        is_regular.then(|| u64::try_from(stat.st_size).unwrap_or(0))
    }

    /// The time.
    pub(crate) fn now(&self) -> Timestamp {
        match self {
            #[cfg(feature = "test-utils")]
            Self::Sim(sim) => sim.now(),
            _ => clock(),
        }
    }

    /// The time, a timer tick behind at most, and cheap to have.
    pub(crate) fn coarse_now(&self) -> Timestamp {
        match self {
            #[cfg(feature = "test-utils")]
            Self::Sim(sim) => sim.now(),
            _ => read_clock(ClockId::MonotonicCoarse),
        }
    }
}

/// Is it a regular file on tmpfs? (Device nodes lie on one, too, but what they stand for does not.)
fn lies_in_memory(file: &File) -> bool {
    let Some(fd) = file.fd() else { return false };
    let is_regular = fstat(fd).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
    is_regular && fstatfs(fd).is_ok_and(|system| system.f_type == libc::TMPFS_MAGIC)
}

impl Wait {
    /// No longer than until `at`; true if that makes it shorter.
    #[cfg(feature = "test-utils")]
    fn until(self, at: Timestamp, now: Timestamp) -> (Self, bool) {
        let most = at.since(now);
        match self {
            Self::Forever => (Self::AtMost(most), true),
            Self::AtMost(time) if most < time => (Self::AtMost(most), true),
            Self::AtMost(_) | Self::No => (self, false),
        }
    }
}

/// `CLOCK_MONOTONIC`.
pub(crate) fn clock() -> Timestamp {
    read_clock(ClockId::Monotonic)
}

fn read_clock(id: ClockId) -> Timestamp {
    let now = clock_gettime(id);
    let seconds = u64::try_from(now.tv_sec).expect("the monotonic clock starts at 0");
    let nanos = u64::try_from(now.tv_nsec).expect("below a second");
    Timestamp::from_nanos(seconds * 1_000_000_000 + nanos)
}
