//! A device's queue on a frontend's thread, behind the managers' hooks: what every frontend does with a request between
//! receiving it and answering it.
//!
//! ```text
//!  push ─► Intake ─► admit: grant, alloc ─► DeviceQueue::submit
//!  Ended ◄─ free ◄──────────────────────── DeviceQueue::poll_done
//! ```
//!
//! A request comes with the memory that it needs, so what a manager grants can begin: no grant is ever given back. What is
//! known to end well without the device (a read of what is known to be zeros, say) passes the hooks alone.
//!
//! # Contract
//! - Tags are the frontend's: below the depth, and none is pushed again before it has ended.
//! - Each request that was pushed passes the hooks and ends once, or is given up by [`Lane::abandon`].
//! - Once the device was [detached](crate::manager::ManagedDevice::detach), what waits for a manager and what comes later ends
//!   with `ESHUTDOWN`, and never reaches the device.

use std::collections::VecDeque;

use crate::manager::{Granted, Head, Intake, Ticket};
use crate::outlet::Outlet;
use crate::{
    BlockStatus, DeviceQueue, Done, Ended, Errno, OpDone, OpQueue, Pass, Request, SectorRange, Tag, Timestamp,
};

/// A device's queue behind its intake.
#[derive(Debug)]
pub struct Lane {
    device: Outlet,
    intake: Intake,
    /// By tag.
    slots: Box<[Slot]>,
    /// Requests that were granted and do not need the device.
    settled: VecDeque<Tag>,
    /// Requests that never start, because the device was detached.
    refused: VecDeque<Tag>,
    in_flight: u32,
    ended: u64,
}

/// A request's place.
#[derive(Debug, Default)]
struct Slot {
    request: Option<Request>,
    /// It ends well without the device.
    is_settled: bool,
    /// Once it has started.
    ticket: Option<Ticket>,
}

/// What becomes of a request whose device was detached before it started.
const REFUSED: Result<(), Errno> = Err(Errno::SHUTDOWN);

impl Lane {
    /// A lane for tags below `depth`; both its parts were made for so many.
    pub fn new(device: Box<dyn DeviceQueue>, intake: Intake, depth: u32) -> Self {
        Self {
            device: Outlet::new(device),
            intake,
            slots: (0..depth).map(|_| Slot::default()).collect(),
            settled: VecDeque::with_capacity(depth as usize),
            refused: VecDeque::with_capacity(depth as usize),
            in_flight: 0,
            ended: 0,
        }
    }

    /// Queues a request.
    ///
    /// # Panics
    /// If its tag is in use, or not below the depth.
    #[inline]
    pub fn push(&mut self, request: Request) {
        let slot = &mut self.slots[request.tag.0 as usize];
        assert!(slot.request.is_none(), "a tag is used by one request at a time");
        if let Err(tag) = self.intake.push(Head::from(&request), request.tag) {
            assert!(
                self.intake.is_closed(),
                "an intake has room for as many requests as there are tags"
            );
            self.refused.push_back(tag);
        }
        slot.request = Some(request);
        slot.is_settled = false;
        self.in_flight += 1;
    }

    /// Queues a request that has nothing to ask of the device: it ends well when it is granted.
    ///
    /// # Panics
    /// As [`push`](Self::push).
    #[inline]
    pub fn push_settled(&mut self, request: Request) {
        let tag = request.tag;
        self.push(request);
        self.slots[tag.0 as usize].is_settled = true;
    }

    /// Follows a swap of managers or the device's end, and kicks a device that waits for its time. Once a pass.
    pub fn begin_pass(&mut self, pass: &mut Pass<'_>) {
        self.device.begin_pass(pass);
        self.intake.begin_pass(pass.now);
        if self.intake.is_closed() {
            self.refused.extend(self.intake.close());
        }
    }

    /// When to look again for the sake of held requests, or of what the device waits for.
    pub fn wake_at(&self) -> Option<Timestamp> {
        Timestamp::first(self.intake.wake_at(), self.device.wake_at())
    }

    /// The thread was woken.
    pub fn kick(&mut self, pass: &mut Pass<'_>) {
        self.device.kick(pass);
    }

    /// An op of the device's has ended.
    pub fn op_done(&mut self, pass: &mut Pass<'_>, done: OpDone) {
        self.device.op_done(pass, done);
    }

    /// Starts what may start.
    #[inline]
    pub fn admit(&mut self, pass: &mut Pass<'_>) {
        if self.intake.queued() > 0 || self.device.has_parked() {
            self.admit_some(pass);
        }
    }

    fn admit_some(&mut self, pass: &mut Pass<'_>) {
        if !self.device.offer_parked(pass) {
            return;
        }
        while !self.device.busy() {
            let Some(Granted { tag, grant }) = self.intake.next(pass.now) else {
                return;
            };
            let slot = &mut self.slots[tag.0 as usize];
            slot.ticket = Some(self.intake.alloc(grant));
            if slot.is_settled {
                self.settled.push_back(tag);
                continue;
            }
            let request = slot.request.clone().expect("a granted request was pushed");
            if !self.device.offer(pass, request) {
                return;
            }
        }
    }

    /// The next request that ended; its tag is free again.
    #[inline]
    pub fn poll_ended(&mut self, now: Timestamp) -> Option<Ended> {
        let Done { tag, result } = self.poll_done()?;
        let slot = &mut self.slots[tag.0 as usize];
        match slot.ticket.take() {
            Some(ticket) => self.intake.free(ticket, now),
            None => assert_eq!(result, REFUSED, "a request that ends has started"),
        }
        if slot.is_settled && result.is_ok() {
            slot.request
                .iter()
                .for_each(|request| self.device.note_settled(request, now));
        }
        let request = slot.request.take().expect("a request ends once");
        self.in_flight -= 1;
        self.ended += 1;
        Some(Ended { request, result })
    }

    /// What the device knows of the front of a range, as [`DeviceQueue::block_status`] says it.
    pub fn block_status(&mut self, range: SectorRange) -> BlockStatus {
        self.device.block_status(range)
    }

    /// The manager whose hooks are called, if any: see [`Intake::manager`].
    #[inline]
    pub fn manager(&self) -> Option<&str> {
        self.intake.manager()
    }

    /// Is nothing under way, neither requests nor work of the device's own?
    pub fn is_idle(&self) -> bool {
        self.in_flight == 0 && self.device.is_idle()
    }

    /// Requests pushed that have not ended.
    pub fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Requests that have ended so far.
    pub fn ended(&self) -> u64 {
        self.ended
    }

    /// Closes the device's queue.
    ///
    /// # Panics
    /// If requests are under way.
    pub fn close(mut self, io: &mut dyn OpQueue) {
        let left = self.intake.close().count();
        assert_eq!(left, 0, "a lane is closed when it is idle");
        self.device.close(io);
    }

    /// Gives up requests that will not end, so that managers know it. The device's queue is not closed, but dropped.
    pub fn abandon(&mut self, now: Timestamp) {
        let waiting = self.intake.close().count();
        let tickets = self.slots.iter_mut().filter_map(|slot| slot.ticket.take());
        let started = tickets.map(|ticket| self.intake.free(ticket, now)).count();
        tracing::error!(
            device = self.intake.device_name(),
            waiting,
            started,
            "requests_abandoned"
        );
    }

    #[inline]
    fn poll_done(&mut self) -> Option<Done> {
        if let Some(tag) = self.settled.pop_front() {
            return Some(Done { tag, result: Ok(()) });
        }
        let refused = || self.refused.pop_front().map(|tag| Done { tag, result: REFUSED });
        self.device.poll_done().or_else(refused)
    }
}
