//! The requests that an intake knows, from push to free: one bounded queue per class, and a table of them all.
//!
//! Order of service: flushes first, for a flush covers what was completed before it and must not wait behind writes that
//! nobody has acknowledged; then reads and writes in the order of their arrival, whichever head is older, so that
//! neither starves the other. Within a class first come is first served.
//!
//! Queues, grants and tickets name table entries by index; an entry is written once, when the request comes in.

use std::collections::VecDeque;

use super::Head;
use crate::{Class, Tag, Timestamp};

/// At most `depth` requests per class wait or are granted, and at most `depth` times this many are known in all.
const SHARES: usize = Class::ALL.len() + 1;

/// Allocates when made, only.
#[derive(Debug)]
pub(super) struct Requests {
    entries: Vec<Entry>,
    vacant: Vec<u32>,
    classes: [Line; Class::ALL.len()],
    /// How many wait, over all classes.
    waiting: usize,
    depth: usize,
    next_place: u64,
}

/// The queue of one class.
#[derive(Debug)]
struct Line {
    waiting: VecDeque<u32>,
    /// Out with a grant: they may come back, so their room is kept.
    granted: usize,
}

/// A known request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) head: Head,
    pub(super) tag: Tag,
    /// The generation that granted it, in the intake's table.
    pub(super) slot: u32,
    /// Since when it could have been granted.
    pub(super) since: Timestamp,
    /// Counts pushes, so that one that comes back finds its place.
    place: u64,
}

impl Requests {
    pub(super) fn new(depth: u32) -> Self {
        let depth = depth as usize;
        let capacity = u32::try_from(depth * SHARES).expect("a frontend's depth is far below 2^30");
        let line = || Line {
            waiting: VecDeque::with_capacity(depth),
            granted: 0,
        };
        Self {
            entries: Vec::with_capacity(depth * SHARES),
            vacant: (0..capacity).rev().collect(),
            classes: [line(), line(), line()],
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
        if line.waiting.len() + line.granted >= self.depth {
            return Err(tag);
        }
        let index = self.vacant.pop().ok_or(tag)?;
        line.waiting.push_back(index);
        self.waiting += 1;
        let entry = Entry {
            head,
            tag,
            slot: 0,
            // It may have been received long ago, and have waited for memory since.
            since: head.arrival.max(now),
            place: self.next_place,
        };
        self.next_place += 1;
        match self.entries.get_mut(index as usize) {
            Some(old) => *old = entry,
            // Indexes are given out from 0 up, each for the first time when it is the next.
            None => self.entries.push(entry),
        }
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
        self.classes[class.index()]
            .waiting
            .front()
            .map(|index| self.entry(*index))
    }

    /// Takes the head of a class out with a grant by the generation in `slot`; says its index.
    #[inline]
    pub(super) fn grant(&mut self, class: Class, slot: u32) -> Option<(u32, &Entry)> {
        let line = &mut self.classes[class.index()];
        let index = line.waiting.pop_front()?;
        line.granted += 1;
        self.waiting -= 1;
        let entry = &mut self.entries[index as usize];
        entry.slot = slot;
        Some((index, entry))
    }

    /// A granted request started.
    #[inline]
    pub(super) fn started(&mut self, index: u32) -> &Entry {
        let entry = &self.entries[index as usize];
        self.classes[entry.head.class.index()].granted -= 1;
        entry
    }

    /// A granted request comes back, before everything that was pushed after it.
    pub(super) fn put_back(&mut self, index: u32) {
        let Entry { head, place, .. } = *self.entry(index);
        let line = &mut self.classes[head.class.index()];
        let before = line
            .waiting
            .iter()
            .take_while(|other| self.entries[**other as usize].place < place)
            .count();
        line.waiting.insert(before, index);
        line.granted -= 1;
        self.waiting += 1;
    }

    /// A started request ended: its entry may be used again.
    #[inline]
    pub(super) fn forget(&mut self, index: u32) {
        self.vacant.push(index);
    }

    /// How many wait.
    #[inline]
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Takes the next one that waits out, for good.
    pub(super) fn take_any(&mut self) -> Option<Tag> {
        let class = self.first_class()?;
        let index = self.classes[class.index()].waiting.pop_front()?;
        self.waiting -= 1;
        self.forget(index);
        Some(self.entry(index).tag)
    }
}

impl Entry {
    /// Did it arrive before `other`? Of two of the same instant, the one that was pushed first did.
    fn is_before(&self, other: &Self) -> bool {
        (self.head.arrival, self.place) < (other.head.arrival, other.place)
    }
}
