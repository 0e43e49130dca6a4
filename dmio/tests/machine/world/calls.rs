//! What is called: each method calls the machine, as its owner or somebody else would, and has that seen.

use std::time::Duration;

use dmio::{ErrorKind, LegId, MemoryKind, Submission};
use iomgr_core::{CancelOutcome, Errno, Operation, SectorRange};

use super::World;
use super::random::random_device_config;
use crate::seen::Call;

impl World {
    pub(super) fn start(&mut self) {
        let is_flush = self.rng.u32(..20) == 0;
        let mut regions = self.random_regions();
        if is_flush {
            regions
                .iter_mut()
                .for_each(|region| region.range = SectorRange::default());
        }
        let mut io = self.random_io(&regions);
        if is_flush {
            (io.op, io.memory, io.choice) = (Operation::Flush, MemoryKind::None, false);
        }
        let started = self
            .call(|machine, now| machine.start(now, &io))
            .map_err(|error| error.kind());
        if let Ok(id) = started {
            self.handles.push(id);
            self.old.push(id);
        }
        self.did(&Call::Start(io, started));
    }

    pub(super) fn submit(&mut self) {
        let submission = self.call(|machine, _| machine.poll_submit());
        self.did(&Call::Submit(submission));
        let Some(submission) = submission else { return };
        self.at_devices.push(submission);
        if self.rng.u32(..20) == 0 {
            self.hand_back_at(self.at_devices.len() - 1);
        }
    }

    /// A device hands something back that it got before, or tries to.
    pub(super) fn hand_back(&mut self) {
        let had = self.at_devices.len();
        if had > 0 {
            let place = self.rng.usize(..had);
            self.hand_back_at(place);
        }
    }

    pub(super) fn hand_back_at(&mut self, place: usize) {
        let Submission { leg, .. } = self.at_devices[place];
        let before = self.machine.counters().busy;
        self.call(|machine, _| machine.handle_busy(leg));
        let is_back = self.machine.counters().busy > before;
        if is_back {
            self.at_devices.swap_remove(place);
        }
        self.did(&Call::Busy(leg, is_back));
    }

    pub(super) fn submit_all(&mut self) {
        loop {
            let had = self.at_devices.len();
            self.submit();
            if self.at_devices.len() == had {
                return;
            }
        }
    }

    pub(super) fn answer(&mut self) {
        let awake = |submission: &Submission| !self.disks[usize::from(submission.device.0)].is_stalled;
        let awake: Vec<_> = (0..self.at_devices.len())
            .filter(|&place| awake(&self.at_devices[place]))
            .collect();
        if let Some(&place) = self.rng.choice(&awake) {
            self.answer_for(place);
        }
    }

    pub(super) fn answer_for(&mut self, place: usize) {
        let Submission { leg, device, .. } = self.at_devices.swap_remove(place);
        let errors = self.disks[usize::from(device.0)].errors;
        let result = match self.stopped.iter().position(|&stopped| stopped == leg) {
            Some(stopped) => {
                self.stopped.swap_remove(stopped);
                Err(Errno::CANCELED)
            }
            None if self.rng.u32(..100) < errors => Err(Errno::IO),
            None => Ok(()),
        };
        let completed = self.call(|machine, now| machine.handle_completion(now, leg, result));
        self.did(&Call::Answer(leg, result, completed));
    }

    pub(super) fn cancel(&mut self) {
        let old = self.rng.u32(..4) == 0;
        let ids = if old { &self.old } else { &self.handles };
        if let Some(&id) = self.rng.choice(ids) {
            let cancelled = self
                .call(|machine, now| machine.cancel(now, id))
                .map_err(|error| error.kind());
            self.did(&Call::Cancel(id, cancelled));
        }
    }

    pub(super) fn cancel_device(&mut self) {
        let (device, fence) = (self.random_device(), self.rng.u32(..4) == 0);
        let moved = self
            .call(|machine, now| machine.cancel_device(now, device, fence))
            .unwrap();
        self.did(&Call::CancelDevice(device, fence, moved));
    }

    /// Devices learn what to give up; they stop what they have not begun.
    pub(super) fn tell_devices(&mut self) {
        loop {
            let told = self.call(|machine, _| machine.poll_cancel());
            self.did(&Call::ToCancel(told));
            let Some(told) = told else { return };
            let outcome = match self.rng.u32(..5) {
                0 => CancelOutcome::NeverStarted,
                1 => CancelOutcome::Unknown,
                _ => CancelOutcome::Detached,
            };
            if outcome == CancelOutcome::NeverStarted {
                self.stopped.push(told.leg);
            }
            self.call(|machine, now| machine.handle_cancelled(now, told.leg, outcome));
            self.did(&Call::Cancelled(told.leg, outcome));
            if self.rng.u32(..4) == 0 {
                return;
            }
        }
    }

    pub(super) fn event(&mut self) -> bool {
        let event = self.call(|machine, _| machine.poll_event());
        self.did(&Call::Event(event));
        event.is_some()
    }

    pub(super) fn one_event(&mut self) {
        self.event();
    }

    /// Takes events, and between them does what whoever is notified may do.
    pub(super) fn events(&mut self) {
        while self.event() {
            if self.rng.u32(..100) < self.style.calls_between_events {
                match self.rng.u32(..3) {
                    0 => self.cancel(),
                    1 => self.start(),
                    _ => self.release(),
                }
            }
        }
    }

    pub(super) fn pass_time(&mut self) {
        self.now = match self.machine.poll_timeout() {
            Some(next) if self.rng.bool() => self.now.max(next),
            _ => self.now + Duration::from_nanos(self.rng.u64(..) >> self.rng.u32(20..64)),
        };
        self.call(|machine, now| machine.handle_timeout(now));
        self.did(&Call::Time);
    }

    pub(super) fn fence(&mut self) {
        let device = self.random_device();
        self.call(|machine, now| machine.fence(now, device)).unwrap();
        self.did(&Call::Fence(device));
    }

    pub(super) fn unfence(&mut self) {
        let device = self.random_device();
        self.call(|machine, _| machine.unfence(device)).unwrap();
        self.did(&Call::Unfence(device));
    }

    pub(super) fn replace(&mut self) {
        let (device, config) = (self.random_device(), random_device_config(&mut self.rng));
        let missing = self.machine.cells_missing(device).unwrap();
        if missing > 0 {
            let refused = self.machine.replace(self.now, device, config).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Memory);
            self.machine.add_cells(missing);
        }
        let generation = self.call(|machine, now| machine.replace(now, device, config)).unwrap();
        self.disks[usize::from(device.0)].config = config;
        self.did(&Call::Replace(device, config, generation));
    }

    pub(super) fn retry(&mut self) {
        let device = self.random_device();
        self.call(|machine, _| machine.retry(device)).unwrap();
        self.did(&Call::Retry(device));
    }

    pub(super) fn release(&mut self) {
        if self.handles.is_empty() {
            return;
        }
        let place = self.rng.usize(..self.handles.len());
        if self.rng.u32(..8) == 0 {
            let id = self.handles[place];
            let acquired = self.call(|machine, _| machine.acquire(id));
            self.handles.extend(acquired.is_ok().then_some(id));
            return self.did(&Call::Acquire(id, acquired.is_ok()));
        }
        let id = self.handles.swap_remove(place);
        self.call(|machine, _| machine.release(id));
        self.did(&Call::Release(id));
    }

    pub(super) fn stall(&mut self) {
        let device = usize::from(self.random_device().0);
        self.disks[device].is_stalled ^= true;
    }

    /// Calls about what is not there any more: they do nothing.
    pub(super) fn too_late(&mut self) {
        let leg = LegId(self.rng.u32(..self.config.legs + 2));
        if self.at_devices.iter().any(|submission| submission.leg == leg) {
            return;
        }
        let completed = self.call(|machine, now| machine.handle_completion(now, leg, Ok(())));
        self.did(&Call::Answer(leg, Ok(()), completed));
        self.call(|machine, now| machine.handle_cancelled(now, leg, CancelOutcome::Detached));
        self.did(&Call::Cancelled(leg, CancelOutcome::Detached));
        self.call(|machine, _| machine.handle_busy(leg));
        self.did(&Call::Busy(leg, false));
    }
}
