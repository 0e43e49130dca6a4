//! What the connections of a thread share: its queue, its lanes, its memory.

use std::sync::Arc;

use iomgr_core::Timestamp;
use tqueue::Queue;

use super::lane::{Finished, Lane};
use super::memory::Memory;
use crate::export::ExportTable;

/// The part of a worker that connections work with.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) lanes: Vec<Lane>,
    pub(super) queue: Queue,
    pub(super) memory: Memory,
    pub(super) exports: Arc<ExportTable>,
    /// When the pass began.
    pub(super) now: Timestamp,
    /// Commands of one connection that may be unanswered.
    pub(super) in_flight_max: u32,
    /// Connections that are not received from until their sockets take more.
    pub(super) paused: u32,
}

impl Core {
    /// Lets the lanes see a swap of managers, and the time. Once a pass.
    pub(super) fn begin_pass(&mut self) {
        self.now = self.queue.now();
        for lane in &mut self.lanes {
            lane.begin_pass(&mut self.queue, self.now);
        }
    }

    /// Starts what may start.
    pub(super) fn admit(&mut self) {
        for lane in &mut self.lanes {
            lane.admit(&mut self.queue, self.now);
        }
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
        self.lanes.iter().all(Lane::is_idle)
    }
}
