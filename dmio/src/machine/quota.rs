//! Bounce memory: who has which cell, and who waits.
//!
//! A request counts one on each device where legs of it use a cell, orphans included, and a device counts `min_ios` at most. As a
//! cell is used by a leg that is counted, there is always a cell where the count allows one, and a device that stalls takes no
//! other device's. What a device has that was replaced counts for none: there are more cells then, and they stay. The regions of a write share a cell; the candidates of a choice need one each, and count one by one.
//!
//! A leg that finds no room waits in its device's list, in order, and for that device only. As soon as there is room the first one
//! goes, so that where somebody waits there is none for others.

use super::leg::{Leg, Stage};
use super::request::{Request, bits};
use super::{Io, Machine, MemoryKind};
use crate::{DeviceIndex, Error};

/// The number of a cell of bounce memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CellId(pub u32);

/// How many legs use each cell.
#[derive(Debug)]
pub(crate) struct Cells {
    users: Vec<u32>,
    free: Vec<u32>,
}

impl Cells {
    pub(crate) fn new(count: u32) -> Self {
        Self {
            users: vec![0; count as usize],
            free: (0..count).rev().collect(),
        }
    }

    pub(crate) fn capacity(&self) -> u32 {
        u32::try_from(self.users.len()).expect("made of a number of 32 bits")
    }

    pub(crate) fn free(&self) -> u32 {
        u32::try_from(self.free.len()).expect("at most all")
    }

    fn take(&mut self) -> u32 {
        self.free.pop().expect("a device's count had room for it")
    }

    fn release(&mut self, cell: u32) {
        let users = &mut self.users[cell as usize];
        *users -= 1;
        if *users == 0 {
            self.free.push(cell);
        }
    }

    /// As many more, free.
    fn add(&mut self, count: u32) {
        let first = self.capacity();
        self.users.resize(self.users.len() + count as usize, 0);
        // What is in use comes back, and must find room.
        self.free.reserve(self.users.len() - self.free.len());
        self.free.extend(first..first + count);
    }

    pub(crate) fn users(&self) -> &[u32] {
        &self.users
    }
}

impl Machine {
    /// Sends a leg on its way, with memory, or has it wait for some.
    pub(crate) fn admit(&mut self, leg: u32) {
        let (request, _) = self.owner(leg);
        if request.memory != MemoryKind::Bounce {
            self.dispatch(leg);
        } else if self.is_room_for(leg) {
            self.assign_memory(leg);
            self.dispatch(leg);
        } else {
            self.wait_for_memory(leg);
        }
    }

    fn wait_for_memory(&mut self, index: u32) {
        self.counters.quota_waits += 1;
        let (request, leg) = self.owner(index);
        request.waiting |= leg.bit();
        leg.stage = Stage::Waiting;
        let device = usize::from(leg.device.0);
        self.devices[device].waiting.push_back(&mut self.leg_links, index);
    }

    /// Takes a leg out of its device's list.
    pub(crate) fn stop_waiting(&mut self, index: u32) {
        let (request, leg) = self.owner(index);
        request.waiting &= !leg.bit();
        let device = usize::from(leg.device.0);
        self.devices[device].waiting.remove(&mut self.leg_links, index);
    }

    /// Sends those on their way that there is memory for now.
    pub(crate) fn serve_waiting(&mut self, device: DeviceIndex) {
        while let Some(first) = self.devices[usize::from(device.0)].waiting.front()
            && self.is_room_for(first)
        {
            self.stop_waiting(first);
            self.assign_memory(first);
            self.dispatch(first);
        }
    }

    /// Is there room for the leg on its device, or is its request counted there already?
    pub(crate) fn is_room_for(&self, leg: u32) -> bool {
        let device = &self.devices[usize::from(self.legs[leg].device.0)];
        device.used < self.min_ios || self.companion(leg, |_| true).is_some()
    }

    /// Would the request, not begun yet, go on without waiting?
    pub(crate) fn would_find_memory(&self, io: &Io<'_>) -> bool {
        let device_of = |region: &crate::Region| &self.devices[usize::from(region.device.0)];
        let mut devices = io
            .regions
            .iter()
            .map(device_of)
            .filter(|device| device.refusal().is_none());
        let has_room = |device: &super::Device| device.used < self.min_ios;
        match io.choice {
            true => devices.next().is_none_or(has_room),
            false => devices.all(has_room),
        }
    }

    /// Gives the leg a cell, its request's own where it has one, and counts it.
    fn assign_memory(&mut self, index: u32) {
        let shared = self.sharers(index).find_map(|other| self.legs[other].cell);
        let is_counted = self.companion(index, |_| true).is_none();
        let cell = shared.unwrap_or_else(|| self.cells.take());
        self.cells.users[cell as usize] += 1;
        let (request, leg) = self.owner(index);
        request.is_filled &= shared.is_some();
        (leg.cell, leg.is_counted) = (Some(cell), is_counted);
        let device = usize::from(leg.device.0);
        self.devices[device].used += u32::from(is_counted);
    }

    /// Gives back what memory a leg has used.
    pub(crate) fn release_memory(&mut self, index: u32) {
        let Some(cell) = self.legs[index].cell.take() else {
            return;
        };
        self.cells.release(cell);
        if std::mem::take(&mut self.legs[index].is_counted) {
            match self.companion(index, |leg| !leg.is_counted) {
                Some(other) => self.legs[other].is_counted = true,
                None if self.is_stray(index) => self.strays -= 1,
                None => self.devices[usize::from(self.legs[index].device.0)].used -= 1,
            }
        }
    }

    /// Has a device the leg that was replaced? Then it counts for none.
    pub(crate) fn is_stray(&self, index: u32) -> bool {
        let leg = &self.legs[index];
        leg.is_orphan() && leg.generation != self.devices[usize::from(leg.device.0)].generation
    }

    /// How many cells more there must be so that a device can be [replaced](Self::replace): the old one keeps those that it has, and
    /// the new one is to find as many as any.
    pub fn cells_missing(&self, device: DeviceIndex) -> Result<u32, Error> {
        let used = self.device(device)?.used;
        let devices = u32::try_from(self.devices.len()).expect("numbered by 16 bits");
        let needed = devices * self.min_ios + self.strays + used;
        Ok(needed.saturating_sub(self.cells.capacity()))
    }

    /// Takes in so many cells more, whose names follow those that there are; this allocates.
    pub fn add_cells(&mut self, count: u32) {
        self.cells.add(count);
    }

    /// The other legs of the request that may share memory with this one.
    fn sharers(&self, index: u32) -> impl Iterator<Item = u32> {
        let request = self.legs[index].request;
        let Request { choice, admitted, .. } = self.requests[request];
        let others = if choice { 0 } else { admitted & !self.legs[index].bit() };
        bits(others).map(move |region| self.leg_of(request, region))
    }

    /// One of them that has memory, on the same device.
    fn companion(&self, index: u32, is: impl Fn(&Leg) -> bool) -> Option<u32> {
        let device = self.legs[index].device;
        self.sharers(index).find(|&other| {
            let leg = &self.legs[other];
            leg.device == device && leg.cell.is_some() && is(leg)
        })
    }

    /// How many cells are used by regions that run, and how many by orphans only.
    pub(crate) fn cells_taken(&self) -> (u32, u32) {
        let mut live = 0;
        for index in self.taken_requests() {
            let request = &self.requests[index];
            let mut legs = bits(request.running & request.admitted).map(|region| self.leg_of(index, region));
            // The regions of a write share a cell.
            live += match request.choice {
                true => legs.filter(|&leg| self.legs[leg].cell.is_some()).count(),
                false => usize::from(legs.any(|leg| self.legs[leg].cell.is_some())),
            };
        }
        let live = u32::try_from(live).expect("at most all");
        (live, self.cells.capacity() - self.cells.free() - live)
    }
}
