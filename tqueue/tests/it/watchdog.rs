//! The watchdog of managers' hooks, with its real clock.

use std::sync::mpsc;

use iomgr_core::manager::HookMeter;
use tqueue::{Watchdog, monotonic_now};

#[test]
fn a_thread_that_does_not_come_out_of_hooks_is_told_of_while_it_is_in_there() {
    let (tell, told) = mpsc::channel();
    let watchdog = Watchdog::start_with(move |stuck| tell.send(stuck.clone()).unwrap()).unwrap();
    let mut meter = HookMeter::new(watchdog.watch(), "queue-0");
    meter.follow(Some("blocking"));
    for round in 1..=2 {
        meter.enter(monotonic_now());
        let stuck = told.recv().unwrap();
        meter.leave(monotonic_now());
        meter.end_pass();
        assert_eq!((&*stuck.manager, &*stuck.thread), ("blocking", "queue-0"));
        let counts = watchdog.watch().counts();
        assert_eq!((counts.stuck_passes, counts.slow_passes), (round, round));
    }
}

#[test]
fn a_watchdog_that_rests_ends_when_it_is_dropped() {
    let watchdog = Watchdog::start().unwrap();
    let meter = HookMeter::new(watchdog.watch(), "queue-0");
    drop(watchdog);
    drop(meter);
}
