//! One export on one thread: the device's queue, the managers' hooks before it, and the slots of its requests.
//!
//! ```text
//!  Command, with its memory ─► push: a slot ─► Intake ─► admit ─► DeviceQueue::submit
//!  slot ◄─ Finished ◄─ intake.free ◄─────────────────── DeviceQueue::poll_done
//! ```
//!
//! A request comes with the memory that it needs, so what a manager grants can begin: no grant is ever given back. A read
//! whose reply may leave zeros out is looked at first: if the device knows that all of it is zeros, it does not need the device.

use std::collections::VecDeque;
use std::time::Duration;

use iomgr_core::manager::{Granted, Head, Intake, Ticket};
use iomgr_core::{
    BlockStatus, Busy, Data, DeviceQueue, Done, Errno, Lease, OpDone, Pass, Request, SectorCount, SectorRange, Tag,
    Timestamp,
};
use tqueue::Queue;

use super::conn::Pending;
use crate::proto::{Command, Extents, StateFlags, Zeros};

/// How often a device is asked about a read before it begins.
const LOOKS_MAX: u32 = 32;

/// An export on this thread.
#[derive(Debug)]
pub(super) struct Lane {
    index: usize,
    device: Box<dyn DeviceQueue>,
    intake: Intake,
    slots: Box<[Slot]>,
    vacant: Vec<Tag>,
    /// A request that the device handed back although it had not said that it was busy.
    parked: Option<Request>,
    /// Reads of zeros that were granted and have nothing to wait for.
    zeros: VecDeque<Tag>,
    /// Connections that wait for a slot.
    waiting: VecDeque<u32>,
    /// A slot came free, or somebody left, since the first of them was told.
    freed: bool,
    /// Requests ended so far.
    pub(super) ended: u64,
}

/// A request's place; its index is the tag.
#[derive(Debug, Default)]
struct Slot {
    owner: Option<Owned>,
    lease: Option<Lease>,
    ticket: Option<Ticket>,
    shape: Shape,
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

/// Whose request it is, and what it asks for.
#[derive(Clone, Copy, Debug)]
struct Owned {
    conn: u32,
    command: Command,
    arrival: Timestamp,
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
    pub(super) fn new(index: usize, device: Box<dyn DeviceQueue>, intake: Intake, depth: u32, conns: usize) -> Self {
        Self {
            index,
            device,
            intake,
            slots: (0..depth).map(|_| Slot::default()).collect(),
            vacant: (0..depth).rev().map(Tag).collect(),
            parked: None,
            zeros: VecDeque::with_capacity(depth as usize),
            waiting: VecDeque::with_capacity(conns),
            freed: false,
            ended: 0,
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
        let Pending { command, arrival, .. } = pending;
        let slot = &mut self.slots[tag.0 as usize];
        slot.lease = pending.lease;
        slot.shape = pending.shape;
        slot.owner = Some(Owned { conn, command, arrival });
        let head = Head::new(command.op, command.range, arrival);
        let pushed = self.intake.push(head, tag);
        pushed.expect("an intake has room for as many requests as there are slots");
    }

    /// Follows a swap of managers, and kicks a device that waits for its time. Once a pass.
    pub(super) fn begin_pass(&mut self, queue: &mut Queue, now: Timestamp) {
        self.intake.begin_pass(now);
        if self.device.wake_at().is_some_and(|at| at <= now) {
            self.kick(queue, now);
        }
    }

    /// When to look again for the sake of held requests, or of what the device waits for.
    pub(super) fn wake_at(&self) -> Option<Timestamp> {
        self.intake.wake_at().into_iter().chain(self.device.wake_at()).min()
    }

    pub(super) fn kick(&mut self, queue: &mut Queue, now: Timestamp) {
        self.device.kick(&mut Pass { now, io: queue });
    }

    pub(super) fn op_done(&mut self, queue: &mut Queue, now: Timestamp, done: OpDone) {
        self.device.op_done(&mut Pass { now, io: queue }, done);
    }

    /// Starts what may start.
    pub(super) fn admit(&mut self, queue: &mut Queue, now: Timestamp) {
        if !self.submit_parked(queue, now) {
            return;
        }
        while !self.device.busy() {
            let Some(Granted { tag, grant }) = self.intake.next(now) else {
                break;
            };
            if self.slots[tag.0 as usize].shape == Shape::Zeros {
                self.slots[tag.0 as usize].ticket = Some(self.intake.alloc(grant));
                self.zeros.push_back(tag);
                continue;
            }
            let request = self.request(tag);
            self.slots[tag.0 as usize].ticket = Some(self.intake.alloc(grant));
            if !self.submit(request, queue, now) {
                break;
            }
        }
    }

    /// The next request that ended; its slot is free again.
    pub(super) fn poll_finished(&mut self, now: Timestamp) -> Option<Finished> {
        let Done { tag, result } = self.poll_done()?;
        let slot = &mut self.slots[tag.0 as usize];
        let owned = slot.owner.take().expect("a device ends what it was given, once");
        let ticket = slot.ticket.take().expect("a request that was submitted has a ticket");
        let lease = slot.lease.take();
        let shape = std::mem::take(&mut slot.shape);
        self.intake.free(ticket, now);
        self.vacant.push(tag);
        self.freed = true;
        self.ended += 1;
        Some(Finished {
            conn: owned.conn,
            command: owned.command,
            shape,
            result,
            lease,
            latency: now.since(owned.arrival),
        })
    }

    fn poll_done(&mut self) -> Option<Done> {
        match self.zeros.pop_front() {
            Some(tag) => Some(Done { tag, result: Ok(()) }),
            None => self.device.poll_done(),
        }
    }

    /// What the device knows of the front of a range.
    pub(super) fn block_status(&mut self, range: SectorRange) -> BlockStatus {
        self.device.block_status(range)
    }

    /// Is nothing under way?
    pub(super) fn is_idle(&self) -> bool {
        self.in_flight() == 0 && self.device.is_idle()
    }

    /// Commands taken whose requests have not ended.
    pub(super) fn in_flight(&self) -> u32 {
        u32::try_from(self.slots.len() - self.vacant.len()).expect("the depth is a u32")
    }

    /// Closes the device's queue.
    pub(super) fn close(mut self, queue: &mut Queue) {
        let left = self.intake.close().count();
        assert_eq!(left, 0, "a lane is closed when it is idle");
        self.device.close(queue);
    }

    /// Gives up requests that will not end, so that managers know it. The device's queue is not closed, but dropped.
    pub(super) fn abandon(&mut self, now: Timestamp) {
        let waiting = self.intake.close().count();
        let tickets = self.slots.iter_mut().filter_map(|slot| slot.ticket.take());
        let started = tickets.map(|ticket| self.intake.free(ticket, now)).count();
        tracing::error!(lane = self.index, waiting, started, "requests_abandoned");
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
        let ask = |range| self.device.block_status(range);
        let front = Extents::new(range, SectorCount(1), LOOKS_MAX, StateFlags::ZERO, ask).next();
        let front = front.expect("a read is not empty");
        (front.range.count(), front.state.contains(StateFlags::ZERO))
    }

    fn request(&self, tag: Tag) -> Request {
        let slot = &self.slots[tag.0 as usize];
        let owned = slot.owner.as_ref().expect("a granted request has a slot");
        Request {
            tag,
            op: owned.command.op,
            flags: owned.command.flags,
            range: owned.command.range,
            data: slot.lease.as_ref().map_or(Data::NONE, Lease::data),
            arrival: owned.arrival,
            deadline: None,
        }
    }

    fn submit(&mut self, request: Request, queue: &mut Queue, now: Timestamp) -> bool {
        match self.device.submit(&mut Pass { now, io: queue }, request) {
            Ok(()) => true,
            Err(Busy(request)) => {
                self.parked = Some(request);
                false
            }
        }
    }

    fn submit_parked(&mut self, queue: &mut Queue, now: Timestamp) -> bool {
        match self.parked.take() {
            Some(request) => self.submit(request, queue, now),
            None => true,
        }
    }
}
