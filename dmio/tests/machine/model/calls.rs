//! Each call, done in the model's way, and compared.

use dmio::{
    Completed, DeviceConfig, DeviceIndex, ErrorKind, Generation, Io, LegId, Machine, Reason, RegionState, RequestId,
    Submission, ToCancel,
};
use iomgr_core::{CancelOutcome, Errno, Operation, Timestamp};

use super::{Key, Model, News, Part, Place, Request};
use crate::seen::{Call, Watch};

impl Watch for Model {
    fn see(&mut self, now: Timestamp, call: &Call<'_>, machine: &Machine) {
        match *call {
            Call::Start(ref io, result) => self.start(now, io, result),
            Call::Submit(submission) => self.submit(submission),
            Call::Busy(leg, is_back) => assert_eq!(self.busy(leg), is_back),
            Call::Retry(device) => self.retry(device),
            Call::Answer(leg, result, completed) => assert_eq!(self.answer(now, leg, result), completed),
            Call::Cancel(id, result) => assert_eq!(self.cancel(now, id), result),
            Call::CancelDevice(device, fence, moved) => {
                self.device_mut(device).is_fenced |= fence;
                assert_eq!(self.give_up_device(now, device), moved);
                self.advance_all(now);
            }
            Call::ToCancel(told) => self.tell_device(told),
            Call::Cancelled(leg, outcome) => self.cancelled(now, leg, outcome),
            Call::Fence(device) => {
                self.device_mut(device).is_fenced = true;
                self.fail_waiting(now, device, Errno::NODEV);
            }
            Call::Unfence(device) => self.device_mut(device).is_fenced = false,
            Call::Replace(device, config, generation) => assert_eq!(self.replace(now, device, config), generation),
            Call::Time => self.time_passes(now),
            Call::Event(event) => self.event(event),
            Call::Acquire(id, is_there) => {
                let found = self.find(id);
                assert_eq!(found.is_some(), is_there);
                found
                    .into_iter()
                    .for_each(|request| self.requests[request].handles += 1);
            }
            Call::Release(id) => {
                let found = self.find(id).expect("it had a handle");
                self.requests[found].handles -= 1;
            }
        }
        self.compare(machine);
    }
}

impl Model {
    fn start(&mut self, now: Timestamp, io: &Io<'_>, result: Result<RequestId, ErrorKind>) {
        assert_eq!(self.verdict(io), result.map(|_| ()), "{io:?}");
        let Ok(id) = result else { return };
        assert_eq!(self.find(id), None, "a name is not used again");
        let part = |region: &dmio::Region| Part {
            region: *region,
            place: Place::Idle,
            leg: None,
            generation: Generation(0),
            state: None,
            is_timed_out: false,
            ended: Timestamp::ZERO,
            timed_out: Timestamp::ZERO,
            is_detached: false,
            is_indeterminate: false,
            is_filled: false,
            answer: None,
        };
        self.requests.push(Request {
            id,
            op: io.op,
            choice: io.choice,
            timeout: io.timeout,
            flags: io.flags,
            memory: io.memory,
            parts: io.regions.iter().map(part).collect(),
            next: 0,
            handles: 1,
            owes_memory: false,
        });
        self.counters.requests += 1;
        self.counters.regions += io.regions.len() as u64;
        self.launch(now, self.requests.len() - 1);
    }

    fn launch(&mut self, now: Timestamp, request: usize) {
        if self.requests[request].choice {
            return self.advance(now, request);
        }
        for key in self.keys_of(request) {
            match self.refusal(self.device_of(key)) {
                None => self.ask_for_memory(key),
                Some(errno) => self.fail_fast(now, key, errno),
            }
        }
        if !self.running(request).is_empty() {
            self.arm(now, request);
        }
    }

    fn submit(&mut self, submission: Option<Submission>) {
        for key in self.ready.clone() {
            if self.device(self.device_of(key)).is_busy {
                self.ready.retain(|&ready| ready != key);
                self.part_mut(key).place = Place::Parked;
                self.parked.push(key);
            } else {
                break;
            }
        }
        let Some(submission) = submission else {
            return assert!(self.ready.is_empty(), "{:?} is not submitted", self.ready);
        };
        assert!(!self.ready.is_empty(), "nothing is ready: {submission:?}");
        let key = self.ready.remove(0);
        self.counters.submitted += 1;
        let generation = self.device(self.device_of(key)).generation;
        let part = self.part_mut(key);
        (part.place, part.leg, part.generation) = (Place::AtDevice, Some(submission.leg), generation);
        let is_read = self.requests[key.0].op == Operation::Read;
        self.part_mut(key).is_indeterminate = is_read && self.is_haunted(key);
        self.compare_submission(key, submission);
    }

    fn compare_submission(&mut self, key: Key, submission: Submission) {
        let part = self.part(key).clone();
        let request = &self.requests[key.0];
        assert_eq!((submission.request, submission.region), (request.id, key.1));
        assert_eq!(
            (submission.device, submission.range),
            (part.region.device, part.region.range)
        );
        assert_eq!((submission.generation, submission.op), (part.generation, request.op));
        assert_eq!(submission.cell.is_some(), request.memory == dmio::MemoryKind::Bounce);
        let uses_cell = request.op == Operation::Write && submission.cell.is_some();
        let mut shared = self.sharers(key);
        assert_eq!(
            submission.fill,
            uses_cell && !part.is_filled,
            "the first leg fills the cell"
        );
        shared.push(key);
        shared
            .into_iter()
            .for_each(|key| self.part_mut(key).is_filled = uses_cell);
    }

    /// Whose leg of this number a device has.
    fn at_device(&self, leg: LegId) -> Option<Key> {
        let has = |part: &Part| matches!(part.place, Place::AtDevice | Place::Orphan) && part.leg == Some(leg);
        self.keys().find(|&key| has(self.part(key)))
    }

    fn busy(&mut self, leg: LegId) -> bool {
        let can_come_back = |&key: &Key| {
            let part = self.part(key);
            part.place == Place::AtDevice && part.generation == self.device(part.region.device).generation
        };
        let Some(key) = self.at_device(leg).filter(can_come_back) else {
            return false;
        };
        self.counters.busy += 1;
        self.counters.submitted -= 1;
        self.part_mut(key).place = Place::Parked;
        self.parked.insert(0, key);
        self.device_mut(self.device_of(key)).is_busy = true;
        true
    }

    fn retry(&mut self, device: DeviceIndex) {
        self.device_mut(device).is_busy = false;
        let (back, parked): (Vec<_>, _) = self.parked.iter().partition(|&&key| self.device_of(key) == device);
        self.parked = parked;
        for &key in &back {
            self.part_mut(key).place = Place::Ready;
        }
        self.ready.splice(..0, back);
    }

    fn answer(&mut self, now: Timestamp, leg: LegId, result: Result<(), Errno>) -> Completed {
        let Some(key) = self.at_device(leg) else {
            return Completed::Unknown;
        };
        if self.part(key).place == Place::Orphan {
            self.answer_late(now, key, result);
            return Completed::Late;
        }
        let is_read = self.requests[key.0].op == Operation::Read;
        let haunted = is_read && self.is_haunted(key);
        self.part_mut(key).is_indeterminate |= haunted;
        self.counters.indeterminate += u64::from(self.part(key).is_indeterminate && result.is_ok());
        self.settle(key);
        self.end(now, key, result.map_or_else(RegionState::Error, |()| RegionState::Ok));
        if self.requests[key.0].choice {
            self.chosen(now, key.0, result.is_ok());
        }
        Completed::Live {
            request: self.requests[key.0].id,
            region: key.1,
        }
    }

    fn cancel(&mut self, now: Timestamp, id: RequestId) -> Result<u32, ErrorKind> {
        let request = self.find(id).ok_or(ErrorKind::Unknown)?;
        let running = self.running(request);
        if running.iter().any(|&key| self.is_stuck(key)) {
            return Err(ErrorKind::WouldBlock);
        }
        for &key in &running {
            self.give_up(now, key, Reason::Handle);
        }
        Ok(u32::try_from(running.len()).unwrap())
    }

    fn tell_device(&mut self, told: Option<ToCancel>) {
        let Some(ToCancel {
            leg,
            device,
            generation,
        }) = told
        else {
            return assert!(self.cancels.is_empty(), "devices are not told of {:?}", self.cancels);
        };
        let key = self.at_device(leg).expect("a device has it");
        assert_eq!((device, generation), (self.device_of(key), self.part(key).generation));
        let place = self.cancels.iter().position(|&cancel| cancel == key);
        self.cancels
            .remove(place.expect("it was given up, and nobody told the device"));
    }

    fn cancelled(&mut self, now: Timestamp, leg: LegId, outcome: CancelOutcome) {
        let orphan = self.at_device(leg).filter(|&key| self.part(key).place == Place::Orphan);
        let Some(key) = orphan.filter(|&key| !self.part(key).is_detached) else {
            return;
        };
        let device = self.device_of(key);
        if outcome == CancelOutcome::NeverStarted {
            if !self.news.contains(&(key.0, News::End(key.1))) {
                return;
            }
            let Some(RegionState::Cancelled(how)) = &mut self.part_mut(key).state else {
                panic!("an orphan is cancelled");
            };
            let is_news = !std::mem::replace(&mut how.never_started, true);
            self.counters.never_started += u64::from(is_news);
            return;
        }
        let was_degraded = self.is_degraded(device);
        self.part_mut(key).is_detached = true;
        if self.is_degraded(device) && !was_degraded {
            self.fail_waiting(now, device, Errno::TIMEDOUT);
        }
    }

    fn replace(&mut self, now: Timestamp, device: DeviceIndex, config: DeviceConfig) -> Generation {
        self.give_up_device(now, device);
        self.keys_on(device).into_iter().for_each(|key| self.haunt(key));
        let place = self.device_mut(device);
        place.generation.0 += 1;
        place.config = config;
        (place.is_fenced, place.is_busy) = (false, false);
        self.advance_all(now);
        self.device(device).generation
    }
}
