//! Where received requests wait until the manager lets them start.

use std::sync::Arc;

use arc_swap::{ArcSwap, Cache};

use super::counters::QueueCounters;
use super::device::QueueShare;
use super::freed::Sleeper;
use super::generation::Binding;
use super::grant::Pin;
use super::holds::Holds;
use super::live::LiveTable;
use super::queues::{Entry, Queues};
use super::{Grant, Granted, Head, ManagedDevice, Ticket, Verdict, Wait};
use crate::{Class, Tag, Timestamp, Waker};

/// One device queue's passage through the hooks. It stays on its frontend's thread.
///
/// In each pass of the loop: [`push`](Self::push) what was received, [`begin_pass`](Self::begin_pass) once, then
/// [`next`](Self::next) until `None`; each grant goes to [`alloc`](Self::alloc), or to [`oo_abort`](Self::oo_abort) when the
/// request cannot start; each ticket goes to [`free`](Self::free) when the request has ended. Before sleeping, ask
/// [`wake_at`](Self::wake_at).
///
/// # Contract
/// - A woken thread runs `begin_pass` on all its intakes: this is how a swap reaches them.
/// - Nothing here allocates after `new` (a swap may), blocks, or calls a device.
#[derive(Debug)]
pub struct Intake {
    device: Arc<ManagedDevice>,
    share: Arc<QueueShare>,
    cache: Cache<Arc<ArcSwap<Binding>>, Arc<Binding>>,
    live: LiveTable,
    queues: Queues,
    holds: Holds,
    /// The time, as last told.
    now: Timestamp,
    /// Its number on the device.
    id: u32,
    /// It is (or was, until told) among the sleepers of the current generation.
    armed: bool,
    /// `waiting_request` said go in this pass.
    looked: bool,
    /// Something that was held may go since `next` was last asked.
    look_again: bool,
    closed: bool,
}

impl Intake {
    /// An intake of `device` for up to `depth` requests per class, on the thread that `waker` wakes.
    pub fn new(device: &Arc<ManagedDevice>, depth: u32, waker: Waker) -> Self {
        let sleeper = Arc::new(Sleeper::new(waker));
        let share = Arc::new(QueueShare {
            counters: QueueCounters::default(),
            sleeper,
        });
        // First where a swap finds it to wake it, then the look at what is current: no swap falls between.
        let id = device.open_queue(&share);
        let mut cache = Cache::new(Arc::clone(&device.binding));
        let binding = Arc::clone(cache.load());
        Self {
            device: Arc::clone(device),
            share,
            cache,
            closed: binding.last,
            live: LiveTable::new(binding),
            queues: Queues::new(depth as usize),
            holds: Holds::default(),
            now: Timestamp::ZERO,
            id,
            armed: false,
            looked: false,
            look_again: false,
        }
    }

    /// Queues a received request; hands it back when its class is full, or when the intake is closed.
    pub fn push(&mut self, head: Head, tag: Tag) -> Result<(), Tag> {
        match self.closed {
            true => Err(tag),
            false => self.queues.push(head, tag),
        }
    }

    /// Begins a pass of the loop: follows a swap. Once a pass, also when nothing is queued.
    pub fn begin_pass(&mut self, now: Timestamp) {
        self.now = now;
        self.looked = false;
        self.look_again = false;
        self.holds.end_due(now);
        if !Arc::ptr_eq(self.cache.load(), &self.live.current().binding) {
            self.follow_swap();
        }
    }

    /// The next request that may start. `None`: none may now.
    pub fn next(&mut self, now: Timestamp) -> Option<Granted> {
        self.now = now;
        self.look_again = false;
        if self.closed || self.queues.len() == 0 {
            return None;
        }
        let class = match self.live.current().hooked {
            true => self.allowed(),
            false => self
                .queues
                .order()
                .into_iter()
                .find(|class| self.queues.head(*class).is_some()),
        }?;
        let Entry { head, tag, place } = self.queues.grant(class)?;
        self.share.counters.grants.bump();
        let pin = Pin::new(self.live.pin(), self.id, head);
        Some(Granted {
            tag,
            grant: Grant { pin, place },
        })
    }

    /// The granted request starts: pending + 1.
    pub fn alloc(&mut self, grant: Grant) -> Ticket {
        let Grant { pin, .. } = grant;
        self.check(&pin);
        self.queues.started(pin.head.class);
        self.share.counters.allocs.bump();
        let live = self.live.pinned(pin.slot);
        if live.hooked {
            let now = self.now;
            live.binding.call("alloc_request", |manager, device| {
                manager.alloc_request(device, &pin.head, now)
            });
        }
        Ticket { pin }
    }

    /// The granted request cannot start for want of resources: the grant goes back to the manager, the request to its
    /// place in the queue. Ask for the next one when there are resources again.
    pub fn oo_abort(&mut self, grant: Grant, tag: Tag) {
        let Grant { pin, place } = grant;
        self.check(&pin);
        let (slot, head) = pin.take();
        self.queues.put_back(Entry { head, tag, place });
        self.share.counters.aborts.bump();
        let now = self.now;
        self.give_back(slot, |binding| {
            binding.call("oo_abort_request", |manager, device| {
                manager.oo_abort_request(device, &head, now)
            });
        });
    }

    /// The request has ended: pending - 1.
    pub fn free(&mut self, ticket: Ticket, now: Timestamp) {
        self.now = now;
        self.check(&ticket.pin);
        let (slot, head) = ticket.pin.take();
        self.share.counters.frees.bump();
        self.give_back(slot, |binding| {
            binding.call("free_request", |manager, device| {
                manager.free_request(device, &head, now)
            });
        });
    }

    /// When to run the next pass for the sake of held requests, if nothing wakes the thread before. An instant that has
    /// passed means at once.
    pub fn wake_at(&self) -> Option<Timestamp> {
        if self.closed || self.queues.len() == 0 {
            return None;
        }
        if self.look_again {
            return Some(Timestamp::ZERO);
        }
        self.holds.wake_at(|class| self.queues.head(class).is_some())
    }

    /// How many requests wait here.
    pub fn queued(&self) -> usize {
        self.queues.len()
    }

    /// Was it closed, or its device detached? Then [`close`](Self::close) it and fail what that hands back.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Ends the intake: takes nothing more, grants nothing more, and hands back what waits. Tickets are freed as before.
    pub fn close(&mut self) -> impl Iterator<Item = Tag> {
        self.closed = true;
        self.disarm();
        std::iter::from_fn(|| self.queues.take_any())
    }

    /// The class whose head may start now, as the manager says.
    fn allowed(&mut self) -> Option<Class> {
        self.notice_freed();
        if !self.may_look() {
            return None;
        }
        let now = self.now;
        for class in self.queues.order() {
            let Some(entry) = self.queues.head(class) else { continue };
            if self.holds.class(class).holds(now) {
                continue;
            }
            let head = entry.head;
            match self.ask("allow_request", |binding, hook| {
                binding.call(hook, |manager, device| manager.allow_request(device, &head, now))
            }) {
                Verdict::Go => return Some(class),
                Verdict::No(wait) => self.holds.class(class).begin(wait, now),
            }
        }
        None
    }

    /// Asks `waiting_request`, once a pass.
    fn may_look(&mut self) -> bool {
        let now = self.now;
        if self.holds.device.holds(now) {
            return false;
        }
        if !self.looked {
            match self.ask("waiting_request", |binding, hook| {
                binding.call(hook, |manager, device| manager.waiting_request(device, now))
            }) {
                Verdict::Go => self.looked = true,
                Verdict::No(wait) => self.holds.device.begin(wait, now),
            }
        }
        self.looked
    }

    /// Asks the manager; when it says "no, until one is freed", arms and asks again, so that a free in between is seen.
    fn ask(&mut self, hook: &str, question: impl Fn(&Binding, &str) -> Option<Verdict>) -> Verdict {
        let binding = &self.live.current().binding;
        let mut verdict = question(binding, hook).unwrap_or(Verdict::Go);
        if verdict == Verdict::No(Wait::Freed) && !self.armed {
            binding.generation.freed.arm(&self.share.sleeper);
            verdict = question(binding, hook).unwrap_or(Verdict::Go);
            self.armed = true;
            if verdict != Verdict::No(Wait::Freed) {
                self.disarm();
            }
        }
        if verdict != Verdict::Go {
            self.share.counters.ngs.bump();
        }
        verdict
    }

    /// Was something freed elsewhere? Then what waits for that is asked for again.
    fn notice_freed(&mut self) {
        if self.armed && self.share.sleeper.was_told() {
            self.armed = false;
            self.holds.end_freed();
        }
    }

    /// Tells the manager of `slot` that a grant or ticket ended, then whoever waits for that, then lets go of the slot.
    fn give_back(&mut self, slot: u32, tell: impl FnOnce(&Binding)) {
        let live = self.live.pinned(slot);
        if live.hooked {
            tell(&live.binding);
            live.binding.generation.freed.tell(&self.share.sleeper);
            if self.armed && self.share.sleeper.was_told() {
                self.notice_freed();
                self.look_again = true;
            }
        }
        self.live.unpin(slot);
    }

    fn follow_swap(&mut self) {
        self.disarm();
        self.holds = Holds::default();
        let binding = Arc::clone(self.cache.load());
        self.closed |= binding.last;
        self.live.move_to(binding);
    }

    fn disarm(&mut self) {
        if self.armed {
            self.live.current().binding.generation.freed.disarm(&self.share.sleeper);
            self.armed = false;
        }
    }

    fn check(&self, pin: &Pin) {
        assert_eq!(
            pin.intake, self.id,
            "a grant or ticket goes back to the intake that gave it"
        );
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        self.disarm();
        self.device.close_queue(&self.share);
        let pins = self.live.pins();
        if pins != 0 {
            tracing::error!(device = self.device.info().name(), pins, "intake_dropped_with_requests");
        }
    }
}
