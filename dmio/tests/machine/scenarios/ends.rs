//! How regions end, and who hears of it.

use dmio::{DeviceIndex, ErrorKind, Event, Io, Reason, RegionState};
use iomgr_core::{Errno, Operation};

use crate::story::{MS, OWN, Story, cancelled, io, region, write};

#[test]
fn a_region_that_takes_long_says_so_and_goes_on() {
    let mut story = Story::new();
    let regions = [region(0, 0), region(1, 0)];
    let timeout = Some(10 * MS);
    story.start(&Io {
        timeout,
        ..write(&regions)
    });
    let legs = story.submissions();
    assert!(legs[0].fill && !legs[1].fill, "they share a cell");
    assert_eq!(legs[0].cell, legs[1].cell);
    story.answer(legs[0], Ok(()));
    story.pass(20 * MS);
    assert_eq!(story.states(), [(0, RegionState::Ok), (1, RegionState::Timeout)]);
    story.answer(legs[1], Ok(()));
    assert_eq!(story.states(), [(1, RegionState::Ok)]);
}

#[test]
fn what_works_on_the_callers_own_memory_is_not_cancelled() {
    let mut story = Story::new();
    let here = [region(0, 0)];
    let timeout = Some(MS);
    let (id, leg) = story.submit(&Io {
        timeout,
        ..io(Operation::Read, &here, OWN)
    });
    let refused = story.machine.cancel(story.now, id).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::WouldBlock);
    assert_eq!(
        story.machine.cancel_device(story.now, DeviceIndex(0), false).unwrap(),
        0
    );
    story.pass(2 * MS);
    story.answer(leg, Ok(()));
    assert_eq!(story.states(), [(0, RegionState::Timeout), (0, RegionState::Ok)]);
}

#[test]
fn what_a_device_has_not_begun_is_never_late() {
    let mut story = Story::new();
    let here = [region(0, 0)];
    let (id, leg) = story.submit(&write(&here));
    story.cancel(id);
    story.stop();
    assert_eq!(story.states(), [(0, cancelled(Reason::Handle, true))]);
    story.answer(leg, Err(Errno::CANCELED));
    assert_eq!(story.events(), []);
}

#[test]
fn who_was_told_that_the_device_has_it_is_told_when_it_has_it_no_more() {
    let mut story = Story::new();
    let here = [region(0, 0)];
    let (id, leg) = story.submit(&write(&here));
    story.cancel(id);
    let told = cancelled(Reason::Handle, false);
    assert_eq!(story.states(), [(0, told)], "before its device was asked");
    story.stop();
    assert_eq!(story.machine.state(id, 0), Some(told), "what was told stays true");
    assert_eq!(story.machine.counters().never_started, 0);
    story.answer(leg, Err(Errno::CANCELED));
    let [Event::Late(late)] = story.events()[..] else {
        panic!("somebody waits for it");
    };
    assert_eq!((late.request, late.result), (id, Err(Errno::CANCELED)));
}
