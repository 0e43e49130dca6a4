//! A manager's generation from its first pin to its end, while others swap, free, detach and panic.
//!
//! Every manager checks what is done to it: no hook before `dev_start` or after `dev_stop`, no `dev_stop` while something is
//! out, each once. Threads really sleep: a wake-up that is lost is a deadlock.

use loom::thread;

use crate::manager::test_utils::{Ask, CountingManager};
use crate::manager::{Granted, Head, Intake, ManagedDevice, Manager, Registry, Ticket, Verdict, Wait};
use crate::shim::{AtomicBool, Ordering};
use crate::{Operation, SectorRange, Tag, Timestamp, Waker};

type Shared<T> = std::sync::Arc<T>;

const SWITCHES: usize = 3;

/// A queue's loop, as every frontend has one.
struct Queue {
    intake: Intake,
    bell: Waker,
    passes: u64,
}

impl Queue {
    fn new(device: &Shared<ManagedDevice>) -> Self {
        let bell = Waker::new();
        Self {
            intake: Intake::new(device, 1, bell.clone()),
            bell,
            passes: 0,
        }
    }

    fn push(&mut self) {
        let head = Head::new(Operation::Read, SectorRange::default(), Timestamp::ZERO);
        self.intake.push(head, Tag(0)).unwrap();
    }

    /// Runs passes, and sleeps between them, until its request starts, or is handed back since the device is detached.
    fn start(&mut self) -> Option<Ticket> {
        loop {
            self.passes += 1;
            let now = Timestamp::from_nanos(self.passes);
            self.intake.begin_pass(now);
            if self.intake.is_closed() {
                assert_eq!(self.intake.close().count(), 1);
                return None;
            }
            if let Some(Granted { grant, .. }) = self.intake.next(now) {
                return Some(self.intake.alloc(grant));
            }
            if self.intake.wake_at().is_none_or(|at| at > now) {
                self.bell.sleep();
            }
        }
    }

    /// A pass in which nothing starts.
    fn pass(&mut self) {
        self.passes += 1;
        self.intake.begin_pass(Timestamp::from_nanos(self.passes));
    }

    fn end(&mut self, ticket: Ticket) {
        self.intake.free(ticket, Timestamp::from_nanos(self.passes));
    }
}

/// A device under this manager.
fn disk_under(manager: Shared<impl Manager + 'static>) -> (Registry, Shared<ManagedDevice>) {
    let registry = Registry::new();
    registry.register(manager).unwrap();
    let device = registry.attach("disk").unwrap();
    (registry, device)
}

/// A queue of such a device; a request waits in it.
fn waiting_under(manager: Shared<impl Manager + 'static>) -> (Registry, Shared<ManagedDevice>, Queue) {
    let (registry, device) = disk_under(manager);
    let mut queue = Queue::new(&device);
    queue.push();
    (registry, device, queue)
}

/// Its one request starts and ends there.
fn run_on_a_thread(mut queue: Queue) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let ticket = queue.start().unwrap();
        queue.end(ticket);
    })
}

fn never() -> Shared<CountingManager> {
    CountingManager::with_policy("never", |_: &Ask| Verdict::No(Wait::Freed))
}

#[test]
fn a_request_ends_with_the_manager_that_admitted_it() {
    crate::model(SWITCHES, || {
        let (old, new) = (CountingManager::new("old"), CountingManager::new("new"));
        let (registry, device) = disk_under(old.clone());
        let mut queue = Queue::new(&device);
        let thread = thread::spawn(move || {
            for _ in 0..2 {
                queue.push();
                let ticket = queue.start().unwrap();
                queue.pass();
                queue.end(ticket);
            }
            queue
        });
        registry.replace(new.clone()).unwrap();
        let mut queue = thread.join().unwrap();
        assert_eq!(registry.pending_total(), 0);
        queue.pass();
        old.assert_over();
        drop((queue, device));
        new.assert_over();
        assert_eq!(old.seen().frees + new.seen().frees, 2);
    });
}

#[test]
fn who_waits_for_a_free_is_woken_by_a_swap() {
    crate::model(SWITCHES, || {
        let (old, new) = (never(), CountingManager::new("new"));
        let (registry, device, queue) = waiting_under(old.clone());
        let thread = run_on_a_thread(queue);
        registry.replace(new.clone()).unwrap();
        thread.join().unwrap();
        drop(device);
        old.assert_over();
        new.assert_over();
        assert_eq!((old.seen().grants, new.seen().frees), (0, 1));
    });
}

/// The queue is opened while the swap is at it: it is woken by it, or sees it.
#[test]
fn a_queue_that_is_opened_during_a_swap_misses_nothing() {
    crate::model(SWITCHES, || {
        let (old, new) = (never(), CountingManager::new("new"));
        let (registry, device) = disk_under(old.clone());
        let thread = thread::spawn(move || {
            let mut queue = Queue::new(&device);
            queue.push();
            let ticket = queue.start().unwrap();
            queue.end(ticket);
        });
        registry.replace(new.clone()).unwrap();
        thread.join().unwrap();
        old.assert_over();
        new.assert_over();
    });
}

/// One queue waits for what another has, both under a manager that goes: the free is told in its own generation, and the
/// swap wakes whoever waits there.
#[test]
fn a_free_of_the_old_generation_and_a_swap_lose_nobody() {
    crate::model(SWITCHES, || {
        let (old, new) = (
            CountingManager::with_limit("old", 1),
            CountingManager::with_limit("new", 1),
        );
        let (registry, device) = disk_under(old.clone());
        let (mut busy, mut waiting) = (Queue::new(&device), Queue::new(&device));
        busy.push();
        let ticket = busy.start().unwrap();
        waiting.push();
        let frees = thread::spawn(move || busy.end(ticket));
        let waits = run_on_a_thread(waiting);
        registry.replace(new.clone()).unwrap();
        frees.join().unwrap();
        waits.join().unwrap();
        drop(device);
        old.assert_over();
        new.assert_over();
        assert_eq!(old.seen().frees + new.seen().frees, 2);
    });
}

#[test]
fn who_waits_for_a_free_is_woken_by_it() {
    crate::model(SWITCHES, || {
        let manager = CountingManager::with_limit("one", 1);
        let (_registry, device) = disk_under(manager.clone());
        let (mut busy, mut waiting) = (Queue::new(&device), Queue::new(&device));
        drop(device);
        busy.push();
        let ticket = busy.start().unwrap();
        waiting.push();
        let waits = run_on_a_thread(waiting);
        busy.end(ticket);
        drop(busy);
        waits.join().unwrap();
        manager.assert_over();
    });
}

#[test]
fn detaching_wakes_who_waits_and_stops_the_device_once() {
    crate::model(SWITCHES, || {
        let manager = never();
        let (_registry, device, mut queue) = waiting_under(manager.clone());
        let thread = thread::spawn(move || assert!(queue.start().is_none()));
        device.detach();
        thread.join().unwrap();
        manager.assert_over();
    });
}

/// Whichever comes last, a detached device has no manager, and none is stopped twice.
#[test]
fn a_swap_during_a_detach_starts_nothing_that_is_not_stopped() {
    crate::model(SWITCHES, || {
        let (old, new) = (never(), CountingManager::new("new"));
        let (registry, device) = disk_under(old.clone());
        let mut queue = Queue::new(&device);
        let swaps = {
            let new = new.clone();
            thread::spawn(move || registry.replace(new).unwrap())
        };
        device.detach();
        queue.intake.begin_pass(Timestamp::ZERO);
        assert!(queue.intake.is_closed());
        swaps.join().unwrap();
        drop((queue, device));
        old.assert_over();
        new.assert_over();
    });
}

/// The request waits for an instant that is far; what made it wait changes.
#[test]
fn who_waits_is_judged_anew_when_the_manager_changes_its_mind() {
    crate::model(SWITCHES, || {
        let goes = Shared::new(AtomicBool::new(false));
        let his = Shared::clone(&goes);
        let manager = CountingManager::with_policy("moody", move |_| match his.load(Ordering::Relaxed) {
            true => Verdict::Go,
            false => Verdict::No(Wait::Until(Timestamp::from_nanos(u64::MAX))),
        });
        let (registry, device, queue) = waiting_under(manager.clone());
        let thread = run_on_a_thread(queue);
        goes.store(true, Ordering::Relaxed);
        registry.rejudge();
        thread.join().unwrap();
        drop(device);
        manager.assert_over();
    });
}

/// Both find out, one of them swaps: "none" takes over from a manager that panicked, but not from its successor.
#[test]
fn a_manager_that_panics_during_a_swap_ends_once() {
    crate::model(SWITCHES, || {
        let new = CountingManager::new("new");
        let (registry, device, queue) = waiting_under(Shared::new(Bad));
        let thread = run_on_a_thread(queue);
        registry.replace(new.clone()).unwrap();
        thread.join().unwrap();
        assert_eq!(registry.current().name(), "new");
        drop(device);
        new.assert_over();
    });
}

/// Panics when it is asked.
#[derive(Debug)]
struct Bad;

impl Manager for Bad {
    fn name(&self) -> &str {
        "bad"
    }

    fn allow_request(&self, _: &crate::manager::DeviceInfo, _: &Head, _: Timestamp) -> Verdict {
        // Without the hook that prints.
        std::panic::resume_unwind(Box::new("bad manager"))
    }
}
