//! Random calls: an owner and its devices, which answer when they like.
//!
//! A seed says how the machine is made and what is called how often. Devices stall, fail, hand back and answer very late; what a
//! device was told to give up it may stop, or not. At the end devices answer for everything, and everything is taken and released.

mod calls;
mod random;

use std::time::Duration;

use dmio::{DeviceConfig, DeviceIndex, LegId, Machine, MachineConfig, RequestId, Submission};
use fastrand::Rng;
use iomgr_core::Timestamp;

use self::random::random_config;
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
}
