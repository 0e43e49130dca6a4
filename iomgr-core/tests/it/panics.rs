//! A manager that panics is replaced by "none", whichever hook it is in, and the I/O goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use iomgr_core::manager::{DeviceInfo, ErrorKind, Head, Intake, Manager, Refusal, Registry, Verdict};
use iomgr_core::{Operation, Tag, Timestamp};

use crate::support::*;

const NOW: Timestamp = Timestamp::from_nanos(1_000_000_000);

/// Panics in one hook.
#[derive(Debug)]
struct Bad {
    hook: &'static str,
    /// From now on?
    armed: AtomicBool,
    /// Hooks called since it panicked.
    late_calls: AtomicU64,
    panicked: AtomicBool,
}

impl Bad {
    fn new(hook: &'static str) -> Arc<Self> {
        let (armed, panicked) = (AtomicBool::new(true), AtomicBool::new(false));
        Arc::new(Self {
            hook,
            armed,
            panicked,
            late_calls: AtomicU64::new(0),
        })
    }

    fn enter(&self, hook: &str) {
        if self.panicked.load(Ordering::Relaxed) {
            self.late_calls.fetch_add(1, Ordering::Relaxed);
        }
        if hook == self.hook && self.armed.load(Ordering::Relaxed) {
            self.panicked.store(true, Ordering::Relaxed);
            panic!("bad manager in {hook}");
        }
    }
}

impl Manager for Bad {
    fn name(&self) -> &str {
        "bad"
    }

    fn dev_start(&self, _: &DeviceInfo) -> Result<(), Refusal> {
        self.enter("dev_start");
        Ok(())
    }

    fn waiting_request(&self, _: &DeviceInfo, _: Timestamp) -> Verdict {
        self.enter("waiting_request");
        Verdict::Go
    }

    fn allow_request(&self, _: &DeviceInfo, _: &Head, _: Timestamp) -> Verdict {
        self.enter("allow_request");
        Verdict::Go
    }

    fn alloc_request(&self, _: &DeviceInfo, _: &Head, _: Timestamp) {
        self.enter("alloc_request");
    }

    fn oo_abort_request(&self, _: &DeviceInfo, _: &Head, _: Timestamp) {
        self.enter("oo_abort_request");
    }

    fn free_request(&self, _: &DeviceInfo, _: &Head, _: Timestamp) {
        self.enter("free_request");
    }

    fn dev_stop(&self, _: &DeviceInfo) {
        self.enter("dev_stop");
    }
}

/// Three requests, one of them aborted once.
fn serve(intake: &mut Intake) {
    push_all(intake, &[Operation::Read, Operation::Write, Operation::Flush]);
    intake.begin_pass(NOW);
    let granted = intake.next(NOW).unwrap();
    intake.oo_abort(granted.grant, granted.tag);
    let mut done = Vec::new();
    while done.len() < 3 {
        let started = start_all(intake, NOW);
        done.extend(tags(&started));
        free_all(intake, started, NOW);
    }
    assert_eq!(done, [2, 0, 1]);
}

#[test]
fn a_panic_in_a_request_hook_ends_the_manager_and_not_the_request() {
    for hook in [
        "waiting_request",
        "allow_request",
        "alloc_request",
        "oo_abort_request",
        "free_request",
    ] {
        let bad = Bad::new(hook);
        let registry = Registry::new();
        registry.register(bad.clone()).unwrap();
        let device = registry.attach("disk").unwrap();
        let bell = Arc::new(Bell::default());
        let mut other = Intake::new(&device, 8, bell.waker());
        let mut intake = intake(&device);
        serve(&mut intake);
        assert_eq!(registry.current().name(), "none", "{hook}");
        assert_eq!(registry.pending_total(), 0, "{hook}");
        assert_eq!(bell.rings(), 1, "{hook}: the others are told");
        other.begin_pass(NOW);
        drop((intake, other, device));
        assert_eq!(bad.late_calls.load(Ordering::Relaxed), 0, "{hook}");
    }
}

#[test]
fn a_panic_in_dev_start_fails_a_swap_but_not_an_attach() {
    let bad = Bad::new("dev_start");
    let registry = Registry::new();
    let device = registry.attach("first").unwrap();
    assert_eq!(registry.register(bad.clone()).unwrap_err().kind(), ErrorKind::Panicked);
    assert_eq!(registry.current().name(), "none");
    drop(device);
    registry.register(bad).unwrap();
    let mut intake = intake(&registry.attach("second").unwrap());
    assert_eq!(registry.current().name(), "none");
    serve(&mut intake);
}

#[test]
fn a_panic_in_dev_stop_leaves_the_registry_usable() {
    let bad = Bad::new("dev_stop");
    let registry = Registry::new();
    registry.register(bad.clone()).unwrap();
    let (one, two) = (registry.attach("one").unwrap(), registry.attach("two").unwrap());
    drop(one);
    assert_eq!(registry.current().name(), "none", "it panicked while it was current");
    let mut intake = intake(&two);
    intake.push(head(Operation::Read, NOW), Tag(0)).unwrap();
    let started = start_all(&mut intake, NOW);
    assert_eq!(tags(&started), [0]);
    free_all(&mut intake, started, NOW);
    assert_eq!(bad.late_calls.load(Ordering::Relaxed), 0);
}
