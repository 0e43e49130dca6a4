//! What the connections of a thread share: its queue, its lanes, its memory.

use std::sync::Arc;

use iomgr_core::manager::HookMeter;
use iomgr_core::{OpDone, Owner, Pass, Timestamp};
use tqueue::Queue;

use super::lane::{Finished, Lane};
use super::lanes::Lanes;
use super::memory::Memory;
use crate::export::ExportTable;

/// The part of a worker that connections work with.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) lanes: Lanes,
    pub(super) queue: Queue,
    pub(super) memory: Memory,
    pub(super) exports: Arc<ExportTable>,
    /// When the pass began.
    pub(super) now: Timestamp,
    /// How long this pass is in managers' hooks.
    pub(super) hooks: HookMeter,
    /// Commands of one connection that may be unanswered.
    pub(super) in_flight_max: u32,
    /// Connections that are not received from until their sockets take more.
    pub(super) paused: u32,
}

impl Core {
    /// Lets the lanes see a swap of managers, and the time. Once a pass.
    pub(super) fn begin_pass(&mut self) {
        self.now = self.queue.now();
        self.enter_hooks();
        let (lanes, mut pass) = self.lanes();
        lanes.iter_mut().for_each(|lane| lane.requests.begin_pass(&mut pass));
        self.leave_hooks();
        let manager = self.lanes.iter().find_map(|lane| lane.requests.manager());
        self.hooks.follow(manager);
    }

    /// Managers' hooks may be called from here on, if there are any: the clock runs.
    pub(super) fn enter_hooks(&mut self) {
        if self.hooks.is_needed() {
            self.hooks.enter(self.queue.now());
        }
    }

    /// None are called from here on.
    pub(super) fn leave_hooks(&mut self) {
        if self.hooks.is_needed() {
            self.hooks.leave(self.queue.now());
        }
    }

    /// An op of a device's has ended.
    pub(super) fn op_done(&mut self, owner: Owner, done: OpDone) {
        let (lanes, mut pass) = self.lanes();
        lanes[usize::from(owner.0) - 1].requests.op_done(&mut pass, done);
    }

    /// The thread was woken.
    pub(super) fn kick(&mut self) {
        let (lanes, mut pass) = self.lanes();
        lanes.iter_mut().for_each(|lane| lane.requests.kick(&mut pass));
    }

    /// Starts what may start.
    pub(super) fn admit(&mut self) {
        let (lanes, mut pass) = self.lanes();
        lanes.iter_mut().for_each(|lane| lane.requests.admit(&mut pass));
    }

    /// The next request that ended, on any lane.
    pub(super) fn poll_finished(&mut self) -> Option<Finished> {
        self.lanes.iter_mut().find_map(|lane| lane.poll_finished(self.now))
    }

    /// The next connection that waited for something that is there now.
    pub(super) fn poll_unblocked(&mut self) -> Option<u32> {
        let ready = self.memory.poll_ready();
        ready.or_else(|| self.lanes.iter_mut().find_map(Lane::next_waiting))
    }

    /// Has everything that was asked for ended, and what the devices do besides?
    pub(super) fn is_idle(&self) -> bool {
        self.lanes.is_idle()
    }

    fn lanes(&mut self) -> (&mut Lanes, Pass<'_>) {
        let pass = Pass {
            now: self.now,
            io: &mut self.queue,
        };
        (&mut self.lanes, pass)
    }
}
