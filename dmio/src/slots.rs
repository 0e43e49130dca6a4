//! Slots of a fixed number, and lists that are linked through them.

use std::ops::{Index, IndexMut};

const NIL: u32 = u32::MAX;
/// Stands as `prev` of what is in no list.
const NOWHERE: u32 = u32::MAX - 1;

/// Entries that are made once and used again and again.
#[derive(Debug)]
pub(crate) struct Slots<T> {
    entries: Vec<T>,
    free: Vec<u32>,
}

impl<T: Clone> Slots<T> {
    pub(crate) fn new(count: u32, vacant: T) -> Self {
        Self {
            entries: vec![vacant; count as usize],
            free: (0..count).rev().collect(),
        }
    }
}

impl<T> Slots<T> {
    /// How many are free.
    pub(crate) fn free(&self) -> usize {
        self.free.len()
    }

    /// How many are in use.
    pub(crate) fn used(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// How many there are.
    pub(crate) fn capacity(&self) -> u32 {
        u32::try_from(self.entries.len()).expect("made of a number of 32 bits")
    }

    pub(crate) fn take(&mut self) -> Option<u32> {
        self.free.pop()
    }

    pub(crate) fn give(&mut self, index: u32) {
        debug_assert!(self.free.len() < self.entries.len(), "a slot is given back once");
        self.free.push(index);
    }

    pub(crate) fn get(&self, index: u32) -> Option<&T> {
        self.entries.get(index as usize)
    }

    pub(crate) fn free_indices(&self) -> &[u32] {
        &self.free
    }
}

impl<T> Index<u32> for Slots<T> {
    type Output = T;

    fn index(&self, index: u32) -> &T {
        &self.entries[index as usize]
    }
}

impl<T> IndexMut<u32> for Slots<T> {
    fn index_mut(&mut self, index: u32) -> &mut T {
        &mut self.entries[index as usize]
    }
}

/// The links of lists that share a set of slots: each slot is in one of them at most.
#[derive(Debug)]
pub(crate) struct Links(Vec<Link>);

#[derive(Clone, Copy, Debug)]
struct Link {
    prev: u32,
    next: u32,
}

impl Links {
    pub(crate) fn new(count: u32) -> Self {
        let link = Link {
            prev: NOWHERE,
            next: NIL,
        };
        Self(vec![link; count as usize])
    }

    pub(crate) fn is_linked(&self, index: u32) -> bool {
        self.0[index as usize].prev != NOWHERE
    }

    /// The one behind it in its list.
    pub(crate) fn next(&self, index: u32) -> Option<u32> {
        some(self.0[index as usize].next)
    }

    fn at(&mut self, index: u32) -> &mut Link {
        &mut self.0[index as usize]
    }
}

/// A list of slots.
#[derive(Clone, Copy, Debug)]
pub(crate) struct List {
    head: u32,
    tail: u32,
}

impl List {
    pub(crate) const EMPTY: Self = Self { head: NIL, tail: NIL };

    pub(crate) fn front(self) -> Option<u32> {
        some(self.head)
    }

    pub(crate) fn back(self) -> Option<u32> {
        some(self.tail)
    }

    pub(crate) fn is_empty(self) -> bool {
        self.head == NIL
    }

    /// What is in it, from the front.
    pub(crate) fn iter(self, links: &Links) -> impl Iterator<Item = u32> {
        std::iter::successors(self.front(), |&index| links.next(index))
    }

    pub(crate) fn push_back(&mut self, links: &mut Links, index: u32) {
        debug_assert!(!links.is_linked(index), "{index} is in one list at most");
        let before = std::mem::replace(&mut self.tail, index);
        *links.at(index) = Link {
            prev: before,
            next: NIL,
        };
        match some(before) {
            Some(before) => links.at(before).next = index,
            None => self.head = index,
        }
    }

    pub(crate) fn push_front(&mut self, links: &mut Links, index: u32) {
        debug_assert!(!links.is_linked(index), "{index} is in one list at most");
        let behind = std::mem::replace(&mut self.head, index);
        *links.at(index) = Link {
            prev: NIL,
            next: behind,
        };
        match some(behind) {
            Some(behind) => links.at(behind).prev = index,
            None => self.tail = index,
        }
    }

    pub(crate) fn remove(&mut self, links: &mut Links, index: u32) {
        let Link { prev, next } = *links.at(index);
        debug_assert!(prev != NOWHERE, "{index} is in a list");
        links.at(index).prev = NOWHERE;
        match some(prev) {
            Some(prev) => links.at(prev).next = next,
            None => self.head = next,
        }
        match some(next) {
            Some(next) => links.at(next).prev = prev,
            None => self.tail = prev,
        }
    }

    pub(crate) fn pop_front(&mut self, links: &mut Links) -> Option<u32> {
        let index = self.front()?;
        self.remove(links, index);
        Some(index)
    }

    pub(crate) fn pop_back(&mut self, links: &mut Links) -> Option<u32> {
        let index = self.back()?;
        self.remove(links, index);
        Some(index)
    }
}

fn some(index: u32) -> Option<u32> {
    (index != NIL).then_some(index)
}
