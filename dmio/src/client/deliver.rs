//! Telling what has happened.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;

use iomgr_core::{Lease, OpQueue};

use super::Client;
use super::lend::Shape;
use crate::{Event, Memory, Notification, Notify, RegionEvent, RegionState, RequestId};

/// Events that are told in one pass: notifications may bring about others for ever.
const EVENTS_MAX: usize = 1024;

/// What the client knows of a request.
pub(super) struct Entry {
    notify: Option<Rc<dyn Notify>>,
    /// The last notification was made.
    is_told: bool,
    pub(super) given: Given,
}

/// What the request was given, as far as the runner does not have it.
#[derive(Debug, Default)]
pub(super) enum Given {
    #[default]
    Nothing,
    Pool(Lease),
    /// Buffers that were moved in.
    Owned(Shape),
}

impl Entry {
    pub(super) fn new(notify: Option<Rc<dyn Notify>>, given: Given) -> Self {
        Self {
            notify,
            is_told: false,
            given,
        }
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("given", &self.given)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Tells all that there is to tell; says how many notifications those were, and whether there was anything.
    pub(super) fn deliver(&mut self) -> (usize, bool) {
        let (mut told, mut is_news) = (0, false);
        // What notifications bring about is told in the next pass.
        for _ in 0..EVENTS_MAX {
            let Some(event) = self.runner_mut().next_event() else {
                break;
            };
            is_news = true;
            match event {
                Event::Region(event) => {
                    self.tell(event);
                    told += 1;
                }
                Event::MemoryFree(request) => self.take_orphaned(request),
                Event::Late(_) | Event::Degraded(_) | Event::Healthy(_) => self.tell_of_device(&event),
            }
        }
        (told, is_news)
    }

    fn tell(&mut self, event: RegionEvent) {
        trace_region(&event);
        let (notify, mut memory) = self.claim(&event);
        if event.is_last && self.is_awaited(event.request) {
            // It comes back with the call.
            self.end_wait(std::mem::take(&mut memory));
        }
        let Some(notify) = notify else {
            return self.give_back(memory);
        };
        let note = Notification {
            request: event.request,
            region: event.region,
            state: event.state,
            at: event.at,
            indeterminate: event.indeterminate,
            is_last: event.is_last,
            memory,
        };
        self.calling(|client| notify.notify(client, note));
    }

    /// Whom to tell, and what the caller gets back.
    fn claim(&mut self, event: &RegionEvent) -> (Option<Rc<dyn Notify>>, Memory) {
        let request = event.request;
        match (event.is_last, event.is_memory_free) {
            (true, true) => self.finish(request),
            // Orphans have the memory.
            (true, false) => (self.take_notify(request), Memory::None),
            _ => {
                let entry = self.runner().value(request);
                (entry.and_then(|entry| entry.notify.clone()), Memory::None)
            }
        }
    }

    /// Calls somebody who may do anything but wait.
    fn calling(&mut self, call: impl FnOnce(&mut Self)) {
        self.is_notifying = true;
        let called = catch_unwind(AssertUnwindSafe(|| call(self)));
        self.is_notifying = false;
        if let Err(panic) = called {
            resume_unwind(panic);
        }
    }

    /// Takes all that came with a request.
    fn finish(&mut self, request: RequestId) -> (Option<Rc<dyn Notify>>, Memory) {
        let (payload, entry) = self.runner_mut().finish(request);
        let (notify, given) = entry.map_or((None, Given::Nothing), |entry| (entry.notify, entry.given));
        (notify, self.reclaim(payload, given, Some(request)))
    }

    fn take_notify(&mut self, request: RequestId) -> Option<Rc<dyn Notify>> {
        let entry = self.runner_mut().value_mut(request)?;
        entry.is_told = true;
        entry.notify.take()
    }

    /// Was the last notification of a request made?
    pub(super) fn is_told(&self, request: RequestId) -> bool {
        self.runner().value(request).is_none_or(|entry| entry.is_told)
    }

    /// Orphans had the memory, and nobody waits for it any more.
    fn take_orphaned(&mut self, request: RequestId) {
        let (_, memory) = self.finish(request);
        tracing::debug!(request = request.index(), "memory_returned: an orphan had it");
        self.give_back(memory);
    }

    /// Pool memory returns to the pool, other memory is dropped.
    pub(super) fn give_back(&mut self, memory: Memory) {
        if let Memory::Pool(lease) = memory {
            self.queue.free(lease);
        }
    }

    fn tell_of_device(&mut self, event: &Event) {
        match event {
            Event::Late(late) => tracing::warn!(
                device = late.device.0,
                range = %late.range,
                op = ?late.op,
                result = ?late.result,
                after = ?late.after,
                "leg_late: a device answered for a region that was given up"
            ),
            Event::Degraded(device) => tracing::warn!(device = device.0, "device_degraded: it owes too many answers"),
            Event::Healthy(device) => tracing::info!(device = device.0, "device_healthy"),
            Event::Region(_) | Event::MemoryFree(_) => {}
        }
        if let Some(watch) = self.watch.as_ref().map(|watcher| Rc::clone(&watcher.0)) {
            self.calling(|client| watch.watch(client, event));
        }
    }
}

fn trace_region(event: &RegionEvent) {
    let (request, region) = (event.request.index(), event.region);
    match event.state {
        RegionState::Ok => {}
        RegionState::Timeout => tracing::info!(request, region, "region_timed_out"),
        RegionState::Error(errno) => tracing::debug!(request, region, %errno, "region_failed"),
        RegionState::Cancelled(cancelled) => tracing::debug!(
            request,
            region,
            reason = ?cancelled.reason,
            never_started = cancelled.never_started,
            "region_cancelled"
        ),
    }
}
