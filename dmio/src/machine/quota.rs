//! Bounce memory: who has which cell, and who waits.
//!
//! A request counts one on each device where legs of it use a cell, orphans included, and a device counts `min_ios` at most. As a
//! cell is used by a leg that is counted, there is always a cell where the count allows one, and a device that stalls takes no
//! other device's. The candidates of a choice count one by one: each needs a cell of its own.
//!
//! Who finds no room waits in one queue. It is looked through in order, and who must go on waiting stands before those behind it
//! on its own devices, and on no others.

use super::leg::{Leg, Stage};
use super::request::bits;
use super::{Io, Machine, MemoryKind};
use crate::DeviceIndex;

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

    fn take(&mut self, users: u32) -> u32 {
        let cell = self.free.pop().expect("a device's count had room for it");
        self.users[cell as usize] = users;
        cell
    }

    fn release(&mut self, cell: u32) {
        let users = &mut self.users[cell as usize];
        *users -= 1;
        if *users == 0 {
            self.free.push(cell);
        }
    }

    pub(crate) fn users(&self) -> &[u32] {
        &self.users
    }
}

impl Machine {
    /// Admits the regions, which are all that run or the next candidate, or has them wait.
    pub(crate) fn ask_for_memory(&mut self, index: u32, regions: u64) {
        if self.requests[index].memory != MemoryKind::Bounce {
            self.admit(index, regions);
        } else if bits(regions).all(|region| self.is_room_for(self.leg_of(index, region))) {
            self.assign_memory(index, regions);
            self.admit(index, regions);
        } else {
            self.wait_for_memory(index, regions);
        }
    }

    /// Has the leg's device room for one more, with nobody before it?
    pub(crate) fn is_room_for(&self, leg: u32) -> bool {
        self.is_room_on(self.legs[leg].device)
    }

    fn is_room_on(&self, device: DeviceIndex) -> bool {
        let device = &self.devices[usize::from(device.0)];
        device.used < self.min_ios && device.waiting == 0
    }

    /// Would the request, not begun yet, go on without waiting?
    pub(crate) fn would_find_memory(&self, io: &Io<'_>) -> bool {
        let takes_part = |device: DeviceIndex| self.devices[usize::from(device.0)].refusal().is_none();
        let mut devices = io
            .regions
            .iter()
            .map(|region| region.device)
            .filter(|&device| takes_part(device));
        match io.choice {
            true => devices.next().is_none_or(|device| self.is_room_on(device)),
            false => devices.all(|device| self.is_room_on(device)),
        }
    }

    fn wait_for_memory(&mut self, index: u32, regions: u64) {
        self.counters.quota_waits += 1;
        self.requests[index].waiting |= regions;
        for region in bits(regions) {
            let leg = self.leg_of(index, region);
            self.legs[leg].stage = Stage::Waiting;
            self.devices[usize::from(self.legs[leg].device.0)].waiting += 1;
        }
        self.waiting.push_back(&mut self.quota_links, index);
    }

    /// Takes a leg out of the queue.
    pub(crate) fn stop_waiting(&mut self, leg: u32) {
        let (request, leg) = self.owner(leg);
        request.waiting &= !leg.bit();
        let is_last = request.waiting == 0;
        let (index, device) = (leg.request, leg.device);
        self.devices[usize::from(device.0)].waiting -= 1;
        // Who stood behind it may go now.
        self.is_quota_freed = true;
        if is_last {
            self.waiting.remove(&mut self.quota_links, index);
        }
    }

    /// Admits those in the queue that memory has become free for.
    pub(crate) fn serve_waiting(&mut self) {
        if !std::mem::take(&mut self.is_quota_freed) {
            return;
        }
        self.stamp += 1;
        let (stamp, mut next) = (self.stamp, self.waiting.front());
        while let Some(index) = next {
            next = self.quota_links.next(index);
            let regions = self.requests[index].waiting;
            if self.may_go(index, regions, stamp) {
                self.leave_queue(index, regions);
                self.assign_memory(index, regions);
                self.admit(index, regions);
            }
        }
    }

    /// Is there room on all of its devices, where nobody before it waits? If not, it stands before others there.
    fn may_go(&mut self, index: u32, regions: u64, stamp: u64) -> bool {
        let min_ios = self.min_ios;
        let device_of = |region| usize::from(self.legs[self.leg_of(index, region)].device.0);
        let is_free = |region| {
            let device = &self.devices[device_of(region)];
            device.used < min_ios && device.blocked_at != stamp
        };
        if bits(regions).all(is_free) {
            return true;
        }
        for region in bits(regions) {
            let device = usize::from(self.legs[self.leg_of(index, region)].device.0);
            self.devices[device].blocked_at = stamp;
        }
        false
    }

    fn leave_queue(&mut self, index: u32, regions: u64) {
        self.waiting.remove(&mut self.quota_links, index);
        self.requests[index].waiting = 0;
        for region in bits(regions) {
            let leg = self.leg_of(index, region);
            self.devices[usize::from(self.legs[leg].device.0)].waiting -= 1;
        }
    }

    /// Counts the request on each device of the regions, and gives them a cell.
    fn assign_memory(&mut self, index: u32, regions: u64) {
        self.stamp += 1;
        let cell = self.cells.take(regions.count_ones());
        for region in bits(regions) {
            let leg = self.leg_of(index, region);
            let leg = &mut self.legs[leg];
            let device = &mut self.devices[usize::from(leg.device.0)];
            leg.cell = Some(cell);
            leg.is_counted = std::mem::replace(&mut device.counted_at, self.stamp) != self.stamp;
            device.used += u32::from(leg.is_counted);
        }
    }

    fn admit(&mut self, index: u32, regions: u64) {
        self.requests[index].admitted |= regions;
        for region in bits(regions) {
            self.dispatch(index, self.leg_of(index, region));
        }
    }

    /// Gives back what memory a leg has used.
    pub(crate) fn release_memory(&mut self, leg: u32) {
        let Some(cell) = self.legs[leg].cell.take() else {
            return;
        };
        self.cells.release(cell);
        if !std::mem::take(&mut self.legs[leg].is_counted) {
            return;
        }
        match self.companion(leg) {
            Some(other) => self.legs[other].is_counted = true,
            None => {
                let device = &mut self.devices[usize::from(self.legs[leg].device.0)];
                device.used -= 1;
                self.is_quota_freed |= device.waiting > 0;
            }
        }
    }

    /// Another leg of the same request that uses memory on the same device, for which nothing is counted.
    fn companion(&self, leg: u32) -> Option<u32> {
        let Leg { request, device, .. } = self.legs[leg];
        let mut others = bits(self.requests[request].admitted).map(|region| self.leg_of(request, region));
        others.find(|&other| {
            let leg = &self.legs[other];
            leg.device == device && leg.cell.is_some() && !leg.is_counted
        })
    }

    /// How many cells are used by regions that run, and how many by orphans only.
    pub(crate) fn cells_taken(&self) -> (u32, u32) {
        let mut live = 0;
        for index in self.taken_requests() {
            let request = &self.requests[index];
            let using = bits(request.running & request.admitted)
                .filter(|&region| self.legs[self.leg_of(index, region)].cell.is_some());
            // The regions of a write share a cell, candidates have one each.
            let using = using.count();
            live += if request.choice { using } else { using.min(1) };
        }
        let live = u32::try_from(live).expect("at most all");
        (live, self.cells.capacity() - self.cells.free() - live)
    }
}
