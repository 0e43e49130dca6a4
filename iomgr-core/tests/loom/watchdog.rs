//! A watchdog goes to rest while a thread goes into hooks.

use loom::thread;

use crate::manager::{HookMeter, HookWatch};
use crate::shim::Arc;
use crate::{Timestamp, Waker};

#[test]
fn who_goes_into_hooks_finds_the_watchdog_awake_or_wakes_it() {
    crate::model(3, || {
        let bell = Waker::new();
        let watch = Arc::new(HookWatch::new(bell.clone()));
        let mut meter = HookMeter::new(&watch, "queue");
        let thread = thread::spawn(move || {
            meter.enter(Timestamp::from_nanos(1));
            meter.leave(Timestamp::from_nanos(2));
            meter.enter(Timestamp::from_nanos(3));
            // It does not come out.
            meter
        });
        // Until it knows that somebody is in there for too long.
        while watch.scan(Timestamp::from_nanos(1 << 40)).stuck.is_empty() {
            if watch.may_rest() {
                bell.sleep();
            }
        }
        drop(thread.join().unwrap());
    });
}
