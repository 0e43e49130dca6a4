//! What devices answer, and how regions end.

use iomgr_core::{CancelOutcome, Errno, Operation, Timestamp};

use super::leg::Stage;
use super::request::{Debt, bits};
use super::{LegId, Machine, RequestId};
use crate::{Cancelled, Reason, RegionState};

/// Whom a device's answer was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completed {
    /// A region that ran. If it was read into bounce memory, and well, the bytes are to be copied now: its cell may be used again from
    /// the next [`Machine::poll_submit`] on.
    Live {
        /// Of which request.
        request: RequestId,
        /// Which one.
        region: usize,
    },
    /// An orphan: nobody waits for it.
    Late,
    /// Nothing that any device has.
    Unknown,
}

impl Machine {
    /// A device has answered.
    pub fn handle_completion(&mut self, now: Timestamp, leg: LegId, result: Result<(), Errno>) -> Completed {
        match self.legs.get(leg.0).map(|leg| leg.stage) {
            Some(Stage::AtDevice) => self.complete(now, leg.0, result),
            Some(Stage::Orphan) => {
                self.answer_late(now, leg.0, result);
                Completed::Late
            }
            _ => Completed::Unknown,
        }
    }

    fn complete(&mut self, now: Timestamp, index: u32, result: Result<(), Errno>) -> Completed {
        let (request, leg) = self.owner(index);
        let (is_read, is_choice) = (request.op == Operation::Read, request.choice);
        let (of, region) = (leg.request, usize::from(leg.region));
        let live = Completed::Live {
            request: self.id(of),
            region,
        };
        if is_read && self.is_haunted(&self.legs[index]) {
            self.legs[index].indeterminate = true;
        }
        self.settle(now, index);
        match result {
            Ok(()) => self.end(now, index, RegionState::Ok),
            Err(errno) => self.end(now, index, RegionState::Error(errno)),
        }
        if is_choice {
            self.chosen(now, of, result.is_ok());
        }
        live
    }

    /// A candidate has ended: the others are not needed, or the next one's turn has come, if none runs that has time left.
    fn chosen(&mut self, now: Timestamp, index: u32, is_read: bool) {
        if !is_read {
            if self.requests[index].in_time() == 0 {
                self.advance(now, index);
            }
            return;
        }
        for region in bits(self.requests[index].running) {
            self.give_up(now, self.leg_of(index, region), Reason::Unneeded);
        }
    }

    /// What a device said when it was told to give a leg up. That it never started is news only as long as nobody was told how the
    /// region ended; after that the leg is late like any other, as whoever was told that the device has it waits for that.
    pub fn handle_cancelled(&mut self, now: Timestamp, leg: LegId, outcome: CancelOutcome) {
        if !self
            .legs
            .get(leg.0)
            .is_some_and(|leg| leg.is_orphan() && !leg.is_detached)
        {
            return;
        }
        let (request, leg) = self.owner(leg.0);
        let is_told = request.undelivered & leg.bit() == 0;
        match (outcome, &mut leg.state) {
            (CancelOutcome::NeverStarted, _) if is_told => {}
            (CancelOutcome::NeverStarted, Some(RegionState::Cancelled(cancelled))) => {
                let Cancelled { never_started, .. } = cancelled;
                let is_news = !std::mem::replace(never_started, true);
                self.counters.never_started += u64::from(is_news);
            }
            _ => {
                leg.is_detached = true;
                let (device, generation) = (leg.device, leg.generation);
                self.count_orphan(now, device, generation);
            }
        }
    }

    fn answer_late(&mut self, now: Timestamp, index: u32, result: Result<(), Errno>) {
        if self.leg_links.is_linked(index) {
            self.cancels.remove(&mut self.leg_links, index);
        }
        let (request, leg) = self.owner(index);
        (leg.answered, leg.answer) = (now, result);
        let of = leg.request;
        if !leg.is_unstarted() {
            request.lates |= leg.bit();
            self.counters.late += 1;
            self.tell(of);
        }
        self.settle(now, index);
        self.forget(of);
    }

    /// Takes from a leg all that it used: its device is done with it, or will never see it.
    pub(crate) fn settle(&mut self, now: Timestamp, index: u32) {
        self.release_hold(index);
        self.release_memory(index);
        if std::mem::take(&mut self.legs[index].is_detached) {
            let (device, generation) = (self.legs[index].device, self.legs[index].generation);
            self.discount_orphan(now, device, generation);
        }
        let (request, leg) = self.owner(index);
        leg.stage = Stage::Settled;
        request.admitted &= !leg.bit();
        let (of, device) = (leg.request, leg.device);
        if request.admitted == 0 && request.debt == Debt::Owed {
            request.debt = Debt::Due;
            self.tell(of);
        }
        self.serve_waiting(device);
    }

    /// The region is over.
    pub(crate) fn end(&mut self, now: Timestamp, index: u32, state: RegionState) {
        let (request, leg) = self.owner(index);
        debug_assert!(request.running & leg.bit() != 0, "a region ends once");
        request.running &= !leg.bit();
        (leg.state, leg.ended) = (Some(state), now);
        if leg.stage == Stage::Idle {
            leg.stage = Stage::Settled;
        }
        let (of, is_over, is_indeterminate) = (leg.request, request.running == 0, leg.indeterminate);
        self.count_end(state, is_indeterminate);
        if is_over {
            self.wheel.disarm(of);
        }
        self.tell(of);
    }

    fn count_end(&mut self, state: RegionState, is_indeterminate: bool) {
        let counters = &mut self.counters;
        match state {
            RegionState::Ok => counters.ok += 1,
            RegionState::Error(_) => counters.failed += 1,
            RegionState::Cancelled(cancelled) => {
                counters.cancelled += 1;
                counters.never_started += u64::from(cancelled.never_started);
            }
            RegionState::Timeout => unreachable!("a timeout is no end"),
        }
        counters.indeterminate += u64::from(is_indeterminate && state == RegionState::Ok);
    }
}
