//! The ops that are not done: a slab, indexed by what the ring carries as `user_data`.
//!
//! ```text
//!            push               issue                 result
//!  vacant ─────────► Queued ─────────────► Issued ─────────────► vacant (completion is queued for delivery)
//!                      ▲                      │
//!                      └──────────────────────┘  short transfer, EINTR, another way to do it
//! ```
//!
//! Ops that were merged are issued together, under the key of the first one; each of them is Issued.
//!
//! An entry holds its buffer and its file from push to the terminal result; nothing of it moves or grows meanwhile.

use iomgr_core::{Errno, Timestamp, Token};

use crate::buf::Held;
use crate::files::FileIndex;
use crate::net::Interest;
use crate::run::Run;

/// In the index of a key that names a [command](crate::raw): no slab is that large.
const COMMAND: u32 = 1 << 30;

/// The name of an issue of an op in an engine: index of the entry, and which of its users it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

impl Key {
    /// As the ring carries it. All ones is never a key: the slab is smaller.
    pub(crate) fn to_bits(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// The name of a driver's command, which is no op: by its place among them.
    pub(crate) const fn of_command(place: u32) -> Self {
        Self {
            index: place | COMMAND,
            generation: 0,
        }
    }

    /// The place of the command, if it is one.
    pub(crate) fn command(self) -> Option<u32> {
        (self.index & COMMAND != 0).then_some(self.index & !COMMAND)
    }

    #[allow(clippy::cast_possible_truncation, reason = "the halves are taken apart")]
    pub(crate) fn from_bits(bits: u64) -> Self {
        Self {
            index: bits as u32,
            generation: (bits >> 32) as u32,
        }
    }
}

/// What is left to do of an op.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    Read {
        offset: u64,
        run: Run,
    },
    Write {
        offset: u64,
        run: Run,
        durable: bool,
    },
    Flush,
    Discard {
        offset: u64,
        len: u64,
    },
    Zero {
        offset: u64,
        len: u64,
        unmap: bool,
        fast: bool,
    },
    Prefetch {
        offset: u64,
        len: u64,
    },
    Recv {
        run: Run,
    },
    Send {
        run: Run,
    },
    /// Parts in a slot of the send table.
    SendMany {
        slot: u32,
    },
    Poll {
        interest: Interest,
    },
    Timer {
        at: Timestamp,
    },
}

impl Work {
    /// The memory that a disk op is about.
    pub(crate) fn run(self) -> Option<Run> {
        match self {
            Self::Read { run, .. } | Self::Write { run, .. } => Some(run),
            _ => None,
        }
    }

    /// The memory that it fills.
    pub(crate) fn filled(self) -> Option<Run> {
        match self {
            Self::Read { run, .. } | Self::Recv { run } => Some(run),
            _ => None,
        }
    }

    /// Is it for the disk, and so planned and counted into the queue's size?
    pub(crate) fn is_disk(self) -> bool {
        matches!(
            self,
            Self::Read { .. }
                | Self::Write { .. }
                | Self::Flush
                | Self::Discard { .. }
                | Self::Zero { .. }
                | Self::Prefetch { .. }
        )
    }
}

/// Where an op is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Vacant,
    Queued,
    Issued,
}

/// How a socket op is tried next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attempt {
    /// At once or not at all.
    NoWait,
    /// Let the kernel wait.
    Wait,
    /// Wait until the socket is ready, then try again: for sockets that never wait.
    Poll,
}

/// How zeros are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Punch,
    Range,
    Write,
}

/// An error of a merged durable write that has to be reported by one of its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Debt {
    /// The first op of the group: as no part is ever merged again, it names the group.
    pub(crate) first: Key,
    pub(crate) errno: Errno,
}

/// One op.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) token: Token,
    pub(crate) work: Work,
    pub(crate) file: Option<FileIndex>,
    pub(crate) held: Option<Held>,
    /// Bytes moved so far.
    pub(crate) moved: u64,
    pub(crate) stage: Stage,
    pub(crate) attempt: Attempt,
    /// How the zeros under way are written.
    pub(crate) way: Way,
    /// An engine has seen it: it can no longer end as never started.
    pub(crate) seen: bool,
    /// It is issued such that success leaves no completion entry.
    pub(crate) quiet: bool,
    /// Somebody gave it up.
    pub(crate) cancelled: bool,
    /// The kernel found it not begun when it was asked to cancel it.
    pub(crate) unbegun: bool,
    /// The kernel was at it before, and may have done some of it, whatever it said.
    pub(crate) tried: bool,
    /// When it was issued last, on the watch's clock.
    pub(crate) since: Timestamp,
    /// It was reported to be stuck.
    pub(crate) stuck: bool,
    /// Times in a row that the kernel had no resources for it.
    pub(crate) refusals: u8,
    /// Times in a row that it was interrupted.
    pub(crate) interrupts: u8,
    /// It was part of a merged op that failed, and is never merged again.
    pub(crate) alone: bool,
    /// The failed group of durable writes that it was part of, while the error is nobody's.
    pub(crate) debt: Option<Debt>,
    /// The index of the member after it in the merged op that is in the engine; [`NIL`] behind the last.
    pub(crate) next_member: u32,
    generation: u32,
    next: u32,
}

impl Entry {
    const VACANT: Self = Self {
        token: Token::new(iomgr_core::Owner(0), 0),
        work: Work::Flush,
        file: None,
        held: None,
        moved: 0,
        stage: Stage::Vacant,
        attempt: Attempt::Wait,
        way: Way::Punch,
        seen: false,
        quiet: false,
        cancelled: false,
        unbegun: false,
        tried: false,
        since: Timestamp::ZERO,
        stuck: false,
        refusals: 0,
        interrupts: 0,
        alone: false,
        debt: None,
        next_member: NIL,
        generation: 0,
        next: NIL,
    };
}

/// No index.
pub(crate) const NIL: u32 = u32::MAX;

/// All ops of a queue.
#[derive(Debug)]
pub(crate) struct Inflight {
    entries: Box<[Entry]>,
    vacant: u32,
    len: u32,
}

impl Inflight {
    pub(crate) fn new(capacity: u32) -> Self {
        let next = |index| if index + 1 < capacity { index + 1 } else { NIL };
        Self {
            entries: (0..capacity)
                .map(|index| Entry {
                    next: next(index),
                    ..Entry::VACANT
                })
                .collect(),
            vacant: if capacity > 0 { 0 } else { NIL },
            len: 0,
        }
    }

    /// A place for a new op. The caller made sure that there is one.
    pub(crate) fn insert(&mut self, token: Token, work: Work, file: Option<FileIndex>, held: Option<Held>) -> Key {
        let index = self.vacant;
        let entry = &mut self.entries[index as usize];
        assert!(
            entry.stage == Stage::Vacant,
            "a vacant entry is on the list of vacant ones"
        );
        self.vacant = entry.next;
        let generation = entry.generation;
        *entry = Entry {
            token,
            work,
            file,
            held,
            stage: Stage::Queued,
            generation,
            ..Entry::VACANT
        };
        self.len += 1;
        Key { index, generation }
    }

    /// Ends an op; what it held is to be released.
    pub(crate) fn remove(&mut self, key: Key) -> &Entry {
        let entry = &mut self.entries[key.index as usize];
        assert!(
            entry.stage != Stage::Vacant && entry.generation == key.generation,
            "an op ends once"
        );
        entry.stage = Stage::Vacant;
        entry.generation = entry.generation.wrapping_add(1);
        entry.next = self.vacant;
        self.vacant = key.index;
        self.len -= 1;
        entry
    }

    /// The op behind `key`, if it is still there.
    pub(crate) fn get(&mut self, key: Key) -> Option<&mut Entry> {
        self.entries
            .get_mut(key.index as usize)
            .filter(|entry| entry.stage != Stage::Vacant && entry.generation == key.generation)
    }

    /// Likewise, to look at.
    pub(crate) fn find(&self, key: Key) -> Option<&Entry> {
        self.entries
            .get(key.index as usize)
            .filter(|entry| entry.stage != Stage::Vacant && entry.generation == key.generation)
    }

    /// The op behind a key that is known to be good.
    #[inline]
    pub(crate) fn at(&mut self, key: Key) -> &mut Entry {
        let entry = &mut self.entries[key.index as usize];
        debug_assert!(
            entry.stage != Stage::Vacant && entry.generation == key.generation,
            "the op is outstanding"
        );
        entry
    }

    /// Places in the slab.
    pub(crate) fn capacity(&self) -> u32 {
        u32::try_from(self.entries.len()).expect("made from a u32")
    }

    /// The op in a place of the slab, if there is one.
    pub(crate) fn by_index(&mut self, index: u32) -> Option<(Key, &mut Entry)> {
        let entry = &mut self.entries[index as usize];
        let generation = entry.generation;
        (entry.stage != Stage::Vacant).then_some((Key { index, generation }, entry))
    }

    /// The ops that share a debt.
    pub(crate) fn in_debt(&mut self, debt: Debt) -> impl Iterator<Item = &mut Entry> {
        let live = self.entries.iter_mut().filter(|entry| entry.stage != Stage::Vacant);
        live.filter(move |entry| entry.debt == Some(debt))
    }

    /// The keys of all ops that are there, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Key, &Entry)> {
        let live = self
            .entries
            .iter()
            .zip(0u32..)
            .filter(|(entry, _)| entry.stage != Stage::Vacant);
        live.map(|(entry, index)| {
            let generation = entry.generation;
            (Key { index, generation }, entry)
        })
    }

    /// How many ops there are.
    pub(crate) fn len(&self) -> u32 {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use iomgr_core::Owner;

    use super::*;

    #[test]
    fn a_key_outlives_its_op_without_harm() {
        let mut ops = Inflight::new(2);
        let token = Token::new(Owner(1), 2);
        let first = ops.insert(token, Work::Flush, None, None);
        assert_eq!(Key::from_bits(first.to_bits()), first);
        ops.remove(first);
        let second = ops.insert(token, Work::Flush, None, None);
        assert_eq!(second.index, first.index);
        assert!(ops.get(first).is_none() && ops.get(second).is_some());
        assert_eq!((ops.len(), ops.iter().count()), (1, 1));
    }
}
