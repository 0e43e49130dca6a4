//! The end of an export on this thread.
//!
//! ```text
//!  Leave: its clients are heard no more ─► what they asked for ends and is answered ─► they are closed ─► answer
//!  Close: (when every thread has left)  ─► nothing is under way ─► the device's queue is closed        ─► answer
//! ```
//!
//! Two steps, because the queues of a device need the first one's to the end of their requests.

use std::time::Duration;

use iomgr_core::Timestamp;

use super::Worker;
use super::conn::Conn;
use super::control::Answer;

/// A step towards the end of an export.
#[derive(Debug)]
pub(super) struct Parting {
    lane: usize,
    step: Step,
    answer: Answer,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// Clients have until then to take their replies, or had.
    Leave(Option<Timestamp>),
    Close,
}

impl Worker {
    /// Takes nothing more from the clients of a lane, and answers when the last of them is gone. They have so long to take what
    /// is due to them.
    pub(super) fn leave(&mut self, lane: usize, timeout: Duration, answer: Answer) {
        self.conns.each_on(lane, &mut self.core, Conn::stop);
        let deadline = Some(self.core.now + timeout);
        self.part(lane, Step::Leave(deadline), answer);
    }

    /// Closes a lane that was left, and answers then.
    pub(super) fn close_lane(&mut self, lane: usize, answer: Answer) {
        self.part(lane, Step::Close, answer);
    }

    /// The first instant at which clients have had their time.
    pub(super) fn parting_deadline(&self) -> Option<Timestamp> {
        let deadline = |parting: &Parting| match parting.step {
            Step::Leave(deadline) => deadline,
            Step::Close => None,
        };
        self.partings.iter().filter_map(deadline).min()
    }

    /// Takes the steps that can be taken. Once a pass.
    pub(super) fn follow_partings(&mut self) {
        if self.parting_deadline().is_some_and(|at| at <= self.core.now) {
            self.cut_off();
        }
        let mut at = 0;
        while at < self.partings.len() {
            if self.is_due(&self.partings[at]) {
                let parting = self.partings.swap_remove(at);
                self.end(&parting);
            } else {
                at += 1;
            }
        }
    }

    /// A new step replaces what somebody has waited for in vain.
    fn part(&mut self, lane: usize, step: Step, answer: Answer) {
        self.partings.retain(|parting| parting.lane != lane);
        self.partings.push(Parting { lane, step, answer });
    }

    /// Breaks with the clients that have had their time.
    fn cut_off(&mut self) {
        for parting in &mut self.partings {
            if let Step::Leave(deadline) = &mut parting.step
                && deadline.is_some_and(|at| at <= self.core.now)
            {
                *deadline = None;
                self.conns.each_on(parting.lane, &mut self.core, Conn::break_off);
            }
        }
        self.work();
    }

    fn is_due(&self, parting: &Parting) -> bool {
        let lane = self.core.lanes.get(parting.lane);
        !self.conns.any_on(parting.lane) && lane.is_none_or(|lane| lane.requests.is_idle())
    }

    fn end(&mut self, parting: &Parting) {
        if let Step::Close = parting.step {
            self.core.lanes.close(parting.lane, &mut self.core.queue);
        }
        parting.answer.give(Ok(()));
    }
}
