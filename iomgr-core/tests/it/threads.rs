//! Several intakes on threads of their own, with loops that really sleep: swaps under load, limits across devices, and no
//! wake-up lost on the way.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use iomgr_core::manager::test_utils::CountingManager;
use iomgr_core::manager::{Intake, ManagedDevice, Registry, Ticket, Verdict, Wait};
use iomgr_core::{Class, Operation, Tag, Timestamp, Waker};

use crate::support::*;

/// A frontend's loop: keeps `depth` requests about, ends those that started one pass later, sleeps only when nothing is on
/// its way and nothing may start. With a lost wake-up it sleeps for ever.
fn frontend(device: &Arc<ManagedDevice>, depth: u32, requests: u32, seed: u64) -> u64 {
    let mut random = fastrand::Rng::with_seed(seed);
    let bed = Arc::new(Bed::default());
    let mut intake = Intake::new(device, depth, Waker::new(bed.clone()));
    let mut idle: VecDeque<u32> = (0..depth).collect();
    let mut running: Vec<(Tag, Ticket)> = Vec::new();
    let (mut received, mut ended, mut now) = (0, 0, 0);
    while ended < requests {
        now += 1;
        for (tag, ticket) in running.drain(..) {
            intake.free(ticket, Timestamp::from_nanos(now));
            idle.push_back(tag.0);
            ended += 1;
        }
        while received < requests
            && let Some(tag) = idle.pop_front()
        {
            let op = [Operation::Read, Operation::Write, Operation::Flush][random.usize(..3)];
            intake.push(head(op, Timestamp::from_nanos(now)), Tag(tag)).unwrap();
            received += 1;
        }
        let mut starved = false;
        intake.begin_pass(Timestamp::from_nanos(now));
        while let Some(granted) = intake.next(Timestamp::from_nanos(now)) {
            if random.u8(..) == 0 {
                intake.oo_abort(granted.grant, granted.tag);
                starved = true;
                break;
            }
            running.push((granted.tag, intake.alloc(granted.grant)));
        }
        if running.is_empty() && !starved && intake.queued() != 0 && intake.wake_at().is_none() {
            bed.sleep(None);
        }
    }
    u64::from(ended)
}

#[test]
fn a_thousand_swaps_under_load_lose_nothing() {
    const THREADS: u64 = 4;
    let registry = Registry::new();
    let devices = ["a", "b"].map(|name| registry.attach(name).unwrap());
    let stop = AtomicBool::new(false);
    let managers = thread::scope(|scope| {
        let frontends: Vec<_> = (0..THREADS)
            .map(|seed| {
                let device = &devices[usize::from(seed % 2 == 1)];
                let stop = &stop;
                scope.spawn(move || {
                    let mut ended = 0;
                    while !stop.load(Ordering::Relaxed) {
                        ended += frontend(device, 8, 1000, seed);
                    }
                    ended
                })
            })
            .collect();
        let managers = swap_often(&registry, 1000);
        stop.store(true, Ordering::Relaxed);
        let ended: u64 = frontends.into_iter().map(|frontend| frontend.join().unwrap()).sum();
        let counters = registry.counters();
        assert_eq!((counters.allocs, counters.frees), (ended, ended));
        assert_eq!(counters.grants, counters.allocs + counters.aborts);
        managers
    });
    assert_eq!(registry.pending_total(), 0);
    registry.unregister(&registry.current()).unwrap();
    let allocs: u64 = managers.iter().map(|manager| manager.seen().allocs).sum();
    assert!(allocs <= registry.counters().allocs);
    managers.iter().for_each(|manager| manager.assert_over());
}

/// Managers that go, that limit, that say no to writes until something was freed.
fn swap_often(registry: &Registry, times: u64) -> Vec<Arc<CountingManager>> {
    (0..times)
        .map(|time| {
            let manager = match time % 3 {
                0 => CountingManager::new("go"),
                1 => CountingManager::with_limit("limit", 3),
                _ => CountingManager::with_policy("few-writes", |ask| match ask.head.class {
                    Class::Write if ask.in_flight > 1 => Verdict::No(Wait::Freed),
                    _ => Verdict::Go,
                }),
            };
            registry.replace(manager.clone()).unwrap();
            thread::yield_now();
            manager
        })
        .collect()
}

#[test]
fn no_wake_up_is_lost_under_a_limit_of_one() {
    let manager = CountingManager::with_limit("one", 1);
    let registry = Registry::new();
    registry.register(manager.clone()).unwrap();
    let devices = ["a", "b", "c"].map(|name| registry.attach(name).unwrap());
    let ended: u64 = thread::scope(|scope| {
        let frontends: Vec<_> = (0..)
            .zip(&devices)
            .map(|(seed, device)| scope.spawn(move || frontend(device, 4, 5000, seed)))
            .collect();
        frontends.into_iter().map(|frontend| frontend.join().unwrap()).sum()
    });
    assert_eq!(ended, 15_000);
    drop(devices);
    assert_eq!(manager.seen().frees, 15_000);
    manager.assert_over();
}
