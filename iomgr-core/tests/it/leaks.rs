//! A grant or ticket that is dropped does not go unnoticed.

use std::panic::{AssertUnwindSafe, catch_unwind};

use iomgr_core::manager::{Registry, leaked_total};
use iomgr_core::{Operation, Timestamp};

use crate::support::*;

/// One test for both: the count is the process's.
#[test]
fn what_is_not_used_up_is_noticed() {
    dropping_a_grant_or_a_ticket_is_counted_and_panics();
    a_ticket_of_another_intake_is_refused_and_counted();
}

fn dropping_a_grant_or_a_ticket_is_counted_and_panics() {
    let registry = Registry::new();
    let device = registry.attach("disk").unwrap();
    let mut intake = intake(&device);
    push_all(&mut intake, &[Operation::Read; 2]);
    let granted = intake.next(Timestamp::ZERO).unwrap();
    let next = intake.next(Timestamp::ZERO).unwrap();
    let ticket = intake.alloc(next.grant);
    let before = leaked_total();
    assert!(catch_unwind(AssertUnwindSafe(|| drop(granted))).is_err());
    assert!(catch_unwind(AssertUnwindSafe(|| drop(ticket))).is_err());
    assert_eq!(leaked_total() - before, 2, "no other test leaks");
    assert_eq!(device.pending(), 1, "the lost ticket stays pending");
}

fn a_ticket_of_another_intake_is_refused_and_counted() {
    let registry = Registry::new();
    let device = registry.attach("disk").unwrap();
    let (mut one, mut other) = (intake(&device), intake(&device));
    push_all(&mut one, &[Operation::Read]);
    let mut started = start_all(&mut one, Timestamp::ZERO);
    let (_, ticket) = started.pop().unwrap();
    let before = leaked_total();
    assert!(catch_unwind(AssertUnwindSafe(|| other.free(ticket, Timestamp::ZERO))).is_err());
    assert_eq!(leaked_total() - before, 1);
}
