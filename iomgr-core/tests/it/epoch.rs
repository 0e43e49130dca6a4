//! Epochs against their contract. Orders of memory are the model checker's part (`tests/loom`).

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;

use iomgr_core::epoch::{Epoch, EpochDomain, EpochPin, EpochQueue};
use proptest::prelude::*;

#[test]
fn an_idle_queue_counts_as_drained() {
    let domain = EpochDomain::new(2);
    let mut busy = domain.queue(0).unwrap();
    let _idle = domain.queue(1).unwrap();
    let pin = busy.enter();
    let epoch = domain.advance();
    assert!(!domain.drained(epoch));
    busy.exit(pin);
    assert!(domain.drained(epoch));
}

#[test]
fn later_pins_do_not_hold_an_epoch_back() {
    let domain = EpochDomain::new(1);
    let mut queue = domain.queue(0).unwrap();
    let old = queue.enter();
    let epoch = domain.advance();
    let new = queue.enter();
    queue.exit(old);
    assert!(domain.drained(epoch));
    assert!(!domain.drained(domain.advance()));
    queue.exit(new);
}

#[test]
fn every_epoch_drains_under_traffic_that_never_pauses() {
    let domain = EpochDomain::new(1);
    let mut queue = domain.queue(0).unwrap();
    let mut pins = [queue.enter(), queue.enter(), queue.enter()];
    for _ in 0..100 {
        let epoch = domain.advance();
        // Two lifetimes at most: the pins that were there, and those that counted as older than they were.
        for _ in 0..2 {
            for pin in &mut pins {
                let next = queue.enter();
                queue.exit(std::mem::replace(pin, next));
            }
        }
        assert!(domain.drained(epoch));
        assert_eq!(queue.pins(), 3);
    }
    pins.into_iter().for_each(|pin| queue.exit(pin));
}

#[test]
fn a_queue_is_given_out_once_at_a_time() {
    let domain = EpochDomain::new(1);
    assert!(domain.queue(1).is_none());
    let mut queue = domain.queue(0).unwrap();
    assert!(domain.queue(0).is_none());
    drop(queue);
    queue = domain.queue(0).unwrap();
    let pin = queue.enter();
    let epoch = domain.advance();
    drop(queue);
    assert!(domain.queue(0).is_none(), "it was dropped with a pin");
    assert!(!domain.drained(epoch));
    drop(pin);
}

#[derive(Clone, Debug)]
enum Step {
    Enter(usize),
    Exit(usize, prop::sample::Index),
    Advance,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..QUEUES).prop_map(Step::Enter),
        3 => (0..QUEUES, any::<prop::sample::Index>()).prop_map(|(queue, index)| Step::Exit(queue, index)),
        1 => Just(Step::Advance),
    ];
    prop::collection::vec(step, 1..200)
}

const QUEUES: usize = 3;

/// One queue and the naive model of it: every pin with the number of epochs that had begun when it was entered.
struct Driven {
    queue: EpochQueue,
    pins: Vec<(EpochPin, usize)>,
}

impl Driven {
    /// Must `epochs[index]` wait for this queue?
    fn holds(&self, index: usize) -> bool {
        self.pins.iter().any(|(_, begun)| *begun <= index)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn drained_means_that_every_older_pin_is_gone(steps in steps()) {
        let domain = EpochDomain::new(QUEUES);
        let drive = |index| Driven { queue: domain.queue(index).unwrap(), pins: Vec::new() };
        let mut queues: Vec<Driven> = (0..QUEUES).map(drive).collect();
        let mut epochs: Vec<Epoch> = Vec::new();
        for step in steps {
            match step {
                Step::Enter(index) => {
                    let pin = queues[index].queue.enter();
                    queues[index].pins.push((pin, epochs.len()));
                }
                Step::Exit(index, pick) if !queues[index].pins.is_empty() => {
                    let pick = pick.index(queues[index].pins.len());
                    let (pin, _) = queues[index].pins.swap_remove(pick);
                    queues[index].queue.exit(pin);
                }
                Step::Exit(..) => {}
                Step::Advance => epochs.push(domain.advance()),
            }
            for (index, epoch) in epochs.iter().enumerate() {
                let drained = domain.drained(*epoch);
                prop_assert!(!(drained && queues.iter().any(|queue| queue.holds(index))), "too early");
                prop_assert!(drained || queues.iter().any(|queue| !queue.pins.is_empty()), "held by nobody");
            }
        }
        for Driven { queue, pins } in &mut queues {
            pins.drain(..).for_each(|(pin, _)| queue.exit(pin));
        }
        prop_assert!(epochs.iter().all(|epoch| domain.drained(*epoch)));
    }
}

#[test]
fn a_slot_is_never_used_again_under_a_request() {
    const READERS: usize = 3;
    const REUSES: usize = 3000;
    let domain = EpochDomain::new(READERS);
    // Which of the slots the mapping points to, and to whose use each slot is put.
    let mapping = AtomicUsize::new(0);
    let slots: [AtomicUsize; 2] = Default::default();
    let stop = AtomicBool::new(false);
    let (looks, ready) = (AtomicU64::new(0), Barrier::new(READERS + 1));
    thread::scope(|scope| {
        for index in 0..READERS {
            let mut queue = domain.queue(index).unwrap();
            let (mapping, slots, stop, looks, ready) = (&mapping, &slots, &stop, &looks, &ready);
            scope.spawn(move || {
                let mut outer = Some(queue.enter());
                ready.wait();
                while !stop.load(Ordering::Relaxed) {
                    let pin = queue.enter();
                    let slot = &slots[mapping.load(Ordering::Acquire) % 2];
                    let before = slot.load(Ordering::Relaxed);
                    thread::yield_now();
                    assert_eq!(slot.load(Ordering::Relaxed), before);
                    looks.fetch_add(1, Ordering::Relaxed);
                    // The pin lasts until after the next one has begun.
                    if let Some(older) = outer.replace(pin) {
                        queue.exit(older);
                    }
                }
                outer.into_iter().for_each(|pin| queue.exit(pin));
            });
        }
        ready.wait();
        for turn in 1..=REUSES {
            let free = &slots[turn % 2];
            free.store(turn, Ordering::Relaxed);
            mapping.store(turn, Ordering::Release);
            let epoch = domain.advance();
            while !domain.drained(epoch) {
                thread::yield_now();
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(looks.load(Ordering::Relaxed) > 0);
}
