//! The requests that an intake holds: one bounded queue per class.
//!
//! Order of service: flushes first, for a flush covers what was completed before it and must not wait behind writes that
//! nobody has acknowledged; then reads and writes in the order of their arrival, whichever head is older, so that
//! neither starves the other. Within a class first come is first served.

use std::collections::VecDeque;

use super::Head;
use crate::{Class, Tag};

/// Queues of at most `depth` requests per class, those granted and not yet started included. Allocates when made, only.
#[derive(Debug)]
pub(super) struct Queues {
    classes: [Line; Class::ALL.len()],
    depth: usize,
    next_place: u64,
}

#[derive(Debug)]
struct Line {
    waiting: VecDeque<Entry>,
    /// Out with a grant: they may come back, so their room is kept.
    granted: usize,
}

/// A queued request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) head: Head,
    pub(super) tag: Tag,
    /// Counts pushes, so that one that comes back finds its place.
    pub(super) place: u64,
}

impl Queues {
    pub(super) fn new(depth: usize) -> Self {
        let line = || Line {
            waiting: VecDeque::with_capacity(depth),
            granted: 0,
        };
        Self {
            classes: [line(), line(), line()],
            depth,
            next_place: 0,
        }
    }

    /// Queues a request behind its class; hands it back when the class is full.
    pub(super) fn push(&mut self, head: Head, tag: Tag) -> Result<(), Tag> {
        let line = &mut self.classes[head.class.index()];
        if line.waiting.len() + line.granted >= self.depth {
            return Err(tag);
        }
        line.waiting.push_back(Entry {
            head,
            tag,
            place: self.next_place,
        });
        self.next_place += 1;
        Ok(())
    }

    /// The classes in the order in which their heads want to be served.
    pub(super) fn order(&self) -> [Class; 3] {
        let arrival = |class| self.head(class).map(|entry| (entry.head.arrival, entry.place));
        match (arrival(Class::Read), arrival(Class::Write)) {
            (Some(read), Some(write)) if write < read => [Class::Other, Class::Write, Class::Read],
            _ => [Class::Other, Class::Read, Class::Write],
        }
    }

    /// The request of a class that is served next.
    pub(super) fn head(&self, class: Class) -> Option<&Entry> {
        self.classes[class.index()].waiting.front()
    }

    /// Takes the head of a class out with a grant.
    pub(super) fn grant(&mut self, class: Class) -> Option<Entry> {
        let line = &mut self.classes[class.index()];
        let entry = line.waiting.pop_front()?;
        line.granted += 1;
        Some(entry)
    }

    /// A granted request started.
    pub(super) fn started(&mut self, class: Class) {
        self.classes[class.index()].granted -= 1;
    }

    /// A granted request comes back, before everything that was pushed after it.
    pub(super) fn put_back(&mut self, entry: Entry) {
        let line = &mut self.classes[entry.head.class.index()];
        line.granted -= 1;
        let index = line
            .waiting
            .iter()
            .take_while(|other| other.place < entry.place)
            .count();
        line.waiting.insert(index, entry);
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.classes.iter().map(|line| line.waiting.len()).sum()
    }

    /// Takes any request out, for good.
    pub(super) fn take_any(&mut self) -> Option<Tag> {
        let class = self.order().into_iter().find(|class| self.head(*class).is_some())?;
        self.classes[class.index()].waiting.pop_front().map(|entry| entry.tag)
    }
}
