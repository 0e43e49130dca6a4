//! What frontends need besides disk ops, on the same ring: sockets, polls, timers.

use iomgr_core::{Data, FileSlot, Timestamp, Token};

use crate::buf::{Access, Arena, Held};
use crate::inflight::{Attempt, Work};
use crate::run::Run;
use crate::{Errno, Queue};

/// Parts that one send may gather.
pub const MAX_SEND_PARTS: usize = 128;

bitflags::bitflags! {
    /// What a poll waits for.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Interest: u16 {
        /// Something to read, or the end (`POLLIN`).
        const READ = 1;
        /// Room to write (`POLLOUT`).
        const WRITE = 4;
    }
}

/// The queue has no room for another socket, poll or timer op now. Nothing happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetFull;

impl std::fmt::Display for NetFull {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the queue has no room for another network operation")
    }
}

impl std::error::Error for NetFull {}

/// Socket, poll and timer ops. All complete exactly once; [`OpQueue::cancel`](iomgr_core::OpQueue::cancel) ends them early.
///
/// Memory and files that do not exist end the op alone, with `EINVAL` and `EBADF`.
impl Queue {
    /// Receives up to `data.len` bytes: `Ok(n)`; 0 says that the peer closed its side.
    pub fn recv(&mut self, socket: FileSlot, data: Data, token: Token) -> Result<(), NetFull> {
        self.net_room()?;
        let Some((run, held)) = self.arena.hold(data, Access::Fills).filter(|(run, _)| run.len() > 0) else {
            return self.refuse_net(token, Errno::INVAL);
        };
        self.push_net(token, Work::Recv { run }, Some(socket), held)
    }

    /// Sends all of `parts`, in order: `Ok(total)`. Have one send at a time on a socket: two would mix their bytes.
    ///
    /// It is tried at once when the queue is submitted. If it goes through, its completion comes together with the next
    /// one of another op, as nothing then happens on this connection until the peer speaks; see
    /// [`submit_and_wait`](Self::submit_and_wait) for when that is not good enough.
    pub fn send(&mut self, socket: FileSlot, parts: &[Data], token: Token) -> Result<(), NetFull> {
        self.net_room()?;
        match *parts {
            [part] => match self.arena.hold(part, Access::Reads).filter(|(run, _)| run.len() > 0) {
                Some((run, held)) => self.push_net(token, Work::Send { run }, Some(socket), held),
                None => self.refuse_net(token, Errno::INVAL),
            },
            _ => match self.sends.hold(parts, &mut self.arena) {
                Ok(slot) => self.push_net(token, Work::SendMany { slot }, Some(socket), None),
                Err(SendRefused::Full) => Err(NetFull),
                Err(SendRefused::Invalid) => self.refuse_net(token, Errno::INVAL),
            },
        }
    }

    /// Waits once until `file` is ready: `Ok(revents)`, in the bits of `poll(2)`.
    pub fn poll_fd(&mut self, file: FileSlot, interest: Interest, token: Token) -> Result<(), NetFull> {
        self.net_room()?;
        self.push_net(token, Work::Poll { interest }, Some(file), None)
    }

    /// Waits until `at`, on the clock of [`now`](Self::now): `Ok(0)`.
    pub fn timer(&mut self, at: Timestamp, token: Token) -> Result<(), NetFull> {
        self.net_room()?;
        self.push_net(token, Work::Timer { at }, None, None)
    }

    pub(crate) fn push_net(
        &mut self,
        token: Token,
        work: Work,
        file: Option<FileSlot>,
        held: Option<Held>,
    ) -> Result<(), NetFull> {
        let taken = file.map(|slot| self.files.take(slot));
        if taken == Some(None) {
            held.into_iter().for_each(|held| self.arena.release(held));
            if let Work::SendMany { slot } = work {
                self.sends.release(slot, &mut self.arena);
            }
            return self.refuse_net(token, Errno::BADF);
        }
        let file = taken.flatten();
        if let (Work::Recv { .. } | Work::Poll { .. }, Some(file)) = (work, file) {
            self.files[file].listens += 1;
        }
        self.counters.pushed += 1;
        self.load.net += 1;
        let key = self.ops.insert(token, work, file, held);
        if matches!(work, Work::Send { .. } | Work::SendMany { .. }) {
            self.ops.at(key).attempt = Attempt::NoWait;
        }
        self.net.push_back(key);
        Ok(())
    }
}

/// The parts of sends that have more than one.
#[derive(Debug)]
pub(crate) struct Sends {
    slots: Box<[Parts]>,
    vacant: Vec<u32>,
}

/// One send's parts.
#[derive(Debug)]
struct Parts {
    runs: [Run; MAX_SEND_PARTS],
    held: [Option<Held>; MAX_SEND_PARTS],
    count: usize,
}

/// Why a send was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SendRefused {
    Full,
    Invalid,
}

impl Sends {
    pub(crate) fn new(count: u32) -> Self {
        let empty = || Parts {
            runs: [Run::EMPTY; MAX_SEND_PARTS],
            held: [None; MAX_SEND_PARTS],
            count: 0,
        };
        Self {
            slots: (0..count).map(|_| empty()).collect(),
            vacant: (0..count).rev().collect(),
        }
    }

    /// Checks and holds all parts, or none.
    pub(crate) fn hold(&mut self, parts: &[Data], arena: &mut Arena) -> Result<u32, SendRefused> {
        if parts.len() > MAX_SEND_PARTS || parts.iter().all(|part| part.len == 0) {
            return Err(SendRefused::Invalid);
        }
        if parts.iter().map(|part| u64::from(part.len)).sum::<u64>() > i32::MAX as u64 {
            return Err(SendRefused::Invalid);
        }
        let slot = self.vacant.pop().ok_or(SendRefused::Full)?;
        let entry = &mut self.slots[slot as usize];
        entry.count = 0;
        for &part in parts {
            let Some((run, held)) = arena.hold(part, Access::Reads) else {
                self.release(slot, arena);
                return Err(SendRefused::Invalid);
            };
            entry.runs[entry.count] = run;
            entry.held[entry.count] = held;
            entry.count += 1;
        }
        Ok(slot)
    }

    /// Lets go of all parts.
    pub(crate) fn release(&mut self, slot: u32, arena: &mut Arena) {
        let entry = &mut self.slots[slot as usize];
        let held = entry.held[..entry.count].iter_mut();
        held.filter_map(Option::take).for_each(|held| arena.release(held));
        entry.count = 0;
        self.vacant.push(slot);
    }

    /// The parts that are left after the first `skip` bytes; empty ones are left out.
    pub(crate) fn left(&self, slot: u32, skip: u64) -> impl Iterator<Item = Run> {
        let entry = &self.slots[slot as usize];
        let mut skip = skip;
        entry.runs[..entry.count].iter().filter_map(move |run| {
            let cut = skip.min(u64::from(run.len()));
            skip -= cut;
            let left = run.skip(u32::try_from(cut).expect("no more than a u32 length"));
            (left.len() > 0).then_some(left)
        })
    }

    /// Bytes of all parts.
    pub(crate) fn total(&self, slot: u32) -> u64 {
        let entry = &self.slots[slot as usize];
        entry.runs[..entry.count].iter().map(|run| u64::from(run.len())).sum()
    }
}
