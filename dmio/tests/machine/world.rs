//! Random calls: an owner and its devices, which answer when they like.
//!
//! A seed says how the machine is made and what is called how often. Devices stall, fail, hand back and answer very late; what a
//! device was told to give up it may stop, or not. At the end devices answer for everything, and everything is taken and released.

use std::time::Duration;

use dmio::{
    DeviceConfig, DeviceIndex, ErrorKind, Io, IoFlags, LegId, Machine, MachineConfig, MemoryKind, Region, RequestId,
    Submission,
};
use fastrand::Rng;
use iomgr_core::{CancelOutcome, Errno, Operation, RequestFlags, Sector, SectorCount, SectorRange, Timestamp};

use crate::seen::{Call, Watch};

/// What is called, and how often: weights, which each seed changes by up to four times.
const CALLS: [(u32, Step); 18] = [
    (30, World::start),
    (60, World::submit_all),
    (10, World::submit),
    (40, World::answer),
    (6, World::cancel),
    (2, World::cancel_device),
    (20, World::tell_devices),
    (20, World::events),
    (20, World::one_event),
    (12, World::pass_time),
    (1, World::fence),
    (8, World::unfence),
    (1, World::replace),
    (2, World::retry),
    (1, World::hand_back),
    (40, World::release),
    (2, World::stall),
    (3, World::too_late),
];

type Step = fn(&mut World);

/// A device as the owner has it.
#[derive(Clone, Copy, Debug)]
struct Disk {
    config: DeviceConfig,
    is_stalled: bool,
    /// Of 100 requests, so many fail.
    errors: u32,
}

/// How the calls are made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    /// Of 100 events, after so many something is called that whoever is notified may call.
    pub(crate) calls_between_events: u32,
}

impl Default for Style {
    fn default() -> Self {
        Self {
            calls_between_events: 25,
        }
    }
}

/// See the module.
pub(crate) struct World {
    pub(crate) machine: Machine,
    rng: Rng,
    now: Timestamp,
    disks: Vec<Disk>,
    /// What devices have.
    at_devices: Vec<Submission>,
    /// Of those, what they have stopped: it answers so.
    stopped: Vec<LegId>,
    handles: Vec<RequestId>,
    /// Names that were good once.
    old: Vec<RequestId>,
    config: MachineConfig,
    style: Style,
    /// What is called: each as often as its weight says.
    calls: Vec<Step>,
    watch: Box<dyn Watch>,
}

impl World {
    /// Runs the seed before the eyes of a watcher; says how many steps those were.
    pub(crate) fn run<W: Watch + 'static>(seed: u64, style: Style, watch: impl FnOnce(&MachineConfig) -> W) -> u64 {
        let mut rng = Rng::with_seed(seed);
        let config = random_config(&mut rng);
        let watch = Box::new(watch(&config));
        let disk = |config: &DeviceConfig| Disk {
            config: *config,
            is_stalled: false,
            errors: *rng.choice(&[0, 10, 60]).unwrap(),
        };
        let disks = config.devices.iter().map(disk).collect();
        let calls = CALLS.iter().flat_map(|(weight, call)| {
            let weight = *weight as usize * rng.usize(1..=4);
            std::iter::repeat_n(*call, weight)
        });
        let calls = calls.collect();
        let mut world = Self {
            calls,
            disks,
            machine: Machine::new(config.clone()).unwrap(),
            now: Timestamp::from_nanos(rng.u64(..1 << 40)),
            rng,
            at_devices: Vec::new(),
            stopped: Vec::new(),
            handles: Vec::new(),
            old: Vec::new(),
            config,
            style,
            watch,
        };
        let steps = world.rng.u64(50..500);
        for _ in 0..steps {
            world.step();
        }
        world.finish();
        steps
    }

    fn step(&mut self) {
        let call = self.rng.choice(&self.calls).expect("there are some");
        call(self);
        self.now = self.now + Duration::from_nanos(self.rng.u64(..1 << 12));
    }

    /// Calls the machine, which allocates nothing, now or ever.
    fn call<T>(&mut self, call: impl FnOnce(&mut Machine, Timestamp) -> T) -> T {
        let mut answer = None;
        let info = allocation_counter::measure(|| answer = Some(call(&mut self.machine, self.now)));
        assert_eq!(info.count_total, 0, "it allocates: {info:?}");
        answer.unwrap()
    }

    /// Says what was done, and looks whether all is well.
    fn did(&mut self, call: &Call<'_>) {
        self.machine.self_check();
        self.watch.see(self.now, call, &self.machine);
    }

    fn start(&mut self) {
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

    fn submit(&mut self) {
        let submission = self.call(|machine, _| machine.poll_submit());
        self.did(&Call::Submit(submission));
        let Some(submission) = submission else { return };
        self.at_devices.push(submission);
        if self.rng.u32(..20) == 0 {
            self.hand_back_at(self.at_devices.len() - 1);
        }
    }

    /// A device hands something back that it got before, or tries to.
    fn hand_back(&mut self) {
        let had = self.at_devices.len();
        if had > 0 {
            let place = self.rng.usize(..had);
            self.hand_back_at(place);
        }
    }

    fn hand_back_at(&mut self, place: usize) {
        let Submission { leg, .. } = self.at_devices[place];
        let before = self.machine.counters().busy;
        self.call(|machine, _| machine.handle_busy(leg));
        let is_back = self.machine.counters().busy > before;
        if is_back {
            self.at_devices.swap_remove(place);
        }
        self.did(&Call::Busy(leg, is_back));
    }

    fn submit_all(&mut self) {
        loop {
            let had = self.at_devices.len();
            self.submit();
            if self.at_devices.len() == had {
                return;
            }
        }
    }

    fn answer(&mut self) {
        let awake = |submission: &Submission| !self.disks[usize::from(submission.device.0)].is_stalled;
        let awake: Vec<_> = (0..self.at_devices.len())
            .filter(|&place| awake(&self.at_devices[place]))
            .collect();
        if let Some(&place) = self.rng.choice(&awake) {
            self.answer_for(place);
        }
    }

    fn answer_for(&mut self, place: usize) {
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

    fn cancel(&mut self) {
        let old = self.rng.u32(..4) == 0;
        let ids = if old { &self.old } else { &self.handles };
        if let Some(&id) = self.rng.choice(ids) {
            let cancelled = self
                .call(|machine, now| machine.cancel(now, id))
                .map_err(|error| error.kind());
            self.did(&Call::Cancel(id, cancelled));
        }
    }

    fn cancel_device(&mut self) {
        let (device, fence) = (self.random_device(), self.rng.u32(..4) == 0);
        let moved = self
            .call(|machine, now| machine.cancel_device(now, device, fence))
            .unwrap();
        self.did(&Call::CancelDevice(device, fence, moved));
    }

    /// Devices learn what to give up; they stop what they have not begun.
    fn tell_devices(&mut self) {
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

    fn event(&mut self) -> bool {
        let event = self.call(|machine, _| machine.poll_event());
        self.did(&Call::Event(event));
        event.is_some()
    }

    fn one_event(&mut self) {
        self.event();
    }

    /// Takes events, and between them does what whoever is notified may do.
    fn events(&mut self) {
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

    fn pass_time(&mut self) {
        self.now = match self.machine.poll_timeout() {
            Some(next) if self.rng.bool() => self.now.max(next),
            _ => self.now + Duration::from_nanos(self.rng.u64(..) >> self.rng.u32(20..64)),
        };
        self.call(|machine, now| machine.handle_timeout(now));
        self.did(&Call::Time);
    }

    fn fence(&mut self) {
        let device = self.random_device();
        self.call(|machine, now| machine.fence(now, device)).unwrap();
        self.did(&Call::Fence(device));
    }

    fn unfence(&mut self) {
        let device = self.random_device();
        self.call(|machine, _| machine.unfence(device)).unwrap();
        self.did(&Call::Unfence(device));
    }

    fn replace(&mut self) {
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

    fn retry(&mut self) {
        let device = self.random_device();
        self.call(|machine, _| machine.retry(device)).unwrap();
        self.did(&Call::Retry(device));
    }

    fn release(&mut self) {
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

    fn stall(&mut self) {
        let device = usize::from(self.random_device().0);
        self.disks[device].is_stalled ^= true;
    }

    /// Calls about what is not there any more: they do nothing.
    fn too_late(&mut self) {
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

    /// Everything is answered, told and released, as often as anything is left.
    fn finish(&mut self) {
        for disk in &mut self.disks {
            disk.is_stalled = false;
        }
        for round in 0.. {
            if self.machine.occupancy().requests == 0 {
                break;
            }
            assert!(round < 1000, "something never ends: {}", self.machine.dump());
            (0..self.disks.len()).for_each(|device| self.retry_device(device));
            self.submit_all();
            self.tell_devices();
            while !self.at_devices.is_empty() {
                let place = self.rng.usize(..self.at_devices.len());
                self.answer_for(place);
            }
            while self.event() {}
            while !self.handles.is_empty() {
                self.release();
            }
        }
        self.watch.at_the_end(&self.machine);
    }

    fn retry_device(&mut self, device: usize) {
        let device = DeviceIndex(u16::try_from(device).unwrap());
        self.call(|machine, _| machine.retry(device)).unwrap();
        self.did(&Call::Retry(device));
    }

    fn random_device(&mut self) -> DeviceIndex {
        DeviceIndex(self.rng.u16(..u16::try_from(self.disks.len()).unwrap()))
    }

    /// Mostly good ones; then of one length, and near each other.
    fn random_regions(&mut self) -> Vec<Region> {
        let count = match self.rng.u32(..20) {
            0 => self.rng.usize(..70),
            1..10 => 1,
            _ => self.rng.usize(1..5),
        };
        let len = self.rng.u64(1..=2) * 8;
        let region = |_| {
            let off = self.rng.u32(..200) == 0;
            let devices = self.disks.len() + usize::from(off);
            let device = self.rng.usize(..devices);
            let start = self.rng.u64(..10) * 8 + u64::from(self.rng.u32(..200) == 0);
            let len = if self.rng.u32(..100) == 0 {
                self.rng.u64(..30)
            } else {
                len
            };
            Region {
                device: DeviceIndex(u16::try_from(device).unwrap()),
                range: SectorRange::new(Sector(start), SectorCount(len)).unwrap(),
            }
        };
        (0..count).map(region).collect()
    }

    fn random_io<'a>(&mut self, regions: &'a [Region]) -> Io<'a> {
        let rng = &mut self.rng;
        let is_odd = rng.u32(..100) == 0;
        let choice = if is_odd {
            rng.bool()
        } else {
            regions.len() > 1 && rng.bool()
        };
        let op = match rng.u32(..12) {
            _ if choice && !is_odd => Operation::Read,
            0..6 if regions.len() == 1 || is_odd => Operation::Read,
            10 => Operation::Discard,
            11 if rng.bool() => Operation::WriteZeroes,
            11 if is_odd => Operation::Flush,
            11 => Operation::Prefetch,
            _ => Operation::Write,
        };
        let cancellable = rng.u32(..4) > 0;
        let memory = match op {
            Operation::Read | Operation::Write if !is_odd && rng.u32(..3) > 0 => MemoryKind::Bounce,
            Operation::Read | Operation::Write if !is_odd => MemoryKind::Lent { cancellable },
            _ if !is_odd => MemoryKind::None,
            _ => *rng
                .choice(&[MemoryKind::None, MemoryKind::Bounce, MemoryKind::Lent { cancellable }])
                .unwrap(),
        };
        let timeout = rng.u32(..3) > 0;
        let timeout = timeout.then(|| Duration::from_nanos(rng.u64(..) >> rng.u32(20..50)));
        let mut flags = IoFlags::from_bits_truncate(rng.u8(..) & rng.u8(..));
        if memory == (MemoryKind::Lent { cancellable: false }) && !is_odd {
            flags -= IoFlags::CANCEL_ON_TIMEOUT;
        }
        Io {
            op,
            request_flags: RequestFlags::empty(),
            regions,
            choice,
            timeout,
            flags,
            memory,
        }
    }
}

fn random_config(rng: &mut Rng) -> MachineConfig {
    let devices = rng.usize(1..5);
    MachineConfig {
        requests: rng.u32(1..24),
        legs: rng.u32(1..80),
        devices: (0..devices).map(|_| random_device_config(rng)).collect(),
        min_ios: rng.u32(1..5),
        orphans_max: rng.u32(1..16),
        max_size: SectorCount(16),
    }
}

fn random_device_config(rng: &mut Rng) -> DeviceConfig {
    DeviceConfig {
        size: SectorCount(rng.u64(80..100)),
        logical_block_bytes: *rng.choice(&[512, 512, 4096]).unwrap(),
        read_only: rng.u32(..20) == 0,
    }
}
