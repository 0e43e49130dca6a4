//! How regions go and end.

use dmio::{Cancelled, DeviceIndex, IoFlags, MemoryKind, Reason, RegionState};
use iomgr_core::{Errno, Operation, Timestamp};

use super::{Key, Model, News, Place};

impl Model {
    pub(crate) fn arm(&mut self, now: Timestamp, request: usize) {
        if let Some(timeout) = self.requests[request].timeout {
            self.armed.retain(|(_, armed)| *armed != request);
            self.armed
                .push(((now + timeout).as_nanos().div_ceil(1 << dmio::TICK_SHIFT), request));
        }
    }

    /// Memory and a place, or the queue for it.
    pub(crate) fn ask_for_memory(&mut self, key: Key) {
        let is_free = self.requests[key.0].memory != MemoryKind::Bounce;
        let is_first = self.is_nobody_waiting(self.device_of(key));
        if is_free || is_first && self.has_room_for(key) {
            return self.admit(key);
        }
        self.counters.quota_waits += 1;
        self.part_mut(key).place = Place::Waiting;
        self.waiting.push(key);
    }

    fn admit(&mut self, key: Key) {
        self.part_mut(key).is_filled = self.sharers(key).iter().any(|&other| self.part(other).is_filled);
        if self.requests[key.0].op.is_write() && self.must_be_held(key, &self.held) {
            self.counters.hold_waits += 1;
            self.part_mut(key).place = Place::Held;
            self.held.push(key);
        } else {
            self.part_mut(key).place = Place::Ready;
            self.ready.push(key);
        }
    }

    /// The first in a device's queue go while there is room.
    fn serve_waiting(&mut self) {
        let first = |device| self.waiting.iter().position(|&key| self.device_of(key) == device);
        let devices = (0..self.devices.len()).map(|device| DeviceIndex(u16::try_from(device).unwrap()));
        let mut firsts = devices
            .filter_map(first)
            .filter(|&first| self.has_room_for(self.waiting[first]));
        if let Some(place) = firsts.next() {
            let key = self.waiting.remove(place);
            self.admit(key);
            self.serve_waiting();
        }
    }

    /// Writes go that are held for nothing any more.
    pub(crate) fn release_held(&mut self) {
        let mut still = Vec::new();
        for key in std::mem::take(&mut self.held) {
            if self.must_be_held(key, &still) {
                still.push(key);
            } else {
                self.part_mut(key).place = Place::Ready;
                self.ready.push(key);
            }
        }
        self.held = still;
    }

    /// The leg is nowhere any more.
    pub(crate) fn settle(&mut self, key: Key) {
        self.part_mut(key).place = Place::Gone;
        self.part_mut(key).is_detached = false;
        for list in [
            &mut self.waiting,
            &mut self.held,
            &mut self.ready,
            &mut self.parked,
            &mut self.cancels,
        ] {
            list.retain(|&other| other != key);
        }
        self.release_held();
        self.serve_waiting();
        let is_back = self.requests[key.0].parts.iter().all(|part| !part.place.is_admitted());
        if is_back && self.requests[key.0].owes_memory {
            self.requests[key.0].owes_memory = false;
            self.news.push((key.0, News::MemoryFree));
        }
    }

    /// If it is an orphan that writes: what its device is reading there may be what it leaves.
    pub(crate) fn haunt(&mut self, ghost: Key) {
        for key in self.keys().collect::<Vec<_>>() {
            let is_read = self.requests[key.0].op == Operation::Read && self.part(key).place == Place::AtDevice;
            let is_there = self.part(key).generation == self.part(ghost).generation && self.overlap(key, ghost);
            self.part_mut(key).is_indeterminate |= is_read && is_there && self.may_still_write(ghost);
        }
    }

    pub(crate) fn end(&mut self, now: Timestamp, key: Key, state: RegionState) {
        let part = self.part_mut(key);
        assert_eq!(part.state, None, "a region ends once");
        (part.state, part.ended) = (Some(state), now);
        if part.place == Place::Idle {
            part.place = Place::Gone;
        }
        self.news.push((key.0, News::End(key.1)));
        match state {
            RegionState::Ok => self.counters.ok += 1,
            RegionState::Error(_) => self.counters.failed += 1,
            RegionState::Cancelled(how) => {
                self.counters.cancelled += 1;
                self.counters.never_started += u64::from(how.never_started);
            }
            RegionState::Timeout => panic!("that is no end"),
        }
        if self.running(key.0).is_empty() {
            self.armed.retain(|(_, armed)| *armed != key.0);
        }
    }

    pub(crate) fn fail_fast(&mut self, now: Timestamp, key: Key, errno: Errno) {
        self.counters.failed_fast += 1;
        self.end(now, key, RegionState::Error(errno));
    }

    pub(crate) fn give_up(&mut self, now: Timestamp, key: Key, reason: Reason) -> bool {
        if self.part(key).state.is_some() || self.is_stuck(key) {
            return false;
        }
        let never_started = self.part(key).place != Place::AtDevice;
        if never_started {
            self.settle(key);
        } else {
            self.part_mut(key).place = Place::Orphan;
            self.cancels.push(key);
        }
        self.end(now, key, RegionState::Cancelled(Cancelled { reason, never_started }));
        true
    }

    /// Gives up what is on a device, then has choices go on.
    pub(crate) fn give_up_device(&mut self, now: Timestamp, device: DeviceIndex) -> u32 {
        let keys: Vec<_> = self.keys_on(device);
        let moved = keys
            .iter()
            .filter(|&&key| self.give_up(now, key, Reason::Device))
            .count();
        u32::try_from(moved).unwrap()
    }

    /// Ends what waits for a device.
    pub(crate) fn fail_waiting(&mut self, now: Timestamp, device: DeviceIndex, errno: Errno) {
        for key in self.keys_on(device) {
            if matches!(
                self.part(key).place,
                Place::Waiting | Place::Held | Place::Ready | Place::Parked
            ) {
                self.settle(key);
                self.fail_fast(now, key, errno);
            }
        }
        self.advance_all(now);
    }

    pub(crate) fn time_passes(&mut self, now: Timestamp) {
        let tick = now.as_nanos() >> dmio::TICK_SHIFT;
        let mut due: Vec<_> = self.armed.iter().copied().filter(|(armed, _)| *armed <= tick).collect();
        due.sort_by_key(|(tick, _)| *tick);
        for (_, request) in due {
            // The one before may have ended it.
            if self
                .armed
                .iter()
                .any(|(armed, about)| *about == request && *armed <= tick)
            {
                self.armed.retain(|(_, armed)| *armed != request);
                self.time_is_up(now, request);
            }
        }
    }

    fn time_is_up(&mut self, now: Timestamp, request: usize) {
        for key in self.active(request) {
            if std::mem::replace(&mut self.part_mut(key).is_timed_out, true) {
                continue;
            }
            if self.requests[request].flags.contains(IoFlags::CANCEL_ON_TIMEOUT) {
                self.give_up(now, key, Reason::Timeout);
            } else {
                self.counters.timeouts += 1;
                self.part_mut(key).timed_out = now;
                self.news.push((request, News::Timeout(key.1)));
            }
        }
        if self.requests[request].choice {
            self.advance(now, request);
        }
    }
}
