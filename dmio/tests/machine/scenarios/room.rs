//! Memory, slots and devices that are used up.

use dmio::{DeviceIndex, ErrorKind, Event, Io, IoFlags, MemoryKind, RegionState};
use iomgr_core::{Errno, Operation};

use crate::story::{POOL, Story, io, read, region, write};

#[test]
fn lent_memory_comes_back_when_the_orphan_has_ended() {
    let mut story = Story::new();
    let here = [region(0, 0)];
    let (id, leg) = story.submit(&io(Operation::Read, &here, POOL));
    story.cancel(id);
    let [Event::Region(event)] = story.events()[..] else {
        panic!("it is cancelled");
    };
    assert!(event.is_last && !event.is_memory_free);
    story.machine.release(id);
    assert_eq!(
        story.machine.regions(id),
        1,
        "it is not forgotten while its device has the memory"
    );
    story.answer(leg, Ok(()));
    assert_eq!(story.events()[1..], [Event::MemoryFree(id)]);
    assert_eq!(story.machine.regions(id), 0);
}

#[test]
fn memory_is_waited_for_by_device() {
    let mut story = Story::new();
    let regions = [region(0, 0), region(1, 0)];
    let at = |device, start| [region(device, start)];
    story.start(&read(&at(0, 0)));
    story.start(&read(&at(0, 0)));
    let full = story.submissions();
    story.start(&write(&regions));
    assert_eq!(
        story.submission().device,
        DeviceIndex(1),
        "the other leg waits, and not for this one"
    );
    let nowait = Io {
        flags: IoFlags::NOWAIT,
        ..read(&regions[..1])
    };
    let refused = story.machine.start(story.now, &nowait).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::WouldBlock);
    story.answer(full[0], Ok(()));
    let leg = story.submission();
    assert_eq!(
        (leg.device, leg.op, leg.fill),
        (DeviceIndex(0), Operation::Write, false)
    );
}

#[test]
fn a_device_with_too_many_orphans_fails_fast_until_it_answers() {
    let mut story = Story::new();
    let place = [region(0, 0), region(0, 8), region(0, 16)];
    story.start(&io(Operation::Write, &place[..1], POOL));
    story.start(&io(Operation::Write, &place[1..2], POOL));
    let legs = story.submissions();
    assert_eq!(
        story.machine.cancel_device(story.now, DeviceIndex(0), false).unwrap(),
        2
    );
    story.start(&io(Operation::Write, &place[..1], POOL));
    story.detach();
    let told = story.events();
    assert_eq!(told[0], Event::Degraded(DeviceIndex(0)));
    let failed =
        |event: &Event| matches!(event, Event::Region(event) if event.state == RegionState::Error(Errno::TIMEDOUT));
    assert!(told[1..].iter().any(failed), "who waits there fails as well: {told:?}");
    story.start(&io(Operation::Write, &place[2..], POOL));
    assert!(story.events().iter().all(failed));
    story.answer(legs[0], Ok(()));
    assert_eq!(story.events()[0], Event::Healthy(DeviceIndex(0)));
    story.start(&io(Operation::Write, &place[2..], POOL));
    story.submission();
}

#[test]
fn a_busy_device_gets_its_legs_again_in_order() {
    let mut story = Story::new();
    for start in [0, 8, 16] {
        story.start(&io(Operation::Write, &[region(0, start)], POOL));
    }
    let first = story.machine.poll_submit().unwrap();
    story.machine.handle_busy(first.leg);
    assert_eq!(story.submissions(), [], "it takes nothing");
    story.machine.retry(DeviceIndex(0)).unwrap();
    let places: Vec<_> = story.submissions().iter().map(|leg| leg.range.start().0).collect();
    assert_eq!(places, [0, 8, 16]);
}

#[test]
fn a_full_machine_hands_requests_back_until_one_is_forgotten() {
    let mut story = Story::new();
    let here = [region(0, 0)];
    let ids: Vec<_> = (0..8)
        .map(|_| story.start(&io(Operation::Prefetch, &here, MemoryKind::None)))
        .collect();
    let refused = story.machine.start(story.now, &read(&here)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Full);
    for leg in story.submissions() {
        story.answer(leg, Ok(()));
    }
    story.events();
    assert!(story.machine.start(story.now, &read(&here)).is_err(), "handles keep it");
    story.machine.acquire(ids[0]).unwrap();
    story.machine.release(ids[0]);
    assert!(
        story.machine.start(story.now, &read(&here)).is_err(),
        "there was another handle"
    );
    story.machine.release(ids[0]);
    story.machine.release(ids[0]);
    story.start(&read(&here));
    assert!(story.machine.acquire(ids[0]).is_err(), "its name is not used again");
}
