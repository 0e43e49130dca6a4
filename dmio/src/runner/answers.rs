//! What devices answer.

use iomgr_core::{Done, Errno, OpQueue, Pass};

use super::bounce::Cells;
use super::desk::Desk;
use super::payload::Slot;
use crate::{Completed, LegId, Machine};

impl Desk {
    /// Takes what device queues have finished. False: there is nothing new, and nothing to tell the machine.
    pub(super) fn collect(&mut self) -> bool {
        let Self {
            places, lists, answers, ..
        } = self;
        let mut has_news = !answers.is_empty();
        for place in places.all_mut() {
            while let Some(Done { tag, result }) = place.poll_done() {
                // The end of a part of a leg makes room, too.
                has_news = true;
                if !lists.is_part(tag) {
                    if lists.is_in_parts(tag.0) {
                        unknown(tag.0, result);
                    } else {
                        answers.push((LegId(tag.0), result));
                    }
                } else if let Some((leg, result)) = lists.end(tag, result) {
                    place.partial.retain(|&other| other != leg);
                    answers.push((LegId(leg), result));
                }
            }
        }
        has_news
    }

    /// Tells the machine. What was read for somebody is copied before its cell can be used again.
    pub(super) fn answer<T>(&mut self, machine: &mut Machine, pass: &mut Pass<'_>, slots: &mut [Slot<T>]) {
        for at in 0..self.answers.len() {
            let (leg, result) = self.answers[at];
            let reading = self.reads[leg.0 as usize].take();
            let cell = reading.map(|reading| self.cells.data(reading.cell, reading.len));
            let result = result.and_then(|()| {
                let is_there = cell.is_none_or(|cell| OpQueue::bytes(pass.io, cell).is_some());
                // A device that answers before its ops have ended.
                is_there.then_some(()).ok_or(Errno::FAULT)
            });
            let completed = machine.handle_completion(pass.now, leg, result);
            match (completed, cell, result) {
                (Completed::Live { request, .. }, Some(cell), Ok(())) => {
                    Cells::drain(pass.io, cell, &mut slots[request.index()].payload);
                }
                (Completed::Unknown, ..) => unknown(leg.0, result),
                _ => {}
            }
        }
        self.answers.clear();
    }

    /// Tells devices what is given up, and the machine what they say.
    pub(super) fn cancel(&mut self, machine: &mut Machine, pass: &mut Pass<'_>) {
        while let Some(cancel) = machine.poll_cancel() {
            let outcome = match self.places.find(cancel.device, cancel.generation) {
                Some(place) => place.queue.cancel(pass, iomgr_core::Tag(cancel.leg.0)),
                None => iomgr_core::CancelOutcome::Unknown,
            };
            tracing::debug!(leg = cancel.leg.0, device = cancel.device.0, ?outcome, "leg_orphaned");
            machine.handle_cancelled(pass.now, cancel.leg, outcome);
        }
    }
}

#[cold]
fn unknown(leg: u32, result: Result<(), Errno>) {
    tracing::error!(leg, ?result, "answer_unknown: the device does not have this request");
}
