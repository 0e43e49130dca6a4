//! Registration, swaps, attach and detach.

use std::error::Error as _;
use std::sync::Arc;

use iomgr_core::manager::test_utils::CountingManager;
use iomgr_core::manager::{ErrorKind, Intake, Registry, Verdict, Wait};
use iomgr_core::{Operation, Tag, Timestamp};

use crate::support::*;

const NOW: Timestamp = Timestamp::from_nanos(1_000_000_000);

#[test]
fn names_are_checked() {
    let registry = Registry::new();
    for bad in ["", "none", "sixteen-letters-", "two words", "tab\t", "ümlaut"] {
        let error = registry.register(CountingManager::new(bad)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadName, "{bad:?}");
    }
    registry.register(CountingManager::new("fifteen-letters")).unwrap();
    assert_eq!(registry.current().name(), "fifteen-letters");
}

#[test]
fn only_the_current_manager_can_be_unregistered() {
    let registry = Registry::new();
    let (a, b) = (
        dynamic(&CountingManager::new("same")),
        dynamic(&CountingManager::new("same")),
    );
    registry.register(a.clone()).unwrap();
    assert_eq!(registry.register(b.clone()).unwrap_err().kind(), ErrorKind::Occupied);
    assert_eq!(registry.unregister(&b).unwrap_err().kind(), ErrorKind::NotCurrent);
    assert_eq!(registry.replace(a.clone()).unwrap_err().kind(), ErrorKind::InUse);
    registry.unregister(&a).unwrap();
    assert_eq!(registry.current().name(), "none");
    assert_eq!(registry.unregister(&a).unwrap_err().kind(), ErrorKind::NotCurrent);
}

#[test]
fn a_closed_registry_takes_no_manager() {
    let registry = Registry::new();
    let manager = CountingManager::with_policy("never", |_| Verdict::No(Wait::Freed));
    registry.register(manager.clone()).unwrap();
    let device = registry.attach("disk").unwrap();
    let mut intake = intake(&device);
    push_all(&mut intake, &[Operation::Read]);
    assert!(start_all(&mut intake, NOW).is_empty());
    registry.close();
    let (_, ticket) = start_all(&mut intake, NOW).pop().unwrap();
    intake.free(ticket, NOW);
    manager.assert_over();
    let late = CountingManager::new("late");
    for error in [registry.register(late.clone()), registry.replace(late)] {
        assert_eq!(error.unwrap_err().kind(), ErrorKind::Closed);
    }
    registry.close();
    assert_eq!(registry.current().name(), "none");
}

#[test]
fn a_request_ends_with_the_manager_that_admitted_it() {
    let (old, new) = (CountingManager::new("old"), CountingManager::new("new"));
    let registry = Registry::new();
    registry.register(old.clone()).unwrap();
    let mut intake = intake(&registry.attach("disk").unwrap());
    push_all(&mut intake, &[Operation::Read; 3]);
    intake.begin_pass(NOW);
    let granted = intake.next(NOW).unwrap();
    let aborted = intake.next(NOW).unwrap();
    registry.replace(new.clone()).unwrap();
    assert_eq!((new.seen().starts, old.seen().stops), (1, 0));
    intake.begin_pass(NOW);
    let ticket = intake.alloc(granted.grant);
    intake.oo_abort(aborted.grant, aborted.tag);
    assert_eq!((old.seen().allocs, old.seen().aborts, new.seen().allocs), (1, 1, 0));
    let started = start_all(&mut intake, NOW);
    assert_eq!((tags(&started), new.seen().allocs), (vec![1, 2], 2));
    assert_eq!(registry.replace(old.clone()).unwrap_err().kind(), ErrorKind::InUse);
    intake.free(ticket, NOW);
    old.assert_over();
    free_all(&mut intake, started, NOW);
    new.assert_quiet();
    registry.replace(old.clone()).unwrap();
    intake.begin_pass(NOW);
    new.assert_over();
}

#[test]
fn a_swap_wakes_everybody_and_the_new_manager_judges() {
    let never = CountingManager::with_policy("never", |_| Verdict::No(Wait::Freed));
    let registry = Registry::new();
    registry.register(never.clone()).unwrap();
    let device = registry.attach("disk").unwrap();
    let (waiting_bell, idle_bell) = (Arc::new(Bell::default()), Arc::new(Bell::default()));
    let mut waiting = Intake::new(&device, 8, waiting_bell.waker());
    let mut idle = Intake::new(&device, 8, idle_bell.waker());
    push_all(&mut waiting, &[Operation::Write]);
    assert!(start_all(&mut waiting, NOW).is_empty());
    registry.unregister(&dynamic(&never)).unwrap();
    assert_eq!((waiting_bell.rings(), idle_bell.rings()), (1, 1));
    let started = start_all(&mut waiting, NOW);
    assert_eq!(tags(&started), [0]);
    assert_eq!(never.seen().stops, 0, "the idle queue has not moved on");
    idle.begin_pass(NOW);
    never.assert_over();
    free_all(&mut waiting, started, NOW);
    registry.register(CountingManager::new("next")).unwrap();
    assert_eq!((waiting_bell.rings(), idle_bell.rings()), (2, 2));
}

#[test]
fn a_refusal_changes_nothing() {
    let (old, new) = (CountingManager::new("old"), CountingManager::new("new"));
    new.refuse("b");
    let registry = Registry::new();
    registry.register(old.clone()).unwrap();
    let devices = ["a", "b", "c"].map(|name| registry.attach(name).unwrap());
    let error = registry.replace(new.clone()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert_eq!(error.to_string(), "manager new refuses device b");
    assert_eq!(error.source().unwrap().to_string(), "told to refuse it");
    assert_eq!(registry.current().name(), "old");
    new.assert_over();
    assert_eq!(old.seen().stops, 0);
    drop(devices);
    registry.replace(new.clone()).unwrap();
    assert_eq!(registry.attach("b").unwrap_err().kind(), ErrorKind::Refused);
    old.assert_over();
}

#[test]
fn detaching_releases_what_waits() {
    let never = CountingManager::with_policy("never", |_| Verdict::No(Wait::Freed));
    let registry = Registry::new();
    registry.register(never.clone()).unwrap();
    let device = registry.attach("disk").unwrap();
    let bell = Arc::new(Bell::default());
    let mut intake = Intake::new(&device, 8, bell.waker());
    push_all(&mut intake, &[Operation::Write, Operation::Read]);
    assert!(start_all(&mut intake, NOW).is_empty());
    device.detach();
    assert_eq!(bell.rings(), 1);
    assert!(start_all(&mut intake, NOW).is_empty());
    assert!(intake.is_closed());
    assert_eq!(intake.close().collect::<Vec<_>>(), [Tag(0), Tag(1)]);
    never.assert_over();
    registry.replace(CountingManager::new("next")).unwrap();
    intake.begin_pass(NOW);
    assert!(intake.is_closed(), "a detached device stays without a manager");
}
