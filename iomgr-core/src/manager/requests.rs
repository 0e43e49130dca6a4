//! The requests that an intake knows, from push to free: one bounded queue per class, and a table of them all.
//!
//! Order of service: flushes first, for a flush covers what was completed before it and must not wait behind writes that
//! nobody has acknowledged; then reads and writes in the order of their arrival, whichever head is older, so that
//! neither starves the other. Within a class first come is first served.
//!
//! Queues, grants and tickets name table entries by index. A queue is a list through the entries of those that wait, so
//! a request's way through the hooks touches one cache line of this table.

use super::Head;
use crate::{Class, Operation, SectorRange, Tag, Timestamp};

/// At most `depth` requests per class wait or are granted, and at most `depth` times this many are known in all.
const SHARES: usize = Class::ALL.len() + 1;

/// No entry.
const NIL: u32 = u32::MAX;

/// Allocates when made, only.
#[derive(Debug)]
pub(super) struct Requests {
    entries: Box<[Entry]>,
    /// The list of entries that nobody uses.
    vacant: u32,
    classes: [Line; Class::ALL.len()],
    /// How many wait, over all classes.
    waiting: usize,
    depth: u32,
    next_place: u64,
}

/// The queue of one class.
#[derive(Clone, Copy, Debug)]
struct Line {
    first: u32,
    /// Means nothing while there is no first.
    last: u32,
    /// Those that wait, and those that are out with a grant: they may come back, so their room is kept.
    taken: u32,
}

/// A known request: a cache line.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub(super) struct Entry {
    pub(super) head: Head,
    pub(super) tag: Tag,
    /// The generation that granted it, in the intake's table.
    pub(super) slot: u32,
    /// Since when it could have been granted.
    pub(super) since: Timestamp,
    /// Counts pushes, so that one that comes back finds its place.
    place: u64,
    /// The one behind it in its list.
    next: u32,
}

impl Requests {
    pub(super) fn new(depth: u32) -> Self {
        let len = u32::try_from(depth as usize * SHARES).expect("a frontend's depth is far below 2^30");
        let vacant = |index| Entry {
            head: Head::new(Operation::Flush, SectorRange::default(), Timestamp::ZERO),
            tag: Tag(0),
            slot: 0,
            since: Timestamp::ZERO,
            place: 0,
            next: if index + 1 < len { index + 1 } else { NIL },
        };
        let line = Line {
            first: NIL,
            last: NIL,
            taken: 0,
        };
        Self {
            entries: (0..len).map(vacant).collect(),
            vacant: if len > 0 { 0 } else { NIL },
            classes: [line; Class::ALL.len()],
            waiting: 0,
            depth,
            next_place: 0,
        }
    }

    /// Queues a request behind its class; hands it back when the class is full, or the table. `now` is that of the pass,
    /// or of the one before if the frontend receives before it begins one.
    #[inline]
    pub(super) fn push(&mut self, head: Head, tag: Tag, now: Timestamp) -> Result<(), Tag> {
        let line = &mut self.classes[head.class.index()];
        let index = self.vacant;
        if line.taken >= self.depth || index == NIL {
            return Err(tag);
        }
        line.taken += 1;
        let last = line.last;
        line.last = index;
        if line.first == NIL {
            line.first = index;
        } else {
            self.entries[last as usize].next = index;
        }
        self.waiting += 1;
        let entry = &mut self.entries[index as usize];
        self.vacant = entry.next;
        *entry = Entry {
            head,
            tag,
            slot: 0,
            // It may have been received long ago, and have waited for memory since.
            since: head.arrival.max(now),
            place: self.next_place,
            next: NIL,
        };
        self.next_place += 1;
        Ok(())
    }

    /// The request of this index.
    #[inline]
    pub(super) fn entry(&self, index: u32) -> &Entry {
        &self.entries[index as usize]
    }

    /// The class that is served next, if nothing is held.
    #[inline]
    pub(super) fn first_class(&self) -> Option<Class> {
        if self.head(Class::Other).is_some() {
            return Some(Class::Other);
        }
        match (self.head(Class::Read), self.head(Class::Write)) {
            (Some(read), Some(write)) if write.is_before(read) => Some(Class::Write),
            (Some(_), _) => Some(Class::Read),
            (None, Some(_)) => Some(Class::Write),
            (None, None) => None,
        }
    }

    /// All classes, in the order in which their heads want to be served.
    pub(super) fn order(&self) -> [Class; 3] {
        match (self.head(Class::Read), self.head(Class::Write)) {
            (Some(read), Some(write)) if write.is_before(read) => [Class::Other, Class::Write, Class::Read],
            _ => [Class::Other, Class::Read, Class::Write],
        }
    }

    /// The request of a class that is served next.
    #[inline]
    pub(super) fn head(&self, class: Class) -> Option<&Entry> {
        match self.classes[class.index()].first {
            NIL => None,
            first => Some(self.entry(first)),
        }
    }

    /// Takes the head of a class out with a grant by the generation in `slot`; says its index.
    #[inline]
    pub(super) fn grant(&mut self, class: Class, slot: u32) -> Option<(u32, &Entry)> {
        let index = self.pop(class)?;
        let entry = &mut self.entries[index as usize];
        entry.slot = slot;
        Some((index, entry))
    }

    /// A granted request started.
    #[inline]
    pub(super) fn started(&mut self, index: u32) -> &Entry {
        let entry = &self.entries[index as usize];
        self.classes[entry.head.class.index()].taken -= 1;
        entry
    }

    /// A granted request comes back, before everything that was pushed after it.
    pub(super) fn put_back(&mut self, index: u32) {
        let Entry { head, place, .. } = *self.entry(index);
        let line = self.classes[head.class.index()];
        let (mut before, mut after) = (NIL, line.first);
        while after != NIL && self.entry(after).place < place {
            (before, after) = (after, self.entry(after).next);
        }
        self.entries[index as usize].next = after;
        match before {
            NIL => self.classes[head.class.index()].first = index,
            before => self.entries[before as usize].next = index,
        }
        if after == NIL {
            self.classes[head.class.index()].last = index;
        }
        self.waiting += 1;
    }

    /// A started request ended: its entry may be used again.
    #[inline]
    pub(super) fn forget(&mut self, index: u32) {
        self.entries[index as usize].next = self.vacant;
        self.vacant = index;
    }

    /// How many wait.
    #[inline]
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Takes the next one that waits out, for good.
    pub(super) fn take_any(&mut self) -> Option<Tag> {
        let class = self.first_class()?;
        let index = self.pop(class)?;
        self.classes[class.index()].taken -= 1;
        self.forget(index);
        Some(self.entry(index).tag)
    }

    /// Takes the head of a class out of its queue.
    #[inline]
    fn pop(&mut self, class: Class) -> Option<u32> {
        let line = &mut self.classes[class.index()];
        let index = line.first;
        if index == NIL {
            return None;
        }
        line.first = self.entries[index as usize].next;
        self.waiting -= 1;
        Some(index)
    }
}

impl Entry {
    /// Did it arrive before `other`? Of two of the same instant, the one that was pushed first did.
    fn is_before(&self, other: &Self) -> bool {
        (self.head.arrival, self.place) < (other.head.arrival, other.place)
    }
}
