//! Hooks that take too long: what meters add up, and what a watchdog sees. Time is what the test says.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use iomgr_core::manager::test_utils::CountingManager;
use iomgr_core::manager::{HookCounts, HookMeter, HookWatch, Registry, Verdict};
use iomgr_core::{Operation, Timestamp, Waker};

use crate::support::*;

const US: Duration = Duration::from_micros(1);

fn watch(bell: &Arc<Bell>) -> Arc<HookWatch> {
    Arc::new(HookWatch::new(bell.waker()))
}

/// A meter that was told whose hooks are called.
fn meter(watch: &Arc<HookWatch>) -> HookMeter {
    let mut meter = HookMeter::new(watch, "queue-0");
    meter.follow(Some("slow"));
    meter
}

#[test]
fn a_pass_of_a_slow_manager_is_counted_and_others_are_not() {
    let clock = Arc::new(Mutex::new(at(1000)));
    let its_clock = Arc::clone(&clock);
    let manager = CountingManager::with_policy("slow", move |_| {
        let mut now = its_clock.lock().unwrap();
        *now = *now + 400 * US;
        Verdict::Go
    });
    let now = || *clock.lock().unwrap();
    let registry = Registry::new();
    registry.register(manager).unwrap();
    let mut intake = intake(&registry.attach("disk").unwrap());
    let watch = watch(&Arc::default());
    let mut meter = HookMeter::new(&watch, "queue-0");
    for (requests, slow_passes) in [(2, 0), (3, 1), (1, 1), (8, 2)] {
        meter.follow(intake.manager());
        assert!(meter.is_needed());
        push_all(&mut intake, &vec![Operation::Read; requests]);
        meter.enter(now());
        let started = start_all(&mut intake, now());
        meter.leave(now());
        meter.enter(now());
        free_all(&mut intake, started, now());
        meter.leave(now());
        meter.end_pass();
        assert_eq!(watch.counts().slow_passes, slow_passes, "{requests} requests at 400 µs");
    }
}

#[test]
fn a_clock_is_read_only_where_hooks_are_called() {
    let registry = Registry::new();
    let mut intake = intake(&registry.attach("disk").unwrap());
    let mut meter = HookMeter::new(&watch(&Arc::default()), "queue-0");
    meter.follow(intake.manager());
    assert!(!meter.is_needed(), "none has no hooks");
    registry.register(CountingManager::new("first")).unwrap();
    push_all(&mut intake, &[Operation::Read]);
    let started = start_all(&mut intake, at(1));
    assert_eq!(intake.manager(), Some("first"));
    registry.unregister(&registry.current()).unwrap();
    intake.begin_pass(at(2));
    assert_eq!(intake.manager(), Some("first"), "its request is still on its way");
    free_all(&mut intake, started, at(3));
    meter.follow(intake.manager());
    assert!(!meter.is_needed());
}

#[test]
fn a_thread_that_does_not_come_out_is_told_of_once() {
    let watch = watch(&Arc::default());
    let (mut meter, mut fine) = (meter(&watch), meter(&watch));
    meter.enter(at(100));
    fine.enter(at(1000));
    assert!(watch.scan(at(1099)).stuck.is_empty());
    let scan = watch.scan(at(1100));
    let [stuck] = &scan.stuck[..] else { panic!("{scan:?}") };
    assert_eq!(
        (&*stuck.manager, &*stuck.thread, stuck.since),
        ("slow", "queue-0", HookWatch::STUCK)
    );
    fine.leave(at(1101));
    let scan = watch.scan(at(1600));
    assert!(
        scan.stuck.is_empty() && scan.is_active,
        "told once, and still in there: {scan:?}"
    );
    meter.leave(at(1700));
    meter.end_pass();
    meter.enter(at(1800));
    assert_eq!(watch.scan(at(2800)).stuck.len(), 1, "another time is another story");
    let counts = HookCounts {
        slow_passes: 1,
        stuck_passes: 2,
    };
    assert_eq!(watch.counts(), counts);
}

#[test]
fn a_watchdog_rests_while_no_hooks_are_called() {
    let bell = Arc::new(Bell::default());
    let watch = watch(&bell);
    assert!(!watch.scan(at(1)).is_active && watch.may_rest());
    let mut meter = meter(&watch);
    meter.enter(at(2));
    assert_eq!(bell.rings(), 1, "it is woken");
    assert!(watch.scan(at(3)).is_active && !watch.may_rest(), "somebody is inside");
    meter.leave(at(4));
    assert!(watch.scan(at(5)).is_active, "somebody was");
    meter.enter(at(6));
    meter.leave(at(7));
    assert!(!watch.may_rest(), "somebody was since");
    assert_eq!(bell.rings(), 1, "and found it awake");
    assert!(watch.scan(at(8)).is_active);
    assert!(!watch.scan(at(9)).is_active && watch.may_rest());
    drop(meter);
    assert!(!watch.scan(at(10)).is_active && watch.may_rest());
}

/// A slow pass of a thread that has ended is still counted.
#[test]
fn counts_outlive_their_meters() {
    let watch = Arc::new(HookWatch::new(Waker::none()));
    let mut meter = meter(&watch);
    meter.enter(Timestamp::ZERO);
    meter.leave(at(2));
    meter.end_pass();
    meter.end_pass();
    drop(meter);
    assert_eq!(watch.counts().slow_passes, 1);
}
