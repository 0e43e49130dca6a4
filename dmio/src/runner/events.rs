//! Events between the machine and whoever is told, a batch for each time that the mutex is taken.

use crate::{Event, Machine, RequestId};

/// Events of a batch.
const BATCH: usize = 64;

/// See the module.
#[derive(Debug)]
pub(super) struct Events {
    batch: Vec<Event>,
    /// How many of them were taken.
    taken: usize,
    /// The machine has no others.
    are_all: bool,
    /// Requests whose slots are not needed any more; the machine is told when the mutex is taken next.
    finished: Vec<RequestId>,
}

impl Events {
    pub(super) fn new(requests: usize) -> Self {
        Self {
            batch: Vec::with_capacity(BATCH),
            taken: 0,
            are_all: true,
            finished: Vec::with_capacity(requests),
        }
    }

    /// Takes over what the machine has, unless there are others before.
    pub(super) fn fetch(&mut self, machine: &mut Machine) {
        if self.taken < self.batch.len() {
            self.are_all = false;
            return;
        }
        (self.taken, self.are_all) = (0, true);
        self.batch.clear();
        while let Some(event) = machine.poll_event() {
            self.batch.push(event);
            if self.batch.len() == BATCH {
                self.are_all = false;
                break;
            }
        }
    }

    /// The machine may have some at once.
    pub(super) fn expect(&mut self) {
        self.are_all = false;
    }

    pub(super) fn next(&mut self) -> Option<Event> {
        let event = *self.batch.get(self.taken)?;
        self.taken += 1;
        Some(event)
    }

    pub(super) fn are_all(&self) -> bool {
        self.are_all
    }

    pub(super) fn is_empty(&self) -> bool {
        self.taken == self.batch.len() && self.are_all
    }

    pub(super) fn finished(&mut self, request: RequestId) {
        self.finished.push(request);
    }

    pub(super) fn settle(&mut self, machine: &mut Machine) {
        self.finished.drain(..).for_each(|request| machine.release(request));
    }
}
