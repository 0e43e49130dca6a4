//! One export on one thread: the slots of its requests, and their way through hooks and device.
//!
//! ```text
//!  Command, with its memory ─► push: a slot ─► iomgr_core::Lane: hooks, device
//!  Finished: what its reply needs ◄─ slot ◄────┘
//! ```
//!
//! What a manager holds keeps its slot, so each class has a few of its own: held writes, however many, do not keep reads out.
//!
//! A read whose reply may leave zeros out is looked at first: if the device knows that all of it is zeros, it does not need
//! the device, only the hooks.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use iomgr_core::{Class, Data, Ended, Errno, Lease, Request, SectorCount, SectorRange, Tag, Timestamp};

use super::conn::Pending;
use crate::export::Export;
use crate::proto::{Command, Extents, StateFlags, Zeros};

/// How often a device is asked about a read before it begins.
const LOOKS_MAX: u32 = 32;

/// An export on this thread.
#[derive(Debug)]
pub(super) struct Lane {
    /// Requests on their way. They are pushed and polled here only, with their slots.
    pub(super) requests: iomgr_core::Lane,
    pub(super) export: Arc<Export>,
    /// By tag.
    slots: Box<[Option<Owned>]>,
    vacant: Vec<Tag>,
    /// Slots of each class that no other may take.
    reserve: usize,
    /// Slots in use, by class.
    used: [usize; Class::ALL.len()],
    /// Connections that wait for a slot, by class.
    lines: [VecDeque<Waiter>; Class::ALL.len()],
    /// The place of the next one that lines up.
    next_place: u64,
    /// A slot came free, or somebody left, since the first of them was told.
    freed: bool,
}

/// A connection that waits for a slot.
#[derive(Clone, Copy, Debug)]
struct Waiter {
    conn: u32,
    /// Its place among those of all classes.
    place: u64,
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
    /// Tags of a lane that takes `depth` requests of one class.
    pub(super) fn tags(depth: u32) -> u32 {
        depth + 2 * reserve(depth)
    }

    /// A lane for `depth` requests of one class, over one that knows [so many tags](Self::tags).
    pub(super) fn new(requests: iomgr_core::Lane, export: Arc<Export>, depth: u32, conns: usize) -> Self {
        let tags = Self::tags(depth);
        Self {
            requests,
            export,
            slots: (0..tags).map(|_| None).collect(),
            vacant: (0..tags).rev().map(Tag).collect(),
            reserve: reserve(depth) as usize,
            used: [0; Class::ALL.len()],
            lines: std::array::from_fn(|_| VecDeque::with_capacity(conns)),
            next_place: 0,
            freed: false,
        }
    }

    /// Is there a slot for a command of this connection? If not, or if others wait for it, the connection lines up and is told
    /// when it is its turn. So slots go round, however much some have to ask.
    pub(super) fn has_room(&mut self, conn: u32, class: Class) -> bool {
        let is_turn = self.first_waiting().is_none_or(|first| first == conn);
        let has_slot = is_turn && self.has_slot(class);
        let line = &mut self.lines[class.index()];
        if !has_slot {
            if !line.iter().any(|waiter| waiter.conn == conn) {
                let place = self.next_place;
                self.next_place += 1;
                line.push_back(Waiter { conn, place });
            }
        } else if line.pop_front_if(|first| first.conn == conn).is_some() {
            // The next one may find a slot as well.
            self.freed = true;
        }
        has_slot
    }

    /// The connection that waits the longest of those that there is a slot for, if it was not told yet.
    pub(super) fn next_waiting(&mut self) -> Option<u32> {
        let first = self.first_waiting()?;
        std::mem::take(&mut self.freed).then_some(first)
    }

    /// Forgets that a connection waits.
    pub(super) fn leave(&mut self, conn: u32) {
        for line in &mut self.lines {
            let before = line.len();
            line.retain(|waiter| waiter.conn != conn);
            self.freed |= line.len() < before;
        }
    }

    fn first_waiting(&self) -> Option<u32> {
        let first = |class: Class| self.lines[class.index()].front().filter(|_| self.has_slot(class));
        let first = Class::ALL
            .into_iter()
            .filter_map(first)
            .min_by_key(|waiter| waiter.place);
        first.map(|waiter| waiter.conn)
    }

    /// Is there a slot for this class, besides those that the others have to themselves?
    fn has_slot(&self, class: Class) -> bool {
        let others = Class::ALL.into_iter().filter(|other| *other != class);
        let kept = others.map(|other| self.reserve.saturating_sub(self.used[other.index()]));
        self.vacant.len() > kept.sum()
    }

    /// Queues the command of a connection that [has room](Self::has_room) and has its memory.
    pub(super) fn push(&mut self, conn: u32, pending: Pending) {
        let tag = self.vacant.pop().expect("`has_room` was asked");
        self.used[pending.command.op.class().index()] += 1;
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
        self.used[request.op.class().index()] -= 1;
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

/// Slots that each class has to itself.
fn reserve(depth: u32) -> u32 {
    depth.div_ceil(8)
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
