//! What may be done, by looking at everything.

use dmio::{DeviceIndex, ErrorKind, Io, IoFlags, MemoryKind, RegionState};
use iomgr_core::{Errno, Operation, SECTOR_BYTES};

use super::{Key, Model, Place};

impl Place {
    /// It has memory and a place in a list or at a device.
    pub(crate) fn is_admitted(self) -> bool {
        !matches!(self, Self::Idle | Self::Waiting | Self::Gone)
    }
}

impl Model {
    /// Is the request one that could be run at all?
    pub(crate) fn is_valid(&self, io: &Io<'_>) -> bool {
        let has_data = matches!(io.op, Operation::Read | Operation::Write);
        let len = io.regions.first().map(|region| region.range.count());
        let is_even = io.regions.iter().all(|region| Some(region.range.count()) == len);
        let several = io.regions.len() > 1;
        let cancels = io.flags.contains(IoFlags::CANCEL_ON_TIMEOUT);
        let overlaps = |(place, region): (usize, &dmio::Region)| {
            let mut others = io.regions[..place].iter();
            others.any(|other| other.device == region.device && other.range.overlaps(region.range))
        };
        (1..=64).contains(&io.regions.len())
            && has_data == (io.memory != MemoryKind::None)
            && (!io.choice || io.op == Operation::Read)
            && (!several || io.choice || io.op != Operation::Read)
            && !(cancels && io.memory == MemoryKind::Lent { cancellable: false })
            && (!has_data || is_even)
            && io.regions.iter().all(|region| self.is_on_device(io, region))
            && !(io.op.is_write() && io.regions.iter().enumerate().any(overlaps))
    }

    fn is_on_device(&self, io: &Io<'_>, region: &dmio::Region) -> bool {
        let Some(device) = self.devices.get(usize::from(region.device.0)) else {
            return false;
        };
        let (config, range) = (device.config, region.range);
        if io.op == Operation::Flush {
            return range.is_empty();
        }
        let block = u64::from(config.logical_block_bytes) / SECTOR_BYTES;
        let is_aligned = range.start().0 % block == 0 && range.count().0 % block == 0;
        let has_data = matches!(io.op, Operation::Read | Operation::Write);
        !range.is_empty()
            && is_aligned
            && range.end().0 <= config.size.0
            && !(config.read_only && io.op.is_write())
            && !(has_data && range.count() > self.config.max_size)
    }

    /// What `start` says.
    pub(crate) fn verdict(&self, io: &Io<'_>) -> Result<(), ErrorKind> {
        let requests = (0..self.requests.len())
            .filter(|&request| !self.is_forgotten(request))
            .count();
        let legs = self.keys().count() + io.regions.len();
        if !self.is_valid(io) {
            Err(ErrorKind::Invalid)
        } else if requests == self.config.requests as usize || legs > self.config.legs as usize {
            Err(ErrorKind::Full)
        } else if io.flags.contains(IoFlags::NOWAIT) && self.would_wait(io) {
            Err(ErrorKind::WouldBlock)
        } else {
            Ok(())
        }
    }

    fn would_wait(&self, io: &Io<'_>) -> bool {
        let devices = io.regions.iter().map(|region| region.device);
        let mut devices = devices.filter(|&device| self.refusal(device).is_none());
        io.memory == MemoryKind::Bounce
            && match io.choice {
                true => devices.next().is_some_and(|device| !self.has_room(device)),
                false => devices.any(|device| !self.has_room(device)),
            }
    }

    /// What regions end with that would go to the device.
    pub(crate) fn refusal(&self, device: DeviceIndex) -> Option<Errno> {
        if self.device(device).is_fenced {
            Some(Errno::NODEV)
        } else if self.is_degraded(device) {
            Some(Errno::TIMEDOUT)
        } else {
            None
        }
    }

    pub(crate) fn is_degraded(&self, device: DeviceIndex) -> bool {
        let generation = self.device(device).generation;
        let orphans = self.keys().filter(|&key| {
            let part = self.part(key);
            self.device_of(key) == device && part.is_detached && part.generation == generation
        });
        orphans.count() >= self.config.orphans_max as usize
    }

    /// Requests that have bounce memory on the device; candidates count one by one.
    pub(crate) fn ios(&self, device: DeviceIndex) -> usize {
        let mut ios = Vec::new();
        for (request, part) in self.keys() {
            let generation = self.part((request, part)).generation;
            let place = self.part((request, part)).place;
            let is_replaced = place == Place::Orphan && generation != self.device(device).generation;
            let is_there = self.device_of((request, part)) == device && place.is_admitted() && !is_replaced;
            let io = (request, if self.requests[request].choice { part } else { 0 });
            if is_there && self.requests[request].memory == MemoryKind::Bounce && !ios.contains(&io) {
                ios.push(io);
            }
        }
        ios.len()
    }

    /// Would a new request find memory on the device, with nobody before it?
    pub(crate) fn has_room(&self, device: DeviceIndex) -> bool {
        self.ios(device) < self.config.min_ios as usize && self.is_nobody_waiting(device)
    }

    pub(crate) fn is_nobody_waiting(&self, device: DeviceIndex) -> bool {
        self.waiting.iter().all(|&key| self.device_of(key) != device)
    }

    /// Is there room for the leg, or does another one of its request have some on the device?
    pub(crate) fn has_room_for(&self, key: Key) -> bool {
        let device = self.device_of(key);
        let mut shared = self.sharers(key).into_iter();
        self.ios(device) < self.config.min_ios as usize || shared.any(|other| self.device_of(other) == device)
    }

    /// Other legs of the request whose memory it would share.
    pub(crate) fn sharers(&self, key: Key) -> Vec<Key> {
        let shares = |&other: &Key| other != key && self.part(other).place.is_admitted();
        let all = self.keys_of(key.0).filter(shares);
        all.filter(|_| !self.requests[key.0].choice).collect()
    }

    /// May the device be writing it, or will it be?
    pub(crate) fn is_outstanding_write(&self, key: Key) -> bool {
        let part = self.part(key);
        let is_handed = matches!(part.place, Place::AtDevice | Place::Orphan);
        let is_replaced = is_handed && part.generation != self.device(part.region.device).generation;
        let is_on_its_way = part.place.is_admitted() && part.place != Place::Held;
        self.requests[key.0].op.is_write() && is_on_its_way && !is_replaced
    }

    pub(crate) fn overlap(&self, one: Key, other: Key) -> bool {
        let (one, other) = (self.part(one).region, self.part(other).region);
        one.device == other.device && one.range.overlaps(other.range)
    }

    /// May the write not go yet, for one that is outstanding, or one of these that are held before it?
    pub(crate) fn must_be_held(&self, key: Key, before: &[Key]) -> bool {
        let outstanding = |&other: &Key| other != key && self.is_outstanding_write(other);
        let mut others = self.keys().filter(outstanding).chain(before.iter().copied());
        others.any(|other| self.overlap(key, other))
    }

    /// May an orphan be writing where this reads?
    pub(crate) fn is_haunted(&self, key: Key) -> bool {
        let part = self.part(key);
        let is_now = part.generation == self.device(part.region.device).generation;
        let writes = |&other: &Key| self.may_still_write(other) && self.is_outstanding_write(other);
        is_now && self.keys().filter(writes).any(|other| self.overlap(key, other))
    }

    /// Is it an orphan that writes, of the device of that number or one before?
    pub(crate) fn may_still_write(&self, key: Key) -> bool {
        let never = matches!(self.part(key).state, Some(RegionState::Cancelled(how)) if how.never_started);
        self.requests[key.0].op.is_write() && self.part(key).place == Place::Orphan && !never
    }

    /// Regions that run and whose turn has come.
    pub(crate) fn active(&self, request: usize) -> Vec<Key> {
        let mut keys: Vec<Key> = self.keys_of(request).collect();
        keys.retain(|&key| self.part(key).state.is_none() && self.part(key).place != Place::Idle);
        keys
    }

    pub(crate) fn running(&self, request: usize) -> Vec<Key> {
        let mut keys: Vec<Key> = self.keys_of(request).collect();
        keys.retain(|&key| self.part(key).state.is_none());
        keys
    }

    /// Has a device memory that it cannot be left with?
    pub(crate) fn is_stuck(&self, key: Key) -> bool {
        let lent = MemoryKind::Lent { cancellable: false };
        self.part(key).place == Place::AtDevice && self.requests[key.0].memory == lent
    }
}
