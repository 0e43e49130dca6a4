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

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use iomgr_core::manager::{Granted, Head, Intake, ManagedDevice, Registry, Ticket};
use iomgr_core::policy::{Governor, ManagerConfig, PolicyConfig};
use iomgr_core::{Tag, Timestamp, Wake, Waker};

use crate::load::{Arrivals, Load};
use crate::log::Log;
use crate::server::{Server, Service, Serving};

/// Passes of one thread at one instant that nobody needs.
const PASSES_AT_ONCE: u64 = 20_000;
/// Passes for the sake of `wake_at` without a grant that count for nothing.
const FREE_PASSES: u64 = 500;
/// After which a grant that was given back can be had again.
const SCARCITY: Duration = Duration::from_micros(20);

/// How the frontends behave.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// Threads that serve the queues; one for each queue if there are fewer queues.
    pub(crate) threads: usize,
    /// What a pass takes.
    pub(crate) pass: Duration,
    /// Of 1000 grants, those that are given back for want of resources.
    pub(crate) aborts: u32,
    /// How long everything may take to end, in virtual time.
    pub(crate) patience: Duration,
    /// Passes for the sake of `wake_at` without a grant, for each request that is granted, above [`FREE_PASSES`].
    pub(crate) idle_passes: u64,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            threads: usize::MAX,
            pass: Duration::ZERO,
            aborts: 0,
            patience: Duration::from_secs(200_000),
            idle_passes: 1,
        }
    }
}

impl Rules {
    /// Any behaviour.
    pub(crate) fn random(rng: &mut Rng) -> Self {
        Self {
            threads: rng.usize(1..12),
            pass: Duration::from_nanos(rng.u64(0..20_000)) * u32::from(rng.bool()),
            aborts: rng.u32(0..50) * u32::from(rng.bool()),
            ..Self::default()
        }
    }
}

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

#[derive(Debug, Default)]
struct Thread {
    queues: Vec<usize>,
    /// Requests that were served, and whose end it has not seen.
    served: Vec<Place>,
    /// When it runs its next pass, and whether for the sake of `wake_at` alone.
    due: Option<(Timestamp, bool)>,
    busy_until: Timestamp,
    last: Timestamp,
    at_once: u64,
}

#[derive(Debug)]
struct Queue {
    device: usize,
    thread: usize,
    intake: Intake,
    slots: Vec<Slot>,
    vacant: Vec<u32>,
    /// Requests of an open load that are not received yet.
    outside: u64,
}

#[derive(Debug)]
struct Slot {
    head: Head,
    ticket: Option<Ticket>,
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

/// Threads that wakers woke.
#[derive(Debug, Default)]
struct Rung(Mutex<Vec<usize>>);

struct Bell {
    thread: usize,
    rung: Arc<Rung>,
}

impl Wake for Bell {
    fn wake(&self) {
        self.rung.0.lock().unwrap().push(self.thread);
    }
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

    fn add_queue(&mut self, device: usize, managed: &Arc<ManagedDevice>, depth: u32) -> usize {
        let queue = self.queues.len();
        let thread = queue % self.rules.threads;
        if thread == self.threads.len() {
            self.threads.push(Thread::default());
        }
        self.threads[thread].queues.push(queue);
        let rung = Arc::clone(&self.rung);
        let waker = Waker::new(Arc::new(Bell { thread, rung }));
        self.queues.push(Queue {
            device,
            thread,
            intake: Intake::new(managed, depth, waker),
            slots: Vec::new(),
            vacant: Vec::new(),
            outside: 0,
        });
        queue
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

    /// Runs a pass for whom wakers woke.
    fn hear(&mut self) {
        let rung = std::mem::take(&mut *self.rung.0.lock().unwrap());
        rung.into_iter().for_each(|thread| self.work_for(thread));
    }

    /// There is something for this thread to do.
    fn work_for(&mut self, thread: usize) {
        self.call(thread, self.now, false);
    }

    fn call(&mut self, index: usize, at: Timestamp, is_timer: bool) {
        let thread = &mut self.threads[index];
        let at = at.max(thread.busy_until);
        match &mut thread.due {
            Some((due, timer)) if *due <= at => *timer &= is_timer || *due < at,
            due => {
                *due = Some((at, is_timer));
                self.schedule_at(at, Event::Pass { thread: index });
            }
        }
    }

    fn run_thread(&mut self, index: usize) {
        let thread = &mut self.threads[index];
        let Some((_, is_timer)) = thread.due.take_if(|(due, _)| *due == self.now) else {
            return;
        };
        thread.at_once = if thread.last == self.now { thread.at_once + 1 } else { 0 };
        assert!(
            thread.at_once < PASSES_AT_ONCE,
            "thread {index} spins at {:?}",
            self.now
        );
        thread.last = self.now;
        thread.busy_until = self.now + self.rules.pass;
        let granted = self.pass(index);
        self.granted += granted;
        if is_timer && granted == 0 {
            self.idle_passes += 1;
            let most = self.rules.idle_passes * self.granted + FREE_PASSES;
            assert!(
                self.idle_passes <= most,
                "spins: {most} passes, {} grants",
                self.granted
            );
        }
    }

    /// What a frontend's thread does; says how many requests were granted.
    fn pass(&mut self, thread: usize) -> u64 {
        let ends_first = self.rng.bool();
        if ends_first {
            self.end_served(thread);
        }
        let queues = self.threads[thread].queues.clone();
        queues.iter().for_each(|queue| self.receive(*queue));
        let granted = queues.iter().map(|queue| self.admit(*queue)).sum();
        if !ends_first && self.end_served(thread) {
            self.work_for(thread);
        }
        let wake_at = queues.iter().filter_map(|queue| self.queues[*queue].intake.wake_at());
        if let Some(at) = wake_at.min() {
            self.call(thread, at.max(self.now), true);
        }
        granted
    }

    /// Sees what was served end; says if there was anything.
    fn end_served(&mut self, thread: usize) -> bool {
        let served = std::mem::take(&mut self.threads[thread].served);
        for Place { queue, slot } in &served {
            let queue = &mut self.queues[*queue];
            let place = &mut queue.slots[*slot as usize];
            let ticket = place.ticket.take().expect("what was served has started");
            queue.intake.free(ticket, self.now);
            queue.vacant.push(*slot);
            self.devices[queue.device].log.end(self.now, place.head);
        }
        !served.is_empty()
    }

    /// Takes in what arrived, as far as there are slots.
    fn receive(&mut self, queue: usize) {
        let queue = &mut self.queues[queue];
        let device = &self.devices[queue.device];
        let is_closed = matches!(device.load.arrivals, Arrivals::Closed);
        while device.is_on && (is_closed || queue.outside > 0) {
            let Some(slot) = queue.slot(device.load.depth) else {
                return;
            };
            let head = device.load.head(&mut self.rng, self.now);
            match queue.slots.get_mut(slot as usize) {
                Some(old) => *old = Slot { head, ticket: None },
                None => queue.slots.push(Slot { head, ticket: None }),
            }
            queue.outside = queue.outside.saturating_sub(1);
            queue
                .intake
                .push(head, Tag(slot))
                .expect("as many slots as the intake's depth");
        }
    }

    /// Starts what may start; says how much did.
    fn admit(&mut self, index: usize) -> u64 {
        let mut granted = 0;
        self.passes += 1;
        let queue = &mut self.queues[index];
        queue.intake.begin_pass(self.now);
        if queue.intake.is_closed() {
            self.hand_back(index);
            return 0;
        }
        while let Some(Granted { tag, grant }) = self.queues[index].intake.next(self.now) {
            let queue = &mut self.queues[index];
            if self.rng.u32(0..1000) < self.rules.aborts {
                queue.intake.oo_abort(grant, tag);
                let again = self.now + SCARCITY;
                self.call(self.queues[index].thread, again, false);
                return granted;
            }
            let ticket = queue.intake.alloc(grant);
            self.started(
                Place {
                    queue: index,
                    slot: tag.0,
                },
                ticket,
            );
            granted += 1;
        }
        granted
    }

    fn started(&mut self, place: Place, ticket: Ticket) {
        let queue = &mut self.queues[place.queue];
        let slot = &mut queue.slots[place.slot as usize];
        slot.ticket = Some(ticket);
        let (head, device) = (slot.head, &mut self.devices[queue.device]);
        device.log.start(self.now, head);
        let server = device.server;
        let in_flight = self.devices.iter().map(|device| device.log.in_flight).sum();
        self.in_flight_max = self.in_flight_max.max(in_flight);
        self.serve_begin(server, place, head);
    }

    /// The device is gone.
    fn hand_back(&mut self, index: usize) {
        let queue = &mut self.queues[index];
        let back: Vec<u32> = queue.intake.close().map(|tag| tag.0).collect();
        self.devices[queue.device].log.handed_back += back.len() as u64;
        queue.vacant.extend(back);
    }

    /// Stops all work, and lets end what was begun.
    pub(crate) fn finish(&mut self) -> u64 {
        for device in 0..self.devices.len() {
            self.turn(Dev(device), false);
            self.devices[device].is_over = true;
        }
        let end = self.now + self.rules.patience;
        let step = Duration::from_secs(1);
        while self.outstanding().next().is_some() {
            assert!(
                self.now < end,
                "waits for ever: {:?}",
                self.outstanding().collect::<Vec<_>>()
            );
            self.run_for(step);
        }
        self.run_for(step);
        self.check_end();
        self.seen
    }

    /// Devices with requests that have not ended, and how many.
    fn outstanding(&self) -> impl Iterator<Item = (&str, usize)> {
        let count = |queue: &Queue| queue.slots.len() - queue.vacant.len();
        let queues = self.queues.iter().filter(move |queue| count(queue) > 0);
        queues.map(move |queue| (self.devices[queue.device].name.as_str(), count(queue)))
    }

    fn check_counts(&self) {
        for device in &self.devices {
            assert_eq!(device.managed.pending(), device.log.in_flight, "{}", device.name);
        }
        let in_flight = self.devices.iter().map(|device| device.log.in_flight).sum();
        assert_eq!(self.governor.registry().pending_total(), in_flight);
    }

    fn check_end(&self) {
        let counters = self.governor.registry().counters();
        assert_eq!(counters.pending(), 0);
        assert_eq!(counters.grants, counters.aborts + counters.allocs);
        let asks = 4 * (self.passes + counters.frees + counters.aborts);
        assert!(counters.ngs.total() <= asks, "{counters:?} in {} passes", self.passes);
        let mut awake = self.threads.iter().filter(|thread| thread.due.is_some());
        assert!(awake.next().is_none(), "somebody wakes up for nothing");
    }
}

impl Queue {
    /// A slot for one more request, if there is one.
    fn slot(&mut self, depth: u32) -> Option<u32> {
        let next = u32::try_from(self.slots.len()).unwrap();
        self.vacant.pop().or_else(|| (next < depth).then_some(next))
    }
}
