//! Events between the machine and whoever is told, a batch for each time that the mutex is taken.

use std::collections::VecDeque;

use crate::{Event, Machine, RequestId};

/// Events of a batch.
const BATCH: usize = 64;

/// See the module.
#[derive(Debug)]
pub(super) struct Events {
    batch: VecDeque<Event>,
    /// The machine has no others.
    are_all: bool,
    /// Requests whose slots are not needed any more; the machine is told when the mutex is taken next.
    finished: Vec<RequestId>,
}

impl Events {
    pub(super) fn new(requests: usize) -> Self {
        Self {
            batch: VecDeque::with_capacity(BATCH),
            are_all: true,
            finished: Vec::with_capacity(requests),
        }
    }

    pub(super) fn fetch(&mut self, machine: &mut Machine) {
        self.are_all = false;
        while self.batch.len() < BATCH && !self.are_all {
            match machine.poll_event() {
                Some(event) => self.batch.push_back(event),
                None => self.are_all = true,
            }
        }
    }

    /// The machine may have some at once.
    pub(super) fn expect(&mut self) {
        self.are_all = false;
    }

    pub(super) fn next(&mut self) -> Option<Event> {
        self.batch.pop_front()
    }

    pub(super) fn are_all(&self) -> bool {
        self.are_all
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batch.is_empty() && self.are_all
    }

    pub(super) fn finished(&mut self, request: RequestId) {
        self.finished.push(request);
    }

    pub(super) fn settle(&mut self, machine: &mut Machine) {
        self.finished.drain(..).for_each(|request| machine.release(request));
    }
}
