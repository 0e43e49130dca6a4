//! Policies set, shown, changed and unset, as people do it.

use std::collections::BTreeMap;
use std::sync::Arc;

use iomgr_core::manager::{Counters, ManagedDevice, Registry};
use iomgr_core::policy::{Governor, LimitConfig, ManagerConfig, PolicyConfig, Rate, Rates, SetError, ThrottleConfig};
use iomgr_core::{Operation, Timestamp};

use crate::support::{at, free_all, intake, push_all, start_all};

fn limit(max: u32) -> LimitConfig {
    LimitConfig {
        max: Some(max),
        max_total: None,
    }
}

fn throttle(iops: u64, limit: Option<LimitConfig>) -> ManagerConfig {
    let rates = Rates {
        iops: Some(Rate::new(iops)),
        ..Rates::default()
    };
    let config = ThrottleConfig {
        devices: BTreeMap::from([("disk".to_owned(), rates)]),
        ..ThrottleConfig::default()
    };
    ManagerConfig {
        policy: PolicyConfig::Throttle(Box::new(config)),
        limit,
    }
}

fn rig() -> (Governor, Arc<ManagedDevice>) {
    let governor = Governor::new(Registry::new());
    let device = governor.registry().attach("disk").unwrap();
    (governor, device)
}

fn set(governor: &Governor, config: &ManagerConfig) {
    governor.set(config).unwrap();
    assert_eq!(governor.config().as_ref(), Some(config), "what was set is shown");
}

#[test]
fn parameters_change_in_place_and_the_policy_remembers() {
    let (governor, device) = rig();
    set(&governor, &throttle(1, None));
    let mut intake = intake(&device);
    push_all(&mut intake, &[Operation::Write; 3]);
    let started = start_all(&mut intake, at(0));
    assert_eq!(started.len(), 1);
    let reigning = governor.registry().current();
    set(&governor, &throttle(2, None));
    assert!(Arc::ptr_eq(&reigning, &governor.registry().current()));
    assert!(start_all(&mut intake, at(400)).is_empty(), "one was taken");
    assert!(
        start_all(&mut intake, at(690)).is_empty(),
        "0.4 are paid at the old rate"
    );
    let next = start_all(&mut intake, at(700));
    assert_eq!(next.len(), 1, "and the rest at the new one");
    free_all(&mut intake, started, at(700));
    free_all(&mut intake, next, at(700));
    assert_eq!(intake.close().count(), 1);
}

#[test]
fn a_valve_below_a_policy_is_one_manager_with_it() {
    let (governor, device) = rig();
    set(&governor, &throttle(1000, Some(limit(2))));
    assert_eq!(governor.name(), "throttle");
    let mut intake = intake(&device);
    push_all(&mut intake, &[Operation::Read; 8]);
    let mut started = start_all(&mut intake, at(0));
    started.extend(start_all(&mut intake, at(10)));
    assert_eq!(started.len(), 2, "the valve's bound");
    let reigning = governor.registry().current();
    set(&governor, &throttle(1000, Some(limit(5))));
    assert!(Arc::ptr_eq(&reigning, &governor.registry().current()), "both in place");
    started.extend(start_all(&mut intake, at(20)));
    assert_eq!(started.len(), 5);
    set(&governor, &throttle(1, None));
    assert!(
        !Arc::ptr_eq(&reigning, &governor.registry().current()),
        "without a valve it is another manager"
    );
    started.extend(start_all(&mut intake, at(30)));
    assert_eq!(started.len(), 6);
    free_all(&mut intake, started, at(40));
    assert_eq!(intake.close().count(), 2);
    assert_eq!(device.pending(), 0);
}

#[test]
fn what_was_granted_and_given_back_can_be_had_again() {
    for config in [
        throttle(1, None),
        throttle(1, Some(limit(1))),
        ManagerConfig {
            policy: PolicyConfig::Limit(limit(1)),
            limit: None,
        },
    ] {
        let (governor, device) = rig();
        set(&governor, &config);
        let mut intake = intake(&device);
        push_all(&mut intake, &[Operation::Read; 2]);
        for _ in 0..10 {
            intake.begin_pass(at(0));
            let granted = intake.next(at(0)).unwrap();
            intake.oo_abort(granted.grant, granted.tag);
        }
        let started = start_all(&mut intake, at(0));
        assert_eq!(started.len(), 1, "{config:?}");
        free_all(&mut intake, started, at(0));
        assert_eq!(intake.close().count(), 1);
        let Counters { grants, aborts, .. } = device.counters();
        assert_eq!((grants, aborts), (11, 10));
    }
}

#[test]
fn what_makes_no_sense_changes_nothing() {
    let (governor, _device) = rig();
    let good = throttle(5, Some(limit(3)));
    set(&governor, &good);
    for bad in [throttle(0, None), throttle(5, Some(limit(0)))] {
        assert!(matches!(governor.set(&bad), Err(SetError::Config(_))));
        assert_eq!(governor.config().as_ref(), Some(&good));
    }
    assert!(matches!(
        governor.unset(Some("limit")),
        Err(SetError::NotCurrent { .. })
    ));
    governor.unset(Some("throttle")).unwrap();
    assert_eq!(governor.config(), Some(ManagerConfig::default()));
    assert_eq!(governor.name(), "none");
}

#[test]
fn a_device_that_comes_later_has_its_limits() {
    let (governor, _device) = rig();
    let other = ManagerConfig {
        policy: PolicyConfig::Throttle(Box::new(ThrottleConfig {
            devices: BTreeMap::from([(
                "late".to_owned(),
                Rates {
                    iops_write: Some(Rate::new(1)),
                    ..Rates::default()
                },
            )]),
            ..ThrottleConfig::default()
        })),
        limit: None,
    };
    set(&governor, &other);
    let late = governor.registry().attach("late").unwrap();
    let mut intake = intake(&late);
    push_all(
        &mut intake,
        &[Operation::Write, Operation::Write, Operation::Read, Operation::Flush],
    );
    let started = start_all(&mut intake, Timestamp::ZERO);
    assert_eq!(started.len(), 3, "all but the second write");
    free_all(&mut intake, started, at(0));
    assert_eq!(intake.close().count(), 1);
}
