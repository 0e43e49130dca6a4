//! How requests come in.

use iomgr_core::{Errno, Timestamp};

use super::leg::Stage;
use super::request::bits;
use super::{Io, Machine, MemoryKind, RequestId};
use crate::{Error, ErrorKind, IoFlags, REGIONS_MAX, RegionState};

impl Machine {
    /// Takes a request, with one handle, or refuses it before anything has happened.
    ///
    /// Nothing of it is submitted from inside; regions on a device that is degraded or fenced are over already.
    ///
    /// # Errors
    /// `Invalid` for what could never be run, `Full` when there is no slot, `WouldBlock` when `NOWAIT` asks for it and there is no
    /// bounce memory.
    pub fn start(&mut self, now: Timestamp, io: &Io<'_>) -> Result<RequestId, Error> {
        self.check(io)?;
        if self.requests.free() == 0 || self.legs.free() < io.regions.len() {
            return Err(Error::new(
                ErrorKind::Full,
                "too many requests are under way or not forgotten",
            ));
        }
        if io.flags.contains(IoFlags::NOWAIT) && io.memory == MemoryKind::Bounce && !self.would_find_memory(io) {
            return Err(Error::new(
                ErrorKind::WouldBlock,
                "no bounce memory is free for the region's device",
            ));
        }
        let index = self.occupy(io);
        self.counters.requests += 1;
        self.counters.regions += io.regions.len() as u64;
        match io.choice {
            true => self.advance(now, index),
            false => self.launch(now, index),
        }
        Ok(self.id(index))
    }

    /// Takes slots for the request and its legs.
    fn occupy(&mut self, io: &Io<'_>) -> u32 {
        let index = self.requests.take().expect("looked for before");
        for (place, region) in (0..).zip(io.regions) {
            let leg = self.legs.take().expect("looked for before");
            self.legs[leg].begin(index, place, *region);
            self.legs_of[index as usize * REGIONS_MAX + usize::from(place)] = leg;
        }
        let regions = u8::try_from(io.regions.len()).expect("at most 64");
        self.requests[index].begin(io, regions);
        index
    }

    /// Sets all regions going; those whose device takes nothing are over.
    fn launch(&mut self, now: Timestamp, index: u32) {
        for region in bits(self.requests[index].running) {
            let leg = self.leg_of(index, region);
            match self.devices[usize::from(self.legs[leg].device.0)].refusal() {
                None => self.admit(leg),
                Some(errno) => self.fail_fast(now, leg, errno),
            }
        }
        if self.requests[index].running != 0 {
            self.arm(now, index);
        }
    }

    /// Ends a region because its device takes nothing.
    pub(crate) fn fail_fast(&mut self, now: Timestamp, leg: u32, errno: Errno) {
        self.counters.failed_fast += 1;
        self.end(now, leg, RegionState::Error(errno));
    }

    /// Counts the request's time from now.
    pub(crate) fn arm(&mut self, now: Timestamp, index: u32) {
        if let Some(timeout) = self.requests[index].timeout {
            self.wheel.arm(index, now + timeout);
        }
    }

    /// Sends a leg that has its memory on its way: to its device, or behind the writes that it overlaps.
    pub(crate) fn dispatch(&mut self, index: u32) {
        let (request, leg) = self.owner(index);
        request.admitted |= leg.bit();
        if !request.op.is_write() || self.hold(index) {
            self.make_ready(index);
        }
    }

    pub(crate) fn make_ready(&mut self, leg: u32) {
        self.legs[leg].stage = Stage::Ready;
        self.ready.push_back(&mut self.leg_links, leg);
    }
}
