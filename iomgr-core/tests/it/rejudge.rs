//! A manager whose parameters change while requests wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use iomgr_core::manager::{DeviceInfo, Head, Intake, Manager, Registry, Verdict, Wait};
use iomgr_core::{Operation, SectorRange, Tag, Timestamp, Waker};

#[derive(Debug, Default)]
struct Gate(AtomicBool);

impl Manager for Gate {
    fn name(&self) -> &str {
        "gate"
    }

    fn allow_request(&self, _: &DeviceInfo, _: &Head, now: Timestamp) -> Verdict {
        match self.0.load(Ordering::Relaxed) {
            true => Verdict::Go,
            false => Verdict::No(Wait::Until(now + Duration::from_secs(3600))),
        }
    }
}

#[test]
fn what_waits_for_an_hour_is_judged_anew_when_told_so() {
    let registry = Registry::new();
    let gate = Arc::new(Gate::default());
    registry.register(Arc::clone(&gate) as Arc<dyn Manager>).unwrap();
    let mut intake = Intake::new(&registry.attach("disk").unwrap(), 4, Waker::none());
    let now = Timestamp::ZERO;
    intake
        .push(Head::new(Operation::Read, SectorRange::default(), now), Tag(0))
        .unwrap();
    intake.begin_pass(now);
    assert!(intake.next(now).is_none());
    gate.0.store(true, Ordering::Relaxed);
    intake.begin_pass(now);
    assert!(intake.next(now).is_none(), "nobody asks a manager that has said when");
    registry.rejudge();
    intake.begin_pass(now);
    let granted = intake.next(now).unwrap();
    let ticket = intake.alloc(granted.grant);
    intake.free(ticket, now);
}
