//! The frontends' threads: what they do in a pass is what a lane does.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use iomgr_core::manager::{Granted, Head, Intake, ManagedDevice, Ticket};
use iomgr_core::{Tag, Timestamp, Wake, Waker};

use super::{Event, Place, Sim};
use crate::load::Arrivals;

/// Passes of one thread at one instant that nobody needs.
const PASSES_AT_ONCE: u64 = 20_000;
/// Passes for the sake of `wake_at` without a grant that count for nothing.
const FREE_PASSES: u64 = 500;
/// After which a grant that was given back can be had again.
const SCARCITY: Duration = Duration::from_micros(20);

#[derive(Debug, Default)]
pub(super) struct Thread {
    pub(super) queues: Vec<usize>,
    /// Requests that were served, and whose end it has not seen.
    pub(super) served: Vec<Place>,
    /// When it runs its next pass, and whether for the sake of `wake_at` alone.
    pub(super) due: Option<(Timestamp, bool)>,
    pub(super) busy_until: Timestamp,
    pub(super) last: Timestamp,
    pub(super) at_once: u64,
}

#[derive(Debug)]
pub(super) struct Queue {
    pub(super) device: usize,
    pub(super) thread: usize,
    pub(super) intake: Intake,
    slots: Vec<Slot>,
    pub(super) vacant: Vec<u32>,
    /// Requests of an open load that are not received yet.
    pub(super) outside: u64,
}

#[derive(Debug)]
struct Slot {
    head: Head,
    ticket: Option<Ticket>,
}

/// Threads that wakers woke.
#[derive(Debug, Default)]
pub(super) struct Rung(Mutex<Vec<usize>>);

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
    pub(super) fn add_queue(&mut self, device: usize, managed: &Arc<ManagedDevice>, depth: u32) -> usize {
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

    /// Runs a pass for whom wakers woke.
    pub(super) fn hear(&mut self) {
        let rung = std::mem::take(&mut *self.rung.0.lock().unwrap());
        rung.into_iter().for_each(|thread| self.work_for(thread));
    }

    /// There is something for this thread to do.
    pub(super) fn work_for(&mut self, thread: usize) {
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

    pub(super) fn run_thread(&mut self, index: usize) {
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
}

impl Queue {
    /// A slot for one more request, if there is one.
    fn slot(&mut self, depth: u32) -> Option<u32> {
        let next = u32::try_from(self.slots.len()).unwrap();
        self.vacant.pop().or_else(|| (next < depth).then_some(next))
    }

    /// Requests that have not ended.
    pub(super) fn outstanding(&self) -> usize {
        self.slots.len() - self.vacant.len()
    }
}
