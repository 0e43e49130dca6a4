//! The synchronous engine: the same calls, by blocking system calls, one after the other.
//!
//! Disk calls run when they are issued. Socket calls are tried without waiting; those that are not ready, polls and
//! timers wait together in one `poll(2)`. It serves machines without io_uring, and as the oracle of the io_uring engine.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::num::NonZeroU64;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Advice, FallocateFlags, fadvise, fallocate, fdatasync};
use rustix::io::{Errno, ReadWriteFlags, pread, pwrite, pwritev2};
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, send, sendmsg};

use crate::buf::Arena;
use crate::config::Config;
use crate::counters::Counters;
use crate::engine::{Call, Issued, Outcome, Surroundings, Wait, clock};
use crate::files::{File, FileIndex, Files};
use crate::inflight::Key;
use crate::net::{MAX_SEND_PARTS, Sends};
use crate::ring::Vectors;
use crate::{Error, ErrorKind};

/// A call that waits for something to be ready.
#[derive(Clone, Copy, Debug)]
struct Pending {
    key: Key,
    file: Option<FileIndex>,
    call: Call,
}

/// The engine.
#[derive(Debug)]
pub(crate) struct SyncEngine {
    results: VecDeque<Outcome>,
    pending: Vec<Pending>,
    /// Allocation for the list that `poll` wants, empty between calls.
    polled: Vec<PollFd<'static>>,
    vectors: Vectors,
}

impl SyncEngine {
    /// Room for all ops that may be outstanding.
    pub(crate) fn new(config: &Config) -> Self {
        let net_ops = config.net_ops as usize;
        Self {
            results: VecDeque::with_capacity(config.max_ops as usize + net_ops),
            pending: Vec::with_capacity(net_ops + config.held_max() as usize),
            polled: Vec::with_capacity(net_ops),
            vectors: Vectors::new(0, config.plan.max_segments),
        }
    }

    pub(crate) fn issue(&mut self, key: Key, file: Option<FileIndex>, call: Call, on: &mut Surroundings<'_>) -> Issued {
        let result = match call {
            Call::ReadMany { .. } | Call::WriteMany { .. } => Some(self.many(file, call, on)),
            _ => attempt(file, call, on),
        };
        match result {
            Some(result) => self.end(key, result),
            None => self.pending.push(Pending { key, file, call }),
        }
        Issued::Taken
    }

    pub(crate) fn cancel(&mut self, key: Key) -> bool {
        if let Some(at) = self.pending.iter().position(|pending| pending.key == key) {
            self.pending.remove(at);
            self.end(key, Err(Errno::CANCELED));
        }
        true
    }

    pub(crate) fn enter(&mut self, wait: Wait, on: &mut Surroundings<'_>) -> Result<(), Error> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let wait = if self.results.is_empty() { wait } else { Wait::No };
        on.counters.enters += 1;
        self.poll(wait, on.files)?;
        let mut at = 0;
        while at < self.pending.len() {
            let Pending { key, file, call } = self.pending[at];
            match attempt(file, call, on) {
                Some(result) => {
                    self.pending.remove(at);
                    self.end(key, result);
                }
                None => at += 1,
            }
        }
        Ok(())
    }

    pub(crate) fn next_outcome(&mut self, counters: &mut Counters) -> Option<Outcome> {
        let outcome = self.results.pop_front()?;
        counters.cqes += 1;
        Some(outcome)
    }

    fn many(&mut self, file: Option<FileIndex>, call: Call, on: &mut Surroundings<'_>) -> Result<usize, Errno> {
        on.counters.sqes += 1;
        let fd = file.map(|index| on.files[index].raw_fd()).ok_or(Errno::BADF)?;
        let result = self.vectors.call(fd, call, on.runs, on.arena);
        usize::try_from(result).map_err(|_| Errno::from_raw_os_error(-result))
    }

    fn end(&mut self, key: Key, result: Result<usize, Errno>) {
        let result = match result {
            Ok(n) => i32::try_from(n).expect("the kernel moves less than 2 GiB at a time"),
            Err(errno) => -errno.raw_os_error(),
        };
        self.results.push_back(Outcome { key, result });
    }

    /// Waits until something is ready or the first timer fires.
    fn poll(&mut self, wait: Wait, files: &Files) -> Result<(), Error> {
        let timeout = self.timeout(wait);
        let mut fds = reuse(std::mem::take(&mut self.polled));
        for pending in &self.pending {
            if let Some(fd) = pending.file.and_then(|index| files[index].fd()) {
                fds.push(PollFd::from_borrowed_fd(fd, flags(pending.call)));
            }
        }
        let polled = poll(&mut fds, timeout.as_ref());
        self.polled = reuse(fds);
        match polled {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(Error::new(ErrorKind::Os, "poll", errno)),
        }
    }

    fn timeout(&self, wait: Wait) -> Option<Timespec> {
        let timers = self.pending.iter().filter_map(|pending| match pending.call {
            Call::Timer { at } => Some(at),
            _ => None,
        });
        let first = timers.min().map(|at| at.since(clock()));
        let most = match wait {
            Wait::No => Some(Duration::ZERO),
            Wait::Forever => None,
            Wait::AtMost(time) => Some(time),
        };
        let time = first.into_iter().chain(most).min()?;
        Some(Timespec::try_from(time).expect("timers lie within 584 years"))
    }
}

/// An empty list of another lifetime, on the same allocation: collecting a vector's own iterator works in place.
fn reuse<'b>(mut list: Vec<PollFd<'_>>) -> Vec<PollFd<'b>> {
    list.clear();
    list.into_iter().map_while(|_| None).collect()
}

/// What to wait for.
fn flags(call: Call) -> PollFlags {
    match call {
        Call::Send { .. } | Call::SendMany { .. } => PollFlags::OUT,
        Call::Poll { interest } => PollFlags::from_bits_truncate(interest.bits()),
        _ => PollFlags::IN,
    }
}

/// Makes a call; `None`: it is not ready.
fn attempt(file: Option<FileIndex>, call: Call, on: &mut Surroundings<'_>) -> Option<Result<usize, Errno>> {
    if let Call::Timer { at } = call {
        return (clock() >= at).then_some(Err(Errno::TIME));
    }
    on.counters.sqes += 1;
    let file = file.map(|index| &on.files[index]);
    let Some(fd) = file.and_then(File::fd) else {
        return Some(Err(Errno::BADF));
    };
    match call {
        Call::Recv { .. } | Call::Send { .. } | Call::SendMany { .. } => {
            let result = socket(fd, call, on.arena, on.sends);
            (result != Err(Errno::AGAIN)).then_some(result)
        }
        Call::Poll { interest } => poll_once(fd, PollFlags::from_bits_truncate(interest.bits())),
        _ => Some(disk(fd, call, on.arena)),
    }
}

fn disk(fd: BorrowedFd<'_>, call: Call, arena: &mut Arena) -> Result<usize, Errno> {
    match call {
        Call::Read { offset, run } => pread(fd, arena.run_mut(run), offset),
        Call::Write {
            offset,
            run,
            durable: false,
        } => pwrite(fd, arena.run(run), offset),
        Call::Write {
            offset,
            run,
            durable: true,
        } => pwritev2(fd, &[IoSlice::new(arena.run(run))], offset, ReadWriteFlags::DSYNC),
        Call::Sync => fdatasync(fd).map(|()| 0),
        Call::Punch { offset, len } => allocate(fd, FallocateFlags::PUNCH_HOLE, offset, len),
        Call::ZeroRange { offset, len } => allocate(fd, FallocateFlags::ZERO_RANGE, offset, len),
        Call::WillNeed { offset, len } => {
            fadvise(fd, offset, NonZeroU64::new(len.into()), Advice::WillNeed).map(|()| 0)
        }
        _ => Err(Errno::INVAL),
    }
}

fn allocate(fd: BorrowedFd<'_>, how: FallocateFlags, offset: u64, len: u64) -> Result<usize, Errno> {
    fallocate(fd, how | FallocateFlags::KEEP_SIZE, offset, len).map(|()| 0)
}

fn socket(fd: BorrowedFd<'_>, call: Call, arena: &mut Arena, sends: &Sends) -> Result<usize, Errno> {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    match call {
        Call::Recv { run } => recv(fd, arena.run_mut(run), RecvFlags::DONTWAIT).map(|(n, _)| n),
        Call::Send { run, .. } => send(fd, arena.run(run), flags),
        Call::SendMany { slot, skip, .. } => {
            let mut parts = [IoSlice::new(&[]); MAX_SEND_PARTS];
            let mut count = 0;
            for run in sends.left(slot, skip) {
                parts[count] = IoSlice::new(arena.run(run));
                count += 1;
            }
            sendmsg(fd, &parts[..count], &mut SendAncillaryBuffer::default(), flags)
        }
        _ => Err(Errno::INVAL),
    }
}

fn poll_once(fd: BorrowedFd<'_>, flags: PollFlags) -> Option<Result<usize, Errno>> {
    let mut fds = [PollFd::from_borrowed_fd(fd, flags)];
    match poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
        Ok(0) | Err(Errno::INTR) => None,
        Ok(_) => Some(Ok(usize::from(fds[0].revents().bits()))),
        Err(errno) => Some(Err(errno)),
    }
}
