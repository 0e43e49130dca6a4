//! Where received requests wait until the manager lets them start.

use std::sync::Arc;

use super::counters::Scope;
use super::freed::Sleeper;
use super::generation::Binding;
use super::grant::Claim;
use super::holds::Holds;
use super::live::LiveTable;
use super::requests::Requests;
use super::{DeviceInfo, Grant, Granted, Head, ManagedDevice, Manager, Ticket, Verdict};
use crate::shim::{self, ArcSwap, Cache, Ordering};
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
    sleeper: shim::Arc<Sleeper>,
    cache: Cache<Arc<ArcSwap<Binding>>, shim::Arc<Binding>>,
    live: LiveTable,
    /// Dropped after the table, whose counts go to it.
    device: Arc<ManagedDevice>,
    requests: Requests,
    holds: Holds,
    /// Of the current generation, as far as `holds` go.
    revision: u32,
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
    /// In this pass something was granted while a class waited for somebody else to move.
    moved: bool,
    closed: bool,
}

impl Intake {
    /// An intake of `device` for up to `depth` requests per class, on the thread that `waker` wakes.
    pub fn new(device: &Arc<ManagedDevice>, depth: u32, waker: Waker) -> Self {
        let sleeper = shim::Arc::new(Sleeper::new(waker));
        // First where a swap finds it to wake it, then the look at what is current: no swap falls between.
        let id = device.open_queue(&sleeper);
        let mut cache = Cache::new(Arc::clone(&device.binding));
        let binding = shim::Arc::clone(cache.load());
        Self {
            sleeper,
            cache,
            closed: binding.last,
            live: LiveTable::new(binding),
            device: Arc::clone(device),
            requests: Requests::new(depth),
            holds: Holds::default(),
            revision: 0,
            now: Timestamp::ZERO,
            id,
            armed: false,
            looked: false,
            look_again: false,
            moved: false,
        }
    }

    /// Queues a received request; hands it back when its class is full, or when the intake is closed.
    #[inline]
    pub fn push(&mut self, head: Head, tag: Tag) -> Result<(), Tag> {
        match self.closed {
            true => Err(tag),
            false => self.requests.push(head, tag, self.now),
        }
    }

    /// Begins a pass of the loop: follows a swap. Once a pass, also when nothing is queued.
    #[inline]
    pub fn begin_pass(&mut self, now: Timestamp) {
        self.now = now;
        self.looked = false;
        self.look_again = false;
        self.moved = false;
        if self.live.current().hooked {
            self.holds.end_due(now);
            self.follow_revision();
        }
        if !shim::Arc::ptr_eq(self.cache.load(), &self.live.current().binding) {
            self.follow_swap();
        }
    }

    /// The next request that may start. `None`: none may now.
    #[inline]
    pub fn next(&mut self, now: Timestamp) -> Option<Granted> {
        self.now = now;
        self.look_again = false;
        if self.closed || self.requests.waiting() == 0 {
            return None;
        }
        let class = match self.live.current().hooked {
            true => self.allowed(),
            false => self.requests.first_class(),
        }?;
        let (index, entry) = self.requests.grant(class, self.live.current_slot())?;
        self.live.pin().account.granted(entry.since, now);
        Some(Granted {
            tag: entry.tag,
            grant: Grant(Claim::new(index, self.id)),
        })
    }

    /// The granted request starts: pending + 1.
    #[inline]
    pub fn alloc(&mut self, grant: Grant) -> Ticket {
        let index = grant.0.take(self.id);
        let entry = self.requests.started(index);
        let (live, now) = (self.live.pinned(entry.slot), self.now);
        live.account.counters().allocs.bump();
        if live.hooked {
            live.binding.call("alloc_request", |manager, device| {
                manager.alloc_request(device, &entry.head, now)
            });
        }
        Ticket(Claim::new(index, self.id))
    }

    /// The granted request cannot start for want of resources: the grant goes back to the manager, the request to its
    /// place in the queue. Ask for the next one when there are resources again.
    pub fn oo_abort(&mut self, grant: Grant, tag: Tag) {
        let index = grant.0.take(self.id);
        self.requests.put_back(index);
        let entry = *self.requests.entry(index);
        debug_assert_eq!(entry.tag, tag, "a grant goes back with its own request");
        let live = self.live.pinned(entry.slot);
        live.account.counters().aborts.bump();
        if live.hooked {
            let now = self.now;
            self.tell_given_back(entry.slot, "oo_abort_request", |manager, device| {
                manager.oo_abort_request(device, &entry.head, now);
            });
        }
        self.live.unpin(entry.slot);
    }

    /// The request has ended: pending - 1.
    #[inline]
    pub fn free(&mut self, ticket: Ticket, now: Timestamp) {
        self.now = now;
        let index = ticket.0.take(self.id);
        self.requests.forget(index);
        let slot = self.requests.entry(index).slot;
        let live = self.live.pinned(slot);
        live.account.counters().frees.bump();
        if live.hooked {
            let head = self.requests.entry(index).head;
            self.tell_given_back(slot, "free_request", |manager, device| {
                manager.free_request(device, &head, now)
            });
        }
        self.live.unpin(slot);
    }

    /// When to run the next pass for the sake of held requests, if nothing wakes the thread before. An instant that has
    /// passed means at once.
    pub fn wake_at(&self) -> Option<Timestamp> {
        if self.closed || self.requests.waiting() == 0 {
            return None;
        }
        if self.look_again {
            return Some(Timestamp::ZERO);
        }
        self.holds.wake_at(|class| self.requests.head(class).is_some())
    }

    /// The device's name.
    pub(crate) fn device_name(&self) -> &str {
        self.device.info().name()
    }

    /// The manager whose hooks are called here, the current one before those of the past; `None` if there is but "none".
    #[inline]
    pub fn manager(&self) -> Option<&str> {
        self.live.hooked().map(|live| live.binding.generation.name())
    }

    /// How many requests wait here.
    #[inline]
    pub fn queued(&self) -> usize {
        self.requests.waiting()
    }

    /// Was it closed, or its device detached? Then [`close`](Self::close) it and fail what that hands back.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Ends the intake: takes nothing more, grants nothing more, and hands back what waits. Tickets are freed as before.
    pub fn close(&mut self) -> impl Iterator<Item = Tag> {
        self.closed = true;
        self.disarm();
        std::iter::from_fn(|| self.requests.take_any())
    }

    /// The class whose head may start now, as the manager says.
    fn allowed(&mut self) -> Option<Class> {
        self.notice_freed();
        if !self.may_look() {
            return None;
        }
        let class = self.allowed_class();
        if class.is_none() && std::mem::take(&mut self.moved) {
            self.holds.end_expecting();
            return self.allowed_class();
        }
        self.moved |= class.is_some() && self.holds.expect();
        class
    }

    fn allowed_class(&mut self) -> Option<Class> {
        let now = self.now;
        for class in self.requests.order() {
            let Some(entry) = self.requests.head(class) else {
                continue;
            };
            if self.holds.class(class).holds(now) {
                continue;
            }
            let head = entry.head;
            match self.ask(Scope::Class, |binding| {
                binding.call("allow_request", |manager, device| {
                    manager.allow_request(device, &head, now)
                })
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
            match self.ask(Scope::Device, |binding| {
                binding.call("waiting_request", |manager, device| {
                    manager.waiting_request(device, now)
                })
            }) {
                Verdict::Go => self.looked = true,
                Verdict::No(wait) => self.holds.device.begin(wait, now),
            }
        }
        self.looked
    }

    /// Asks the manager; when it says "no, until one is freed", arms and asks again, so that a free in between is seen.
    fn ask(&mut self, scope: Scope, question: impl Fn(&Binding) -> Option<Verdict>) -> Verdict {
        let binding = &self.live.current().binding;
        let mut verdict = question(binding).unwrap_or(Verdict::Go);
        if waits_for_free(verdict) && !self.armed {
            binding.generation.freed.arm(&self.sleeper);
            verdict = question(binding).unwrap_or(Verdict::Go);
            self.armed = true;
            if !waits_for_free(verdict) {
                self.disarm();
            }
        }
        if let Verdict::No(wait) = verdict {
            self.live.current().account.counters().ng(scope, wait);
        }
        verdict
    }

    /// Was something freed? Then what waits for that is asked for again; says if anything did.
    fn notice_freed(&mut self) -> bool {
        let told = self.armed && self.sleeper.was_told();
        self.armed &= !told;
        told && self.holds.end_freed()
    }

    /// Tells the manager of `slot` that a grant or ticket ended, then whoever waits for that.
    fn tell_given_back(&mut self, slot: u32, hook: &str, tell: impl FnOnce(&dyn Manager, &DeviceInfo)) {
        let binding = &self.live.pinned(slot).binding;
        binding.call(hook, tell);
        binding.generation.freed.tell(&self.sleeper);
        self.look_again |= self.notice_freed();
    }

    /// The manager judges otherwise than before: what it held is asked for again.
    fn follow_revision(&mut self) {
        let revision = self.live.current().binding.generation.revision.load(Ordering::Acquire);
        if revision != self.revision {
            self.revision = revision;
            self.disarm();
            self.holds = Holds::default();
        }
    }

    fn follow_swap(&mut self) {
        self.disarm();
        self.holds = Holds::default();
        self.revision = 0;
        let binding = shim::Arc::clone(self.cache.load());
        self.closed |= binding.last;
        self.live.move_to(binding);
    }

    fn disarm(&mut self) {
        if self.armed {
            self.live.current().binding.generation.freed.disarm(&self.sleeper);
            self.armed = false;
        }
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        self.disarm();
        self.device.close_queue(&self.sleeper);
        let pins = self.live.pins();
        if pins != 0 {
            tracing::error!(device = self.device.info().name(), pins, "intake_dropped_with_requests");
        }
    }
}

fn waits_for_free(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::No(wait) if wait.ends_with_free())
}
