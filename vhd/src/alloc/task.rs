//! Who waits for which block, and how far each block is.
//!
//! Requests for one block are served in order: those of one kind together, the other kind after them.

use std::collections::VecDeque;

use iomgr_core::Errno;

use super::step::Event;
use crate::map::Slot;

/// What a request wants of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Goal {
    /// Allocated, and full.
    Full,
    /// Not allocated.
    Free,
}

#[derive(Clone, Copy, Debug)]
struct Waiter {
    block: u64,
    goal: Goal,
    cookie: u64,
}

/// How far a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Not looked at yet.
    New,
    /// Needs a slot from the reserve.
    NeedSlot,
    /// Needs its BAT unit written with this.
    BatQueued(Slot),
    /// Its BAT unit is being written with this.
    BatWriting(Slot),
    /// Needs a place among the fills.
    NeedFill,
    /// Is being filled.
    Filling,
}

/// A block that is being changed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Task {
    pub(super) block: u64,
    pub(super) goal: Goal,
    pub(super) stage: Stage,
}

/// All requests, the blocks they are about, and the outcomes not fetched yet.
#[derive(Debug)]
pub(super) struct Tasks {
    waiters: VecDeque<Waiter>,
    tasks: Vec<Task>,
    events: VecDeque<Event>,
    capacity: usize,
}

impl Tasks {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            waiters: VecDeque::with_capacity(capacity),
            tasks: Vec::with_capacity(capacity),
            events: VecDeque::with_capacity(capacity),
            capacity,
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.waiters.len() + self.events.len() >= self.capacity
    }

    pub(super) fn is_idle(&self) -> bool {
        self.waiters.is_empty()
    }

    pub(super) fn push_event(&mut self, cookie: u64, result: Result<(), Errno>) {
        self.events.push_back(Event { cookie, result });
    }

    pub(super) fn pop_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Takes a request in; it joins the block's task, or begins one.
    pub(super) fn add(&mut self, block: u64, goal: Goal, cookie: u64) {
        self.waiters.push_back(Waiter { block, goal, cookie });
        if !self.tasks.iter().any(|task| task.block == block) {
            self.tasks.push(Task {
                block,
                goal,
                stage: Stage::New,
            });
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Task> {
        self.tasks.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Task> {
        self.tasks.iter_mut()
    }

    pub(super) fn len(&self) -> usize {
        self.tasks.len()
    }

    pub(super) fn task(&mut self, at: usize) -> &mut Task {
        &mut self.tasks[at]
    }

    pub(super) fn position(&self, found: impl Fn(&Task) -> bool) -> Option<usize> {
        self.tasks.iter().position(found)
    }

    pub(super) fn count(&self, stage: Stage) -> usize {
        self.tasks.iter().filter(|task| task.stage == stage).count()
    }

    /// Ends the task at `at`: its waiters get `result`; those of the other kind, if any, begin the block's next task.
    pub(super) fn end(&mut self, at: usize, result: Result<(), Errno>) {
        let Task { block, goal, .. } = self.tasks.swap_remove(at);
        let mut next = None;
        let (waiters, events) = (&mut self.waiters, &mut self.events);
        waiters.retain(|waiter| {
            if waiter.block != block || next.is_some() {
                return true;
            }
            if waiter.goal != goal {
                next = Some(waiter.goal);
                return true;
            }
            events.push_back(Event {
                cookie: waiter.cookie,
                result,
            });
            false
        });
        if let Some(goal) = next {
            self.tasks.push(Task {
                block,
                goal,
                stage: Stage::New,
            });
        }
    }

    /// Ends everything with `errno`.
    pub(super) fn end_all(&mut self, errno: Errno) {
        self.tasks.clear();
        for waiter in self.waiters.drain(..) {
            self.events.push_back(Event {
                cookie: waiter.cookie,
                result: Err(errno),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cookies(tasks: &mut Tasks) -> Vec<u64> {
        std::iter::from_fn(|| tasks.pop_event())
            .map(|event| event.cookie)
            .collect()
    }

    #[test]
    fn requests_of_one_kind_share_a_task_and_the_other_kind_follows() {
        let mut tasks = Tasks::new(8);
        tasks.add(5, Goal::Full, 1);
        tasks.add(5, Goal::Full, 2);
        tasks.add(5, Goal::Free, 3);
        tasks.add(5, Goal::Full, 4);
        assert_eq!(tasks.len(), 1);
        tasks.end(0, Ok(()));
        assert_eq!(cookies(&mut tasks), [1, 2]);
        assert_eq!(tasks.task(0).goal, Goal::Free);
        tasks.end(0, Ok(()));
        assert_eq!(cookies(&mut tasks), [3]);
        tasks.end(0, Ok(()));
        assert_eq!(cookies(&mut tasks), [4]);
        assert!(tasks.is_idle());
    }

    #[test]
    fn outcomes_not_fetched_count_against_the_capacity() {
        let mut tasks = Tasks::new(1);
        tasks.add(5, Goal::Full, 1);
        tasks.end(0, Ok(()));
        assert!(tasks.is_full());
        tasks.pop_event();
        assert!(!tasks.is_full());
    }
}
