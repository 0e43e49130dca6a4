//! A region ends once, whoever comes first: its device, its time, or those that give it up.

use dmio::{DeviceIndex, IoFlags, Reason, RegionState};
use iomgr_core::Operation;
use loom::sync::Arc;
use loom::thread;

use crate::model;
use crate::owner::{EARLY, LATE, Owner, request};

fn is_cancelled(state: &RegionState, by: Reason) -> bool {
    matches!(state, RegionState::Cancelled(cancelled) if cancelled.reason == by)
}

#[test]
fn a_cancel_is_told_without_any_answer() {
    model(3, || {
        let mut owner = Owner::new(1);
        let id = owner.start(Operation::Write, request(1, IoFlags::empty()));
        owner.pass(EARLY, None);
        let theirs = Arc::clone(&owner.meeting);
        let other = thread::spawn(move || theirs.visit(|machine| machine.cancel(EARLY, id).unwrap()));
        owner.work_until(EARLY, |owner| !owner.heard.is_empty());
        assert_eq!(other.join().unwrap(), 1);
        assert!(owner.heard.len() == 1 && is_cancelled(&owner.heard[0], Reason::Handle));
    });
}

#[test]
fn an_answer_and_a_cancel_make_one_end() {
    model(3, || {
        let mut owner = Owner::new(1);
        let id = owner.start(Operation::Write, request(1, IoFlags::empty()));
        owner.pass(EARLY, None);
        let leg = owner.submitted[0];
        let theirs = Arc::clone(&owner.meeting);
        let other = thread::spawn(move || theirs.visit(|machine| machine.cancel(EARLY, id).unwrap()));
        owner.pass(EARLY, Some(leg));
        let given_up = other.join().unwrap();
        owner.pass(EARLY, None);
        assert_eq!(owner.heard.len(), 1);
        match given_up {
            0 => assert_eq!(owner.heard[0], RegionState::Ok),
            _ => assert!(is_cancelled(&owner.heard[0], Reason::Handle) && owner.late == 1),
        }
    });
}

#[test]
fn a_timeout_and_a_cancel_make_one_end() {
    model(3, || {
        let mut owner = Owner::new(1);
        let id = owner.start(Operation::Write, request(1, IoFlags::CANCEL_ON_TIMEOUT));
        owner.pass(EARLY, None);
        let theirs = Arc::clone(&owner.meeting);
        let other = thread::spawn(move || theirs.visit(|machine| machine.cancel(EARLY, id).unwrap()));
        owner.pass(LATE, None);
        let given_up = other.join().unwrap();
        owner.pass(LATE, None);
        assert_eq!(owner.heard.len(), 1);
        let by = if given_up == 0 { Reason::Timeout } else { Reason::Handle };
        assert!(is_cancelled(&owner.heard[0], by), "{:?}", owner.heard);
    });
}

#[test]
fn two_that_cancel_give_each_region_up_once() {
    model(2, || {
        let mut owner = Owner::new(2);
        let id = owner.start(Operation::Write, request(2, IoFlags::empty()));
        owner.pass(EARLY, None);
        let (first, second) = (Arc::clone(&owner.meeting), Arc::clone(&owner.meeting));
        let by_handle = thread::spawn(move || first.visit(|machine| machine.cancel(EARLY, id).unwrap()));
        let by_device =
            thread::spawn(move || second.visit(|machine| machine.cancel_device(EARLY, DeviceIndex(0), false).unwrap()));
        owner.work_until(EARLY, |owner| owner.heard.len() == 2);
        assert_eq!(by_handle.join().unwrap() + by_device.join().unwrap(), 2);
        owner.pass(EARLY, None);
        assert_eq!(owner.heard.len(), 2);
    });
}
