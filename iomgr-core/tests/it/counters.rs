//! What is counted: per device, per generation and in all, exactly whatever is swapped, closed or detached.

use std::sync::Arc;
use std::time::Duration;

use iomgr_core::manager::test_utils::CountingManager;
use iomgr_core::manager::{Counters, DeviceInfo, Intake, Manager, Ngs, Registry, Verdict, Wait};
use iomgr_core::{Class, Operation, Tag, Timestamp, Waker};

use crate::support::*;

/// Says no to a device queue until an instant, then until something is freed.
#[derive(Debug)]
struct Shut;

impl Manager for Shut {
    fn name(&self) -> &str {
        "shut"
    }

    fn waiting_request(&self, _: &DeviceInfo, now: Timestamp) -> Verdict {
        Verdict::No(match now < at(10) {
            true => Wait::Until(at(10)),
            false => Wait::Freed,
        })
    }
}

#[test]
fn a_no_is_counted_by_what_it_holds_and_until_when() {
    let registry = Registry::new();
    let mut intake = intake(&registry.attach("disk").unwrap());
    push_all(&mut intake, &[Operation::Read, Operation::Write]);
    registry.register(Arc::new(Shut)).unwrap();
    assert!(start_all(&mut intake, at(1)).is_empty());
    assert!(start_all(&mut intake, at(10)).is_empty());
    let shut = Ngs {
        device_until: 1,
        device_freed: 1,
        ..Ngs::default()
    };
    assert_eq!(registry.counters().ngs, shut);
    let by_class = CountingManager::with_policy("by-class", |ask: &_| match ask.head.class {
        Class::Read => Verdict::No(Wait::Freed),
        _ => Verdict::No(Wait::Until(at(20))),
    });
    registry.replace(by_class).unwrap();
    assert!(start_all(&mut intake, at(11)).is_empty());
    let ngs = registry.counters().ngs;
    assert_eq!(
        (ngs.class_until, ngs.class_freed, ngs.total()),
        (1, 1, shut.total() + 2)
    );
    assert_eq!(intake.close().count(), 2);
}

#[test]
fn who_goes_in_the_pass_in_which_it_came_did_not_wait() {
    let registry = Registry::new();
    let device = registry.attach("disk").unwrap();
    let mut intake = intake(&device);
    intake.begin_pass(at(5));
    // Received before, when there was no memory for it yet.
    intake.push(head(Operation::Write, at(1)), Tag(0)).unwrap();
    intake.push(head(Operation::Read, at(5)), Tag(1)).unwrap();
    let granted = intake.next(at(5)).unwrap();
    let ticket = intake.alloc(granted.grant);
    assert_eq!((device.counters().grants, device.counters().waits), (1, 0));
    let late = start_all(&mut intake, at(8));
    let counters = device.counters();
    assert_eq!((counters.grants, counters.waits), (2, 1));
    let times = device.wait_times();
    assert_eq!((times.count(), times.sum()), (1, Duration::from_millis(3)));
    assert_eq!(registry.wait_times(), times);
    intake.free(ticket, at(8));
    free_all(&mut intake, late, at(8));
}

#[test]
fn a_frontend_may_receive_before_it_begins_its_pass() {
    let registry = Registry::new();
    let device = registry.attach("disk").unwrap();
    let mut intake = intake(&device);
    intake.begin_pass(at(1));
    intake.push(head(Operation::Read, at(7)), Tag(0)).unwrap();
    let started = start_all(&mut intake, at(7));
    assert_eq!((device.counters().grants, device.counters().waits), (1, 0));
    free_all(&mut intake, started, at(7));
}

/// What each generation that is not over did: number, manager, current?, grants, pending.
fn reigns(registry: &Registry) -> Vec<(u64, String, bool, u64, u64)> {
    let stats = registry.generations().into_iter();
    stats
        .map(|stats| {
            let Counters { grants, .. } = stats.counters;
            (
                stats.number,
                stats.manager,
                stats.is_current,
                grants,
                stats.counters.pending(),
            )
        })
        .collect()
}

#[test]
fn each_generation_counts_its_own_until_its_last_request_has_ended() {
    let registry = Registry::new();
    let mut intake = intake(&registry.attach("disk").unwrap());
    assert_eq!(reigns(&registry), [(1, "none".into(), true, 0, 0)]);
    push_all(&mut intake, &[Operation::Read; 4]);
    intake.begin_pass(at(1));
    let mut old = Vec::new();
    for _ in 0..3 {
        let granted = intake.next(at(1)).unwrap();
        old.push((granted.tag, intake.alloc(granted.grant)));
    }
    let refusing = CountingManager::new("refusing");
    refusing.refuse("disk");
    registry.replace(refusing).unwrap_err();
    registry.replace(CountingManager::new("next")).unwrap();
    assert_eq!(
        reigns(&registry),
        [(1, "none".into(), false, 3, 3), (2, "next".into(), true, 0, 0)]
    );
    let new = start_all(&mut intake, at(2));
    let next = registry.generations().pop().unwrap();
    assert_eq!((next.counters.waits, next.wait_times.count()), (1, 1));
    let freed = old.split_off(1);
    free_all(&mut intake, freed, at(3));
    assert_eq!(
        reigns(&registry),
        [(1, "none".into(), false, 3, 1), (2, "next".into(), true, 1, 1)]
    );
    free_all(&mut intake, old, at(3));
    assert_eq!(reigns(&registry), [(2, "next".into(), true, 1, 1)]);
    free_all(&mut intake, new, at(3));
    let counters = registry.counters();
    assert_eq!((counters.grants, counters.frees, counters.pending()), (4, 4, 0));
}

/// One request on a device of this name, which goes.
fn one_request(registry: &Registry, name: &str) {
    let device = registry.attach(name).unwrap();
    let mut intake = Intake::new(&device, 8, Waker::none());
    push_all(&mut intake, &[Operation::Write]);
    let started = start_all(&mut intake, at(1));
    assert_eq!((device.pending(), registry.pending_total()), (1, 1));
    device.detach();
    intake.begin_pass(at(2));
    assert_eq!(device.pending(), 1, "its request is still on its way");
    free_all(&mut intake, started, at(2));
    assert_eq!(device.counters().frees, 1);
}

#[test]
fn counts_outlive_intakes_and_devices_in_the_total_only() {
    let registry = Registry::new();
    (0..3).for_each(|_| one_request(&registry, "disk"));
    let counters = registry.counters();
    assert_eq!((counters.grants, counters.allocs, counters.frees), (3, 3, 3));
    assert_eq!(reigns(&registry), [(1, "none".into(), true, 3, 0)]);
    let device = registry.attach("disk").unwrap();
    assert_eq!(
        device.counters(),
        Counters::default(),
        "its number was another's before"
    );
    registry.register(CountingManager::new("next")).unwrap();
    assert_eq!(reigns(&registry), [(2, "next".into(), true, 0, 0)]);
    assert_eq!(registry.counters(), counters);
}

/// Requests that go and end while other threads swap and read: sums never go back, and no free is seen without its alloc.
#[test]
fn sums_are_never_seen_to_go_back() {
    const REQUESTS: u64 = 20_000;
    let registry = Registry::new();
    let device = registry.attach("disk").unwrap();
    let mut intake = intake(&device);
    std::thread::scope(|scope| {
        let worker = scope.spawn(move || {
            for n in 0..REQUESTS {
                intake.push(head(Operation::Read, at(n)), Tag(0)).unwrap();
                let started = start_all(&mut intake, at(n));
                free_all(&mut intake, started, at(n));
            }
        });
        let mut last = Counters::default();
        while !worker.is_finished() {
            registry.replace(CountingManager::new("counting")).unwrap();
            let (total, device) = (registry.counters(), device.counters());
            assert!(
                last.frees <= total.frees && last.grants <= total.grants,
                "{last:?}, then {total:?}"
            );
            assert!(
                total.frees <= total.allocs && total.grants <= device.grants,
                "{total:?}, {device:?}"
            );
            last = total;
        }
    });
    let total = registry.counters();
    assert_eq!((total.grants, total.frees), (REQUESTS, REQUESTS));
    assert_eq!(device.counters(), total);
}
