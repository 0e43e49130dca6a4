//! What there is to tell.
//!
//! There is no queue of events that could overflow: each request knows what of it was not told, and those that have something stand
//! in a list. A region's TIMEOUT is told before its end, its end before a late answer.

use std::time::Duration;

use iomgr_core::{Errno, Operation, SectorRange, Timestamp};

use super::request::{Debt, lowest};
use super::{Generation, Machine, MemoryKind, RequestId};
use crate::{DeviceIndex, RegionState};

/// Something to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// What a region has come to.
    Region(RegionEvent),
    /// A device has answered for a region that had been cancelled.
    Late(Late),
    /// Memory that was lent is back: orphans had it when the request's last end was told.
    MemoryFree(RequestId),
    /// A device has so many orphans that regions fail at once there.
    Degraded(DeviceIndex),
    /// It has fewer again, or was replaced.
    Healthy(DeviceIndex),
}

/// What a region has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionEvent {
    /// Of which request.
    pub request: RequestId,
    /// Which one.
    pub region: usize,
    /// What.
    pub state: RegionState,
    /// When.
    pub at: Timestamp,
    /// It was read while an orphan may have been writing there.
    pub indeterminate: bool,
    /// All regions' ends have been told.
    pub is_last: bool,
    /// And no device has memory that was lent; if one has, [`Event::MemoryFree`] follows.
    pub is_memory_free: bool,
}

/// A device's answer for a region that had been cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Late {
    /// Of which request.
    pub request: RequestId,
    /// Which region.
    pub region: usize,
    /// Which device.
    pub device: DeviceIndex,
    /// Which of those that had the number.
    pub generation: Generation,
    /// What it has done.
    pub op: Operation,
    /// Where.
    pub range: SectorRange,
    /// What it says.
    pub result: Result<(), Errno>,
    /// How long after the region was cancelled.
    pub after: Duration,
}

impl Machine {
    /// The next thing to tell, until there is none.
    pub fn poll_event(&mut self) -> Option<Event> {
        if self.is_device_news
            && let Some(event) = self.device_event()
        {
            return Some(event);
        }
        while let Some(index) = self.eventful.front() {
            let event = self.request_event(index);
            if !self.requests[index].has_news() {
                self.eventful.remove(&mut self.event_links, index);
                self.forget(index);
            }
            if event.is_some() {
                return event;
            }
        }
        None
    }

    /// The request has something to tell.
    pub(crate) fn tell(&mut self, index: u32) {
        if !self.event_links.is_linked(index) {
            self.eventful.push_back(&mut self.event_links, index);
        }
    }

    fn device_event(&mut self) -> Option<Event> {
        for (number, device) in (0..).zip(&mut self.devices) {
            if device.told_degraded != device.is_degraded {
                device.told_degraded = device.is_degraded;
                let number = DeviceIndex(number);
                return Some(match device.is_degraded {
                    true => Event::Degraded(number),
                    false => Event::Healthy(number),
                });
            }
        }
        self.is_device_news = false;
        None
    }

    #[inline]
    fn request_event(&mut self, index: u32) -> Option<Event> {
        let request = &mut self.requests[index];
        let news = request.news();
        if news == 0 {
            let is_due = request.debt == Debt::Due;
            request.debt = if is_due { Debt::None } else { request.debt };
            return is_due.then(|| Event::MemoryFree(self.id(index)));
        }
        let region = lowest(news);
        let bit = 1 << region;
        Some(if request.timeouts & bit != 0 {
            request.timeouts &= !bit;
            self.timeout_event(index, region)
        } else if request.ends() & bit != 0 {
            request.undelivered &= !bit;
            self.end_event(index, region)
        } else {
            request.lates &= !bit;
            self.late_event(index, region)
        })
    }

    fn timeout_event(&self, index: u32, region: u8) -> Event {
        Event::Region(RegionEvent {
            request: self.id(index),
            region: usize::from(region),
            state: RegionState::Timeout,
            at: self.legs[self.leg_of(index, region)].timed_out,
            indeterminate: false,
            is_last: false,
            is_memory_free: false,
        })
    }

    #[inline]
    fn end_event(&mut self, index: u32, region: u8) -> Event {
        let id = self.id(index);
        let leg = &self.legs[self.leg_of(index, region)];
        let request = &mut self.requests[index];
        let is_last = request.undelivered == 0;
        let is_lent = matches!(request.memory, MemoryKind::Lent { .. });
        let is_memory_free = is_last && !(is_lent && request.admitted != 0);
        if is_last && !is_memory_free {
            request.debt = Debt::Owed;
        }
        let state = leg.state.expect("it is over");
        Event::Region(RegionEvent {
            request: id,
            region: usize::from(region),
            state,
            at: leg.ended,
            indeterminate: leg.indeterminate && state == RegionState::Ok,
            is_last,
            is_memory_free,
        })
    }

    fn late_event(&self, index: u32, region: u8) -> Event {
        let leg = &self.legs[self.leg_of(index, region)];
        Event::Late(Late {
            request: self.id(index),
            region: usize::from(region),
            device: leg.device,
            generation: leg.generation,
            op: self.requests[index].op,
            range: leg.range,
            result: leg.answer,
            after: leg.answered.since(leg.ended),
        })
    }
}
