//! One export on one thread: the slots of its requests, and their way through hooks and device.
//!
//! ```text
//!  Command, with its memory ─► push: a slot ─► iomgr_core::Lane: hooks, device
//!  Finished: what its reply needs ◄─ slot ◄────┘
//! ```
//!
//! A read whose reply may leave zeros out is looked at first: if the device knows that all of it is zeros, it does not need
//! the device, only the hooks.

use std::collections::VecDeque;
use std::time::Duration;

use iomgr_core::manager::Intake;
use iomgr_core::{Data, DeviceQueue, Ended, Errno, Lease, Request, SectorCount, SectorRange, Tag, Timestamp};

use super::conn::Pending;
use crate::proto::{Command, Extents, StateFlags, Zeros};

/// How often a device is asked about a read before it begins.
const LOOKS_MAX: u32 = 32;

/// An export on this thread.
#[derive(Debug)]
pub(super) struct Lane {
    /// Requests on their way. They are pushed and polled here only, with their slots.
    pub(super) requests: iomgr_core::Lane,
    /// By tag.
    slots: Box<[Option<Owned>]>,
    vacant: Vec<Tag>,
    /// Connections that wait for a slot.
    waiting: VecDeque<u32>,
    /// A slot came free, or somebody left, since the first of them was told.
    freed: bool,
}

/// What is known of the bytes of a read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Shape {
    /// Nothing worth telling.
    #[default]
    Plain,
    /// Some of them are zeros.
    Sparse,
    /// All of them are zeros.
    Zeros,
}

/// Whose request it is, and what its reply needs.
#[derive(Debug)]
struct Owned {
    conn: u32,
    command: Command,
    shape: Shape,
    lease: Option<Lease>,
}

/// A request that ended, with what its reply needs.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) conn: u32,
    pub(super) command: Command,
    pub(super) shape: Shape,
    pub(super) result: Result<(), Errno>,
    pub(super) lease: Option<Lease>,
    /// Since its command was received.
    pub(super) latency: Duration,
}

impl Lane {
    pub(super) fn new(device: Box<dyn DeviceQueue>, intake: Intake, depth: u32, conns: usize) -> Self {
        Self {
            requests: iomgr_core::Lane::new(device, intake, depth),
            slots: (0..depth).map(|_| None).collect(),
            vacant: (0..depth).rev().map(Tag).collect(),
            waiting: VecDeque::with_capacity(conns),
            freed: false,
        }
    }

    /// Is there a slot for a command of this connection? If not, or if others wait for it, the connection lines up and is told
    /// when it is its turn. So slots go round, however much some have to ask.
    pub(super) fn has_room(&mut self, conn: u32) -> bool {
        let first = self.waiting.front().copied();
        if first.is_some_and(|first| first != conn) || self.vacant.is_empty() {
            if !self.waiting.contains(&conn) {
                self.waiting.push_back(conn);
            }
            return false;
        }
        self.leave(conn);
        true
    }

    /// The connection that waits for a slot the longest, if there is a slot, and it was not told yet.
    pub(super) fn next_waiting(&mut self) -> Option<u32> {
        let first = *self.waiting.front()?;
        (!self.vacant.is_empty() && std::mem::take(&mut self.freed)).then_some(first)
    }

    /// Forgets that a connection waits.
    pub(super) fn leave(&mut self, conn: u32) {
        if self.waiting.front() == Some(&conn) {
            self.waiting.pop_front();
            // The next one may find a slot as well.
            self.freed = true;
        } else {
            self.waiting.retain(|other| *other != conn);
        }
    }

    /// Queues the command of a connection that [has room](Self::has_room) and has its memory.
    pub(super) fn push(&mut self, conn: u32, pending: Pending) {
        let tag = self.vacant.pop().expect("`has_room` was asked");
        let request = request(tag, &pending);
        match pending.shape {
            Shape::Zeros => self.requests.push_settled(request),
            Shape::Plain | Shape::Sparse => self.requests.push(request),
        }
        let Pending {
            command, shape, lease, ..
        } = pending;
        self.slots[tag.0 as usize] = Some(Owned {
            conn,
            command,
            shape,
            lease,
        });
    }

    /// The next request that ended; its slot is free again.
    pub(super) fn poll_finished(&mut self, now: Timestamp) -> Option<Finished> {
        let Ended { request, result } = self.requests.poll_ended(now)?;
        let owned = self.slots[request.tag.0 as usize].take();
        let Owned {
            conn,
            command,
            shape,
            lease,
        } = owned.expect("a request that was pushed has a slot");
        self.vacant.push(request.tag);
        self.freed = true;
        Some(Finished {
            conn,
            command,
            shape,
            result,
            lease,
            latency: now.since(request.arrival),
        })
    }

    /// Finds out what is known of a read's bytes, if its reply may make something of it.
    pub(super) fn look(&mut self, command: &Command) -> Shape {
        if command.zeros == Zeros::Sent {
            return Shape::Plain;
        }
        let all = command.range.count();
        match self.front(command.range) {
            (len, true) if len == all => Shape::Zeros,
            (len, false) if len == all => Shape::Plain,
            _ if command.zeros == Zeros::AllOrNone => Shape::Plain,
            _ => Shape::Sparse,
        }
    }

    /// How far the front of a range is of one kind, and whether that is zeros.
    fn front(&mut self, range: SectorRange) -> (SectorCount, bool) {
        let ask = |range| self.requests.block_status(range);
        let front = Extents::new(range, SectorCount(1), LOOKS_MAX, StateFlags::ZERO, ask).next();
        let front = front.expect("a read is not empty");
        (front.range.count(), front.state.contains(StateFlags::ZERO))
    }
}

/// What a command asks of the device.
fn request(tag: Tag, pending: &Pending) -> Request {
    Request {
        tag,
        op: pending.command.op,
        flags: pending.command.flags,
        range: pending.command.range,
        data: pending.lease.as_ref().map_or(Data::NONE, Lease::data),
        arrival: pending.arrival,
        deadline: None,
    }
}
