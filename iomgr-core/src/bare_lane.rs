//! A device's queue on a frontend's thread with the managers' hooks compiled out (`--cfg iomgr_no_hooks`): requests go to
//! the device in their order, and nobody is asked or told. For one purpose only: to measure what the hooks cost
//! (`cargo xtask bench --icount`). A device that is detached is not noticed.

use std::collections::VecDeque;

use crate::manager::Intake;
use crate::outlet::Outlet;
use crate::{BlockStatus, DeviceQueue, Done, Ended, OpDone, OpQueue, Pass, Request, SectorRange, Tag, Timestamp};

/// A device's queue.
#[derive(Debug)]
pub struct Lane {
    device: Outlet,
    /// By tag.
    slots: Box<[Option<Request>]>,
    waiting: VecDeque<Tag>,
    settled: VecDeque<Tag>,
    in_flight: u32,
    ended: u64,
}

#[expect(
    missing_docs,
    reason = "as in the lane with hooks, which this one stands for in benchmarks"
)]
impl Lane {
    pub fn new(device: Box<dyn DeviceQueue>, _: Intake, depth: u32) -> Self {
        Self {
            device: Outlet::new(device),
            slots: (0..depth).map(|_| None).collect(),
            waiting: VecDeque::with_capacity(depth as usize),
            settled: VecDeque::with_capacity(depth as usize),
            in_flight: 0,
            ended: 0,
        }
    }

    #[inline]
    pub fn push(&mut self, request: Request) {
        self.waiting.push_back(request.tag);
        self.keep(request);
    }

    #[inline]
    pub fn push_settled(&mut self, request: Request) {
        self.settled.push_back(request.tag);
        self.keep(request);
    }

    pub fn begin_pass(&mut self, pass: &mut Pass<'_>) {
        self.device.begin_pass(pass);
    }

    pub fn wake_at(&self) -> Option<Timestamp> {
        self.device.wake_at()
    }

    pub fn kick(&mut self, pass: &mut Pass<'_>) {
        self.device.kick(pass);
    }

    pub fn op_done(&mut self, pass: &mut Pass<'_>, done: OpDone) {
        self.device.op_done(pass, done);
    }

    pub fn admit(&mut self, pass: &mut Pass<'_>) {
        if self.waiting.is_empty() && !self.device.has_parked() || !self.device.offer_parked(pass) {
            return;
        }
        while !self.device.busy() {
            let Some(tag) = self.waiting.pop_front() else {
                return;
            };
            let request = self.slots[tag.0 as usize].clone().expect("what waits was pushed");
            if !self.device.offer(pass, request) {
                return;
            }
        }
    }

    #[inline]
    pub fn poll_ended(&mut self, now: Timestamp) -> Option<Ended> {
        let settled = self.settled.pop_front().map(|tag| Done { tag, result: Ok(()) });
        let is_settled = settled.is_some();
        let Done { tag, result } = settled.or_else(|| self.device.poll_done())?;
        let request = self.slots[tag.0 as usize].take().expect("a request ends once");
        if is_settled {
            self.device.note_settled(&request, now);
        }
        self.in_flight -= 1;
        self.ended += 1;
        Some(Ended { request, result })
    }

    pub fn block_status(&mut self, range: SectorRange) -> BlockStatus {
        self.device.block_status(range)
    }

    #[inline]
    pub fn manager(&self) -> Option<&str> {
        None
    }

    pub fn is_idle(&self) -> bool {
        self.in_flight == 0 && self.device.is_idle()
    }

    pub fn in_flight(&self) -> u32 {
        self.in_flight
    }

    pub fn ended(&self) -> u64 {
        self.ended
    }

    pub fn close(self, io: &mut dyn OpQueue) {
        self.device.close(io);
    }

    pub fn abandon(&mut self, _: Timestamp) {}

    fn keep(&mut self, request: Request) {
        let slot = &mut self.slots[request.tag.0 as usize];
        assert!(slot.is_none(), "a tag is used by one request at a time");
        *slot = Some(request);
        self.in_flight += 1;
    }
}
