//! Requests, and the masks that say where their regions are.

use std::time::Duration;

use iomgr_core::{Operation, RequestFlags};

use super::leg::Leg;
use super::{Io, Machine, MemoryKind};
use crate::{Error, ErrorKind, IoFlags, REGIONS_MAX, RegionState};

/// The name of a request. A name is not used again for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestId {
    pub(crate) index: u32,
    pub(crate) serial: u32,
}

impl RequestId {
    /// Its slot, below [`MachineConfig::requests`](super::MachineConfig::requests): no two requests that are not forgotten share one.
    pub fn index(self) -> usize {
        self.index as usize
    }
}

/// One request. Masks have a bit for each region.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// Counts the users of the slot.
    pub(crate) serial: u32,
    pub(crate) handles: u32,
    pub(crate) regions: u8,
    /// The next candidate of a choice.
    pub(crate) next: u8,
    pub(crate) choice: bool,
    /// The bounce memory of a write, while it has some, holds its bytes.
    pub(crate) is_filled: bool,
    pub(crate) op: Operation,
    pub(crate) request_flags: RequestFlags,
    pub(crate) flags: IoFlags,
    pub(crate) memory: MemoryKind,
    pub(crate) debt: Debt,
    pub(crate) timeout: Option<Duration>,
    /// Not over.
    pub(crate) running: u64,
    /// Their turn has come, and they wait for memory; these run as well.
    pub(crate) waiting: u64,
    /// Their legs have memory and a place in a list or at a device.
    pub(crate) admitted: u64,
    /// The event of their end was not taken.
    pub(crate) undelivered: u64,
    /// Their time was up.
    pub(crate) timed_out: u64,
    /// The event of that was not taken.
    pub(crate) timeouts: u64,
    /// The event of a late answer was not taken.
    pub(crate) lates: u64,
}

/// Memory that was lent, and is not back when the request is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Debt {
    None,
    /// Orphans have it.
    Owed,
    /// They are answered; the event of that was not taken.
    Due,
}

impl Request {
    pub(crate) const VACANT: Self = Self {
        serial: 0,
        handles: 0,
        regions: 0,
        next: 0,
        choice: false,
        is_filled: false,
        op: Operation::Read,
        request_flags: RequestFlags::empty(),
        flags: IoFlags::empty(),
        memory: MemoryKind::None,
        debt: Debt::None,
        timeout: None,
        running: 0,
        waiting: 0,
        admitted: 0,
        undelivered: 0,
        timed_out: 0,
        timeouts: 0,
        lates: 0,
    };

    /// The slot is of this request from now on. What a forgotten one has not is left as it is.
    pub(crate) fn begin(&mut self, io: &Io<'_>, regions: u8) {
        (self.handles, self.regions, self.next) = (1, regions, 0);
        (self.choice, self.is_filled, self.memory) = (io.choice, false, io.memory);
        (self.op, self.request_flags, self.flags) = (io.op, io.request_flags, io.flags);
        self.timeout = io.timeout;
        self.running = all(regions);
        self.undelivered = self.running;
        self.timed_out = 0;
    }

    /// Over, but nobody was told.
    pub(crate) fn ends(&self) -> u64 {
        self.undelivered & !self.running
    }

    /// Regions that have something to tell.
    pub(crate) fn news(&self) -> u64 {
        self.timeouts | self.ends() | self.lates
    }

    /// Has it anything to tell?
    pub(crate) fn has_news(&self) -> bool {
        self.news() != 0 || self.debt == Debt::Due
    }

    /// Regions that run and whose turn has come.
    pub(crate) fn active(&self) -> u64 {
        self.running & (self.admitted | self.waiting)
    }

    /// Those of them whose time is not up.
    pub(crate) fn in_time(&self) -> u64 {
        self.active() & !self.timed_out
    }

    /// Does nobody need it any more?
    pub(crate) fn is_forgotten(&self) -> bool {
        let busy = self.running | self.admitted | self.undelivered | self.timeouts | self.lates;
        self.handles == 0 && busy == 0 && self.debt == Debt::None
    }
}

/// What is said of a request that [`find`](Machine::find) does not find.
pub(crate) fn unknown() -> Error {
    Error::new(ErrorKind::Unknown, "the request is over and forgotten")
}

/// The places of the bits that are set, ascending.
pub(crate) fn bits(mask: u64) -> impl Iterator<Item = u8> {
    let mut rest = mask;
    std::iter::from_fn(move || {
        let place = (rest != 0).then(|| lowest(rest))?;
        rest &= rest - 1;
        Some(place)
    })
}

/// The place of the lowest bit that is set.
#[expect(clippy::cast_possible_truncation, reason = "there are 64 places")]
pub(crate) fn lowest(mask: u64) -> u8 {
    debug_assert!(mask != 0, "there is one");
    mask.trailing_zeros() as u8
}

/// The lowest `regions` bits; at least one.
pub(crate) fn all(regions: u8) -> u64 {
    u64::MAX >> (REGIONS_MAX - usize::from(regions))
}

impl Machine {
    /// What a region has come to; `None` while nothing has, and for what is not there.
    pub fn state(&self, id: RequestId, region: usize) -> Option<RegionState> {
        let request = self.find(id)?;
        let region = u8::try_from(region).ok().filter(|&region| region < request.regions)?;
        let is_timed_out = request.timed_out >> region & 1 == 1;
        let timeout = is_timed_out.then_some(RegionState::Timeout);
        self.legs[self.leg_of(id.index, region)].state.or(timeout)
    }

    /// How many regions the request has; none if it is forgotten.
    pub fn regions(&self, id: RequestId) -> usize {
        self.find(id).map_or(0, |request| usize::from(request.regions))
    }

    /// Are all of the request's regions over? What is forgotten is.
    pub fn is_over(&self, id: RequestId) -> bool {
        self.find(id).is_none_or(|request| request.running == 0)
    }

    /// Another handle of the request.
    pub fn acquire(&mut self, id: RequestId) -> Result<(), Error> {
        self.find(id).ok_or_else(unknown)?;
        self.requests[id.index].handles += 1;
        Ok(())
    }

    /// One handle less; [`start`](Self::start) gave the first. Without any the request goes on, and is forgotten when it is over, its
    /// events are taken and its memory is back.
    pub fn release(&mut self, id: RequestId) {
        if self.find(id).is_some_and(|request| request.handles > 0) {
            self.requests[id.index].handles -= 1;
            self.forget(id.index);
        }
    }

    /// Gives the slots of a request back, if nobody needs it any more.
    pub(crate) fn forget(&mut self, index: u32) {
        let request = &mut self.requests[index];
        if !request.is_forgotten() || self.event_links.is_linked(index) {
            return;
        }
        let regions = std::mem::take(&mut request.regions);
        request.serial = request.serial.wrapping_add(1);
        for region in 0..regions {
            self.legs.give(self.leg_of(index, region));
        }
        self.requests.give(index);
    }

    pub(crate) fn find(&self, id: RequestId) -> Option<&Request> {
        let found = self.requests.get(id.index)?;
        (found.serial == id.serial && found.regions > 0).then_some(found)
    }

    pub(crate) fn id(&self, index: u32) -> RequestId {
        let serial = self.requests[index].serial;
        RequestId { index, serial }
    }

    pub(crate) fn leg_of(&self, index: u32, region: u8) -> u32 {
        self.legs_of[index as usize * REGIONS_MAX + usize::from(region)]
    }

    /// The request of a leg.
    pub(crate) fn owner(&mut self, leg: u32) -> (&mut Request, &mut Leg) {
        let leg = &mut self.legs[leg];
        (&mut self.requests[leg.request], leg)
    }

    /// The slots that are in use.
    pub(crate) fn taken_requests(&self) -> impl Iterator<Item = u32> {
        (0..self.requests.capacity()).filter(|&index| self.requests[index].regions > 0)
    }
}
