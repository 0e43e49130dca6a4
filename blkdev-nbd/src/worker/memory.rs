//! Who gets buffers when there are not enough: first come, first served, whatever the size.
//!
//! Letting small leases pass a large one that waits would starve it; so while anybody waits, only the first in line may
//! try, and everybody else lines up.

use std::collections::VecDeque;

use iomgr_core::{Lease, OpQueue};

/// Who waits for memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waiter {
    /// A connection, for the payload of a write.
    Conn(u32),
    /// A device's admitted reads.
    Lane(usize),
}

/// The line of those who wait.
#[derive(Debug)]
pub(super) struct MemoryLine {
    waiting: VecDeque<Waiter>,
    /// Something was given back since [`MemoryLine::take_freed`].
    freed: bool,
}

impl MemoryLine {
    /// A line that holds `capacity` waiters without allocating.
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            waiting: VecDeque::with_capacity(capacity),
            freed: false,
        }
    }

    /// Leases memory, or lines up for it.
    pub(super) fn lease(&mut self, queue: &mut impl OpQueue, waiter: Waiter, len: u32) -> Option<Lease> {
        let first = self.waiting.front().is_none_or(|front| *front == waiter);
        let lease = if first { queue.alloc(len) } else { None };
        match lease {
            Some(_) if !self.waiting.is_empty() => self.leave(waiter),
            Some(_) => {}
            None if !self.waiting.contains(&waiter) => self.waiting.push_back(waiter),
            None => {}
        }
        lease
    }

    /// Gives memory back.
    pub(super) fn free(&mut self, queue: &mut impl OpQueue, lease: Lease) {
        queue.free(lease);
        self.freed = true;
    }

    /// Takes a waiter out of the line, wherever it stands.
    pub(super) fn leave(&mut self, waiter: Waiter) {
        let was_first = self.first() == Some(waiter);
        self.waiting.retain(|other| *other != waiter);
        // The next one in line may find what this one left.
        self.freed |= was_first;
    }

    /// Who is first, if anything was given back since the last time.
    pub(super) fn take_freed(&mut self) -> Option<Waiter> {
        if std::mem::take(&mut self.freed) {
            self.first()
        } else {
            None
        }
    }

    /// Was something given back that somebody waits for?
    pub(super) fn has_news(&self) -> bool {
        self.freed && !self.waiting.is_empty()
    }

    /// Who is first in line.
    pub(super) fn first(&self) -> Option<Waiter> {
        self.waiting.front().copied()
    }
}

#[cfg(test)]
mod tests {
    use tqueue::{Config, EngineKind, Queue};

    use super::*;

    const MIB: u32 = 1 << 20;
    const A: Waiter = Waiter::Conn(1);
    const B: Waiter = Waiter::Lane(1);

    /// A queue whose largest run is 2 MiB.
    fn queue() -> Queue {
        let config = Config {
            arena_bytes: 3 << 20,
            engine: EngineKind::Sync,
            ..Config::default()
        };
        Queue::new(&config).unwrap()
    }

    #[test]
    fn while_one_waits_nobody_passes() {
        let (mut queue, mut line) = (queue(), MemoryLine::new(4));
        let large = line.lease(&mut queue, A, 2 * MIB).unwrap();
        assert_eq!(line.lease(&mut queue, A, 2 * MIB), None);
        assert_eq!(
            line.lease(&mut queue, B, 4096),
            None,
            "there is room, but it is not B's turn"
        );
        assert_eq!(line.first(), Some(A));
        line.free(&mut queue, large);
        assert_eq!(line.take_freed(), Some(A));
        assert_eq!(line.lease(&mut queue, B, 4096), None);
        let large = line.lease(&mut queue, A, 2 * MIB).unwrap();
        assert!(line.has_news(), "now it is B's turn");
        let small = line.lease(&mut queue, B, 4096).unwrap();
        assert_eq!((line.first(), line.has_news()), (None, false));
        queue.free(large);
        queue.free(small);
    }

    #[test]
    fn one_that_leaves_makes_way() {
        let (mut queue, mut line) = (queue(), MemoryLine::new(4));
        let large = line.lease(&mut queue, A, 2 * MIB).unwrap();
        assert_eq!(line.lease(&mut queue, A, 2 * MIB), None);
        assert_eq!(line.lease(&mut queue, B, 4096), None);
        line.leave(A);
        assert_eq!((line.has_news(), line.take_freed()), (true, Some(B)));
        queue.free(large);
    }
}
