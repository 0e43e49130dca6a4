//! A queue's part of the [retry policy](crate::retry): requests that wait in their slots to be tried again.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use iomgr_core::{Errno, Operation, Pass, Request, Tag, Timestamp};

use crate::queue::slot::State;
use crate::queue::{Backing, DiskQueue};
use crate::retry::Attempts;

/// Which requests are delayed, the first one due on top.
#[derive(Debug)]
pub(super) struct Delayed(BinaryHeap<Reverse<(Timestamp, Tag)>>);

impl Delayed {
    pub(super) fn new(depth: u32) -> Self {
        Self(BinaryHeap::with_capacity(depth as usize))
    }

    /// When the first one is due.
    pub(super) fn due(&self) -> Option<Timestamp> {
        self.0.peek().map(|Reverse((due, _))| *due)
    }

    fn pop(&mut self) -> Option<Tag> {
        self.0.pop().map(|Reverse((_, tag))| tag)
    }

    pub(super) fn forget(&mut self, tag: Tag) {
        self.0.retain(|Reverse((_, other))| *other != tag);
    }
}

impl DiskQueue {
    /// Delays a request none of whose ops is under way, if its error may pass. False: it is to end.
    pub(super) fn put_off(&mut self, now: Timestamp, tag: Tag) -> bool {
        let slot = &self.slots[tag.0 as usize];
        let (Some(errno), Some(request)) = (slot.error, &slot.request) else {
            return false;
        };
        if slot.is_refused || self.shared.retries.are_over() || self.refusal(request).is_some() {
            return false;
        }
        let Some(due) = self.shared.retry.next_try(errno, self.attempts(tag), now) else {
            return false;
        };
        let name = &self.shared.name;
        self.shared
            .retries
            .delay(name, format_args!("{}", Named(request)), errno, now);
        self.delayed.0.push(Reverse((due, tag)));
        self.slot(tag).state = State::Delayed;
        true
    }

    /// Tries those again that are due. When nothing is tried again any more, all of them end.
    pub(super) fn retry_delayed(&mut self, pass: &mut Pass<'_>) {
        let over = self.shared.retries.are_over();
        while self.delayed.due().is_some_and(|due| over || due <= pass.now) {
            let tag = self.delayed.pop().expect("one is due");
            let request = self.slots[tag.0 as usize].request.as_ref();
            let refusal = self.refusal(request.expect("a delayed slot holds a request"));
            if over || refusal.is_some() {
                self.shared.retries.end_delay();
                let slot = self.slot(tag);
                slot.error = refusal.or(slot.error);
                self.finish(pass, tag);
                continue;
            }
            self.shared.retries.retry();
            self.slot(tag).restart();
            self.drive(pass, tag);
        }
    }

    /// From now on requests are tried again as if none had come earlier: until now there was no image to serve them.
    pub(crate) fn count_from(&mut self, now: Timestamp) {
        self.counts_from = now;
    }

    /// How often a request was tried, for the policy.
    pub(super) fn attempts(&self, tag: Tag) -> Attempts {
        let attempts = self.slots[tag.0 as usize].attempts();
        Attempts {
            since: attempts.since.max(self.counts_from),
            ..attempts
        }
    }

    /// Gives back a delayed request: the image is to be left. Metadata that waits is given up first, as requests wait for it.
    pub(crate) fn take_back(&mut self, pass: &mut Pass<'_>) -> Option<Request> {
        if let Backing::Blocks(blocks) = &mut self.backing
            && blocks.end_delayed()
        {
            self.go_on(pass);
        }
        let tag = self.delayed.pop()?;
        self.shared.retries.end_delay();
        self.in_flight -= 1;
        self.slot(tag).end()
    }

    /// Tells of a request that ends with an error, and whether it was tried again.
    pub(super) fn note_failed(&self, tag: Tag, errno: Errno, now: Timestamp) {
        let (attempts, request) = (self.attempts(tag), &self.slots[tag.0 as usize].request);
        let Some(request) = request else { return };
        let (name, retries) = (&self.shared.name, &self.shared.retries);
        match errno {
            _ if attempts.again > 0 => retries.give_up(name, format_args!("{}", Named(request)), errno, attempts, now),
            // What was asked for by who has it, and what a client finds out by asking.
            Errno::CANCELED | Errno::OPNOTSUPP => {}
            _ => retries.fail(name, format_args!("{}", Named(request)), errno, now),
        }
    }
}

/// A request in the log.
struct Named<'a>(&'a Request);

impl std::fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let op = match self.0.op {
            Operation::Read => "read",
            Operation::Write => "write",
            Operation::Flush => "flush",
            Operation::Discard => "discard",
            Operation::WriteZeroes => "write-zeroes",
            Operation::Prefetch => "prefetch",
        };
        let range = self.0.range;
        write!(f, "{op} of {} sectors at sector {}", range.count().0, range.start().0)
    }
}
