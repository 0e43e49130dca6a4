//! What others change is seen by an owner that sleeps.

use dmio::{DeviceIndex, IoFlags};
use iomgr_core::Operation;
use loom::sync::Arc;
use loom::thread;

use crate::model;
use crate::owner::{EARLY, Owner, request};

#[test]
fn a_device_given_up_sends_its_choice_to_the_next() {
    model(3, || {
        let mut owner = Owner::new(2);
        owner.start(Operation::Read, request(2, IoFlags::empty()));
        owner.pass(EARLY, None);
        assert_eq!(owner.submitted.len(), 1);
        let theirs = Arc::clone(&owner.meeting);
        let other =
            thread::spawn(move || theirs.visit(|machine| machine.cancel_device(EARLY, DeviceIndex(0), true).unwrap()));
        owner.work_until(EARLY, |owner| owner.submitted.len() == 2);
        other.join().unwrap();
        // Its time counts from now, so the owner knows when to look.
        assert!(owner.meeting.own(|machine| machine.poll_timeout()).is_some());
    });
}

#[test]
fn an_owner_that_waits_for_handles_hears_of_the_last() {
    model(3, || {
        let mut owner = Owner::new(1);
        let id = owner.start(Operation::Write, request(1, IoFlags::empty()));
        owner.meeting.own(|machine| machine.acquire(id).unwrap());
        owner.pass(EARLY, None);
        let leg = owner.submitted[0];
        owner.pass(EARLY, Some(leg));
        let release = |meeting: Arc<crate::meeting::Meeting<Box<dmio::Machine>>>| {
            thread::spawn(move || {
                meeting.pass_by(|machine| {
                    machine.release(id);
                    true
                });
            })
        };
        let others = [release(Arc::clone(&owner.meeting)), release(Arc::clone(&owner.meeting))];
        let is_forgotten = |owner: &Owner| owner.meeting.own(|machine| machine.occupancy().requests) == 0;
        owner.work_until(EARLY, is_forgotten);
        others.into_iter().for_each(|other| other.join().unwrap());
    });
}

#[test]
fn many_wake_ups_are_as_good_as_one() {
    model(2, || {
        let mut owner = Owner::new(1);
        let ids = [0, 1].map(|_| owner.start(Operation::Flush, flush()));
        owner.pass(EARLY, None);
        let cancel = |id| {
            let theirs = Arc::clone(&owner.meeting);
            thread::spawn(move || theirs.visit(|machine| machine.cancel(EARLY, id).unwrap()))
        };
        let others = ids.map(cancel);
        owner.work_until(EARLY, |owner| owner.heard.len() == 2);
        let given_up: u32 = others.into_iter().map(|other| other.join().unwrap()).sum();
        assert_eq!(given_up, 2);
    });
}

fn flush() -> (Vec<dmio::Region>, IoFlags) {
    let region = dmio::Region {
        device: DeviceIndex(0),
        range: iomgr_core::SectorRange::default(),
    };
    (vec![region], IoFlags::empty())
}
