//! Frontends, devices and time, simulated; registry, intakes and policies, real.
//!
//! A thread of a simulated frontend runs a pass when something arrived or ended for it, when a waker woke it, and when
//! `wake_at` said so; in a pass it does what a lane does. Time moves from event to event. Everything random comes from the
//! seed.
//!
//! # Always checked
//! - Every request that was received ends (or is handed back by a detach): [`Sim::finish`] waits, in virtual time, and names
//!   what still waits then. Grants, aborts, allocs and frees add up; pending is exact at the end of every run, and 0 in the end.
//! - Nobody spins: no thread runs pass after pass at one instant, and what `wake_at` asked for leads to grants mostly.
//! - When nothing is left to do, nobody wakes up.

mod end;
mod frontend;
mod rules;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use iomgr_core::Timestamp;
use iomgr_core::manager::{Head, ManagedDevice, Registry};
use iomgr_core::policy::{Governor, ManagerConfig, PolicyConfig};

use self::frontend::{Queue, Rung, Thread};
use crate::load::Load;
use crate::log::Log;
use crate::server::{Server, Service, Serving};

pub(crate) use rules::Rules;

/// A device of the simulation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dev(pub(crate) usize);

/// A server of the simulation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ServerId(usize);

/// A request's place: the queue, and its slot there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    queue: usize,
    slot: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A thread runs a pass.
    Pass { thread: usize },
    /// The next request of an open load.
    Arrive { device: usize },
    /// A load goes on or off.
    Phase { device: usize },
    /// A request was served.
    Served { place: Place },
}

#[derive(Debug)]
struct Device {
    name: String,
    managed: Arc<ManagedDevice>,
    load: Load,
    server: usize,
    is_on: bool,
    /// It never goes on again.
    is_over: bool,
    /// The next request of an open load is on its way.
    arrives: bool,
    queues: Vec<usize>,
    log: Log,
}

/// See above.
#[derive(Debug)]
pub(crate) struct Sim {
    pub(crate) governor: Governor,
    pub(crate) rng: Rng,
    rules: Rules,
    now: Timestamp,
    events: BinaryHeap<Reverse<(Timestamp, u64, Event)>>,
    seen: u64,
    scheduled: u64,
    threads: Vec<Thread>,
    queues: Vec<Queue>,
    devices: Vec<Device>,
    servers: Vec<Server>,
    rung: Arc<Rung>,
    passes: u64,
    idle_passes: u64,
    granted: u64,
    in_flight_max: u64,
}

impl Sim {
    pub(crate) fn new(seed: u64, rules: Rules) -> Self {
        Self {
            governor: Governor::new(Registry::new()),
            rng: Rng::with_seed(seed),
            rules,
            now: Timestamp::ZERO,
            events: BinaryHeap::new(),
            seen: 0,
            scheduled: 0,
            threads: Vec::new(),
            queues: Vec::new(),
            devices: Vec::new(),
            servers: Vec::new(),
            rung: Arc::default(),
            passes: 0,
            idle_passes: 0,
            granted: 0,
            in_flight_max: 0,
        }
    }

    /// A simulation under this policy.
    pub(crate) fn under(seed: u64, policy: PolicyConfig) -> Self {
        let sim = Self::new(seed, Rules::default());
        sim.set(policy);
        sim
    }

    /// Sets the policy.
    pub(crate) fn set(&self, policy: PolicyConfig) {
        self.set_all(&ManagerConfig { policy, limit: None });
    }

    /// Sets the policy and what stands below it.
    pub(crate) fn set_all(&self, config: &ManagerConfig) {
        self.governor.set(config).unwrap();
        assert_eq!(self.governor.config().as_ref(), Some(config), "what was set is shown");
    }

    pub(crate) fn add_server(&mut self, service: Service) -> ServerId {
        self.servers.push(Server::new(service));
        ServerId(self.servers.len() - 1)
    }

    /// A device that begins its work now.
    pub(crate) fn add(&mut self, name: &str, server: ServerId, load: Load) -> Dev {
        let device = self.devices.len();
        let managed = self.governor.registry().attach(name).unwrap();
        let queues = (0..load.queues).map(|_| self.add_queue(device, &managed, load.depth));
        let queues = queues.collect();
        self.devices.push(Device {
            name: name.to_owned(),
            managed,
            load,
            server: server.0,
            is_on: false,
            is_over: false,
            arrives: false,
            queues,
            log: Log::default(),
        });
        self.turn(Dev(device), true);
        if let Some((on, _)) = self.devices[device].load.phases {
            self.schedule(on, Event::Phase { device });
        }
        Dev(device)
    }

    /// Lets a device begin or stop its work; what it has begun goes on.
    pub(crate) fn turn(&mut self, Dev(index): Dev, on: bool) {
        let device = &mut self.devices[index];
        let was = std::mem::replace(&mut device.is_on, on && !device.is_over);
        if !was && device.is_on {
            self.expect_arrival(index);
            for queue in self.devices[index].queues.clone() {
                self.work_for(self.queues[queue].thread);
            }
        }
    }

    /// Schedules the next request of an open load, once.
    fn expect_arrival(&mut self, index: usize) {
        let device = &mut self.devices[index];
        if let Some(gap) = device.load.gap(&mut self.rng).filter(|_| !device.arrives) {
            device.arrives = true;
            self.schedule(gap, Event::Arrive { device: index });
        }
    }

    /// Takes a device away while it works.
    pub(crate) fn detach(&mut self, dev: Dev) {
        self.turn(dev, false);
        self.devices[dev.0].is_over = true;
        self.devices[dev.0].managed.detach();
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.now
    }

    pub(crate) fn log(&self, dev: Dev) -> &Log {
        &self.devices[dev.0].log
    }

    /// The most that were in flight at a time, on all devices together.
    pub(crate) fn in_flight_max(&self) -> u64 {
        self.in_flight_max
    }

    /// Passes for the sake of `wake_at` in which nothing was granted.
    pub(crate) fn idle_passes(&self) -> u64 {
        self.idle_passes
    }

    pub(crate) fn run_for(&mut self, time: Duration) {
        self.run_until(self.now + time);
    }

    /// Lets time pass.
    pub(crate) fn run_until(&mut self, end: Timestamp) {
        self.hear();
        while let Some(Reverse((at, _, event))) = self.events.peek().copied().filter(|next| next.0.0 <= end) {
            self.events.pop();
            self.now = at;
            self.seen += 1;
            self.handle(event);
            self.hear();
        }
        self.now = end;
        self.check_counts();
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Pass { thread } => self.run_thread(thread),
            Event::Arrive { device } => self.arrive(device),
            Event::Phase { device } => self.change_phase(device),
            Event::Served { place } => self.serve_end(place),
        }
    }

    fn arrive(&mut self, index: usize) {
        let device = &mut self.devices[index];
        device.arrives = false;
        if device.is_on {
            let queue = device.queues[self.rng.usize(0..device.queues.len())];
            self.queues[queue].outside += 1;
            self.work_for(self.queues[queue].thread);
            self.expect_arrival(index);
        }
    }

    fn change_phase(&mut self, index: usize) {
        let device = &self.devices[index];
        if let Some((on, off)) = device.load.phases.filter(|_| !device.is_over) {
            let is_on = !device.is_on;
            self.turn(Dev(index), is_on);
            self.schedule(if is_on { on } else { off }, Event::Phase { device: index });
        }
    }

    fn serve_begin(&mut self, server: usize, place: Place, head: Head) {
        let serving = self.servers[server].begin(&mut self.rng, place, head);
        self.serve(serving);
    }

    fn serve(&mut self, serving: Option<Serving>) {
        if let Some((place, time)) = serving {
            self.schedule(time.max(Duration::from_micros(1)), Event::Served { place });
        }
    }

    fn serve_end(&mut self, place: Place) {
        let Queue { device, thread, .. } = self.queues[place.queue];
        let serving = self.servers[self.devices[device].server].end(&mut self.rng);
        self.serve(serving);
        self.threads[thread].served.push(place);
        self.work_for(thread);
    }

    fn schedule(&mut self, after: Duration, event: Event) {
        self.schedule_at(self.now + after, event);
    }

    fn schedule_at(&mut self, at: Timestamp, event: Event) {
        self.scheduled += 1;
        self.events.push(Reverse((at, self.scheduled, event)));
    }
}
