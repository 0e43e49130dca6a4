//! A slot is taken out of a mapping and used again, while queues look at the mapping.

use loom::thread;

use crate::epoch::{EpochDomain, EpochQueue};
use crate::shim::{Arc, AtomicBool, AtomicU64, Ordering};

/// One slot of a file, and whether the mapping points there.
struct World {
    mapped: AtomicBool,
    /// 1 while it belongs to whoever finds it in the mapping, 2 when it was used again.
    slot: AtomicU64,
}

impl World {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            mapped: AtomicBool::new(true),
            slot: AtomicU64::new(1),
        })
    }

    /// A request: if the mapping points to the slot, the slot is still what it was, until the pin goes.
    fn request(&self, queue: &mut EpochQueue) {
        let pin = queue.enter();
        if self.mapped.load(Ordering::Relaxed) {
            assert_eq!(
                self.slot.load(Ordering::Relaxed),
                1,
                "the slot was used again under a request"
            );
        }
        queue.exit(pin);
    }

    /// Takes the slot out, and uses it again if it is known to be out of use.
    fn reuse(&self, domain: &EpochDomain) {
        self.mapped.store(false, Ordering::Relaxed);
        let epoch = domain.advance();
        if domain.drained(epoch) {
            self.slot.store(2, Ordering::Relaxed);
        }
    }
}

#[test]
fn a_slot_is_not_used_again_under_requests() {
    loom::model(|| {
        let (world, domain) = (World::new(), EpochDomain::new(1));
        let mut queue = domain.queue(0).unwrap();
        let reader = Arc::clone(&world);
        let thread = thread::spawn(move || {
            reader.request(&mut queue);
            reader.request(&mut queue);
        });
        world.reuse(&domain);
        thread.join().unwrap();
    });
}

#[test]
fn nor_when_another_epoch_began_before() {
    loom::model(|| {
        let (world, domain) = (World::new(), EpochDomain::new(1));
        let mut queue = domain.queue(0).unwrap();
        let reader = Arc::clone(&world);
        let thread = thread::spawn(move || {
            let pin = queue.enter();
            reader.request(&mut queue);
            queue.exit(pin);
        });
        domain.advance();
        world.reuse(&domain);
        thread.join().unwrap();
    });
}

#[test]
fn what_happened_under_a_pin_is_seen_by_who_sees_it_drained() {
    loom::model(|| {
        let (work, domain) = (Arc::new(AtomicU64::new(0)), EpochDomain::new(1));
        let mut queue = domain.queue(0).unwrap();
        let pin = queue.enter();
        let epoch = domain.advance();
        let worker = Arc::clone(&work);
        let thread = thread::spawn(move || {
            worker.store(1, Ordering::Relaxed);
            queue.exit(pin);
        });
        if domain.drained(epoch) {
            assert_eq!(work.load(Ordering::Relaxed), 1);
        }
        thread.join().unwrap();
    });
}

#[test]
fn nor_under_a_request_that_began_after_an_older_one_and_outlives_it() {
    loom::model(|| {
        let (world, domain) = (World::new(), EpochDomain::new(1));
        let mut queue = domain.queue(0).unwrap();
        let reader = Arc::clone(&world);
        let thread = thread::spawn(move || {
            let older = queue.enter();
            let newer = queue.enter();
            let mapped = reader.mapped.load(Ordering::Relaxed);
            queue.exit(older);
            if mapped {
                assert_eq!(
                    reader.slot.load(Ordering::Relaxed),
                    1,
                    "the slot was used again under a request"
                );
            }
            queue.exit(newer);
        });
        world.reuse(&domain);
        thread.join().unwrap();
    });
}
