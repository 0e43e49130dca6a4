//! One intake: who goes, who waits, for how long.

use iomgr_core::manager::test_utils::CountingManager;
use iomgr_core::manager::{Registry, Verdict, Wait};
use iomgr_core::{Class, Operation, Tag, Timestamp, Waker};

use crate::support::*;

const NOW: Timestamp = Timestamp::from_nanos(1_000_000_000);

#[test]
fn without_a_manager_everything_goes_and_is_counted() {
    let registry = Registry::new();
    let device = registry.attach("disk").unwrap();
    let mut intake = intake(&device);
    push_all(&mut intake, &[Operation::Read, Operation::Write, Operation::Flush]);
    let started = start_all(&mut intake, NOW);
    assert_eq!(tags(&started), [2, 0, 1], "the flush first, then by arrival");
    assert_eq!((device.pending(), registry.pending_total()), (3, 3));
    free_all(&mut intake, started, NOW);
    assert_eq!((device.pending(), registry.pending_total()), (0, 0));
    assert_eq!((intake.queued(), intake.wake_at()), (0, None));
}

#[test]
fn reads_and_writes_go_by_arrival() {
    let registry = Registry::new();
    let mut intake = intake(&registry.attach("disk").unwrap());
    intake.push(head(Operation::Write, at(1)), Tag(0)).unwrap();
    intake.push(head(Operation::Read, at(2)), Tag(1)).unwrap();
    intake.push(head(Operation::Discard, at(3)), Tag(2)).unwrap();
    let started = start_all(&mut intake, NOW);
    assert_eq!(tags(&started), [0, 1, 2]);
    free_all(&mut intake, started, NOW);
}

#[test]
fn a_no_holds_its_class_and_a_flush_passes() {
    let manager = CountingManager::with_policy("no-writes", |ask| match ask.head.class {
        Class::Write => Verdict::No(Wait::Until(at(5000))),
        _ => Verdict::Go,
    });
    let registry = Registry::new();
    registry.register(manager.clone()).unwrap();
    let mut intake = intake(&registry.attach("disk").unwrap());
    push_all(
        &mut intake,
        &[Operation::Write, Operation::Write, Operation::Flush, Operation::Read],
    );
    let started = start_all(&mut intake, NOW);
    assert_eq!(tags(&started), [2, 3]);
    assert_eq!(manager.seen().ngs, 1, "one no is enough for the class");
    assert_eq!((intake.queued(), intake.wake_at()), (2, Some(at(5000))));
    free_all(&mut intake, started, NOW);
    assert_eq!(intake.close().collect::<Vec<_>>(), [Tag(0), Tag(1)]);
    assert_eq!(intake.push(head(Operation::Read, NOW), Tag(9)), Err(Tag(9)));
    drop(intake);
    manager.assert_over();
}

#[test]
fn a_wait_ends_at_its_instant() {
    let manager = CountingManager::with_policy("late", |ask| match ask.now < at(3000) {
        true => Verdict::No(Wait::Until(at(3000))),
        false => Verdict::Go,
    });
    let registry = Registry::new();
    registry.register(manager.clone()).unwrap();
    let mut intake = intake(&registry.attach("disk").unwrap());
    push_all(&mut intake, &[Operation::Read]);
    assert!(start_all(&mut intake, at(2000)).is_empty());
    assert!(start_all(&mut intake, at(2999)).is_empty());
    assert_eq!(manager.seen().ngs, 1, "nobody asks again before the time");
    let started = start_all(&mut intake, at(3000));
    assert_eq!(tags(&started), [0]);
    free_all(&mut intake, started, at(3000));
}

#[test]
fn a_wait_until_the_past_is_no_spin() {
    let manager = CountingManager::with_policy("past", |_| Verdict::No(Wait::Until(Timestamp::ZERO)));
    let registry = Registry::new();
    registry.register(manager.clone()).unwrap();
    let mut intake = intake(&registry.attach("disk").unwrap());
    push_all(&mut intake, &[Operation::Read]);
    assert!(start_all(&mut intake, NOW).is_empty());
    assert!(intake.wake_at().unwrap() > NOW);
    assert_eq!(intake.close().count(), 1);
}

#[test]
fn a_request_that_comes_back_keeps_its_place() {
    let manager = CountingManager::new("counting");
    let registry = Registry::new();
    registry.register(manager.clone()).unwrap();
    let device = registry.attach("disk").unwrap();
    let mut intake = intake(&device);
    push_all(&mut intake, &[Operation::Read; 3]);
    intake.begin_pass(NOW);
    let (a, b) = (intake.next(NOW).unwrap(), intake.next(NOW).unwrap());
    intake.oo_abort(a.grant, a.tag);
    intake.oo_abort(b.grant, b.tag);
    assert_eq!(intake.wake_at(), None, "no resources: no reason to run");
    let started = start_all(&mut intake, NOW);
    assert_eq!(tags(&started), [0, 1, 2]);
    free_all(&mut intake, started, NOW);
    let counters = device.counters();
    assert_eq!(
        (counters.grants, counters.aborts, counters.allocs, counters.frees),
        (5, 2, 3, 3)
    );
    manager.assert_quiet();
}

#[test]
fn a_full_class_hands_back_and_counts_what_is_granted() {
    let registry = Registry::new();
    let device = registry.attach("disk").unwrap();
    let mut intake = iomgr_core::manager::Intake::new(&device, 2, Waker::none());
    push_all(&mut intake, &[Operation::Read; 2]);
    assert_eq!(intake.push(head(Operation::Read, NOW), Tag(7)), Err(Tag(7)));
    intake.push(head(Operation::Write, NOW), Tag(8)).unwrap();
    intake.begin_pass(NOW);
    let granted = intake.next(NOW).unwrap();
    assert_eq!(
        intake.push(head(Operation::Read, NOW), Tag(7)),
        Err(Tag(7)),
        "it may come back"
    );
    let ticket = intake.alloc(granted.grant);
    intake.push(head(Operation::Read, NOW), Tag(7)).unwrap();
    intake.free(ticket, NOW);
    assert_eq!(intake.close().count(), 3);
}

#[test]
fn a_free_of_the_same_intake_lets_the_next_go_without_a_wake_up() {
    let manager = CountingManager::with_limit("one", 1);
    let registry = Registry::new();
    registry.register(manager.clone()).unwrap();
    let bell = std::sync::Arc::new(Bell::default());
    let mut intake = iomgr_core::manager::Intake::new(&registry.attach("disk").unwrap(), 8, bell.waker());
    push_all(&mut intake, &[Operation::Read, Operation::Write]);
    let first = start_all(&mut intake, NOW);
    assert_eq!((tags(&first), intake.wake_at()), (vec![0], None));
    free_all(&mut intake, first, NOW);
    assert_eq!(
        intake.wake_at(),
        Some(Timestamp::ZERO),
        "the thread is awake: it is told to go on"
    );
    let second = start_all(&mut intake, NOW);
    assert_eq!((tags(&second), bell.rings()), (vec![1], 0));
    free_all(&mut intake, second, NOW);
    drop(intake);
    manager.assert_over();
}

#[test]
fn a_free_elsewhere_wakes_who_waits_and_nobody_else() {
    let manager = CountingManager::with_limit("one", 1);
    let registry = Registry::new();
    registry.register(manager.clone()).unwrap();
    let bells: [_; 3] = std::array::from_fn(|_| std::sync::Arc::new(Bell::default()));
    let device = registry.attach("a").unwrap();
    let other = registry.attach("b").unwrap();
    let mut busy = iomgr_core::manager::Intake::new(&device, 8, bells[0].waker());
    let mut waiting = iomgr_core::manager::Intake::new(&other, 8, bells[1].waker());
    let idle = iomgr_core::manager::Intake::new(&other, 8, bells[2].waker());
    push_all(&mut busy, &[Operation::Read]);
    push_all(&mut waiting, &[Operation::Read, Operation::Write]);
    let started = start_all(&mut busy, NOW);
    assert!(start_all(&mut waiting, NOW).is_empty());
    free_all(&mut busy, started, NOW);
    assert_eq!(bells.each_ref().map(|bell| bell.rings()), [0, 1, 0]);
    let started = start_all(&mut waiting, NOW);
    assert_eq!(tags(&started), [0], "the limit is one");
    free_all(&mut waiting, started, NOW);
    assert_eq!(waiting.close().count(), 1);
    drop((busy, waiting, idle));
    drop((device, other));
    manager.assert_over();
}
