//! What reads say of orphans.

use dmio::{Completed, DeviceIndex, Event, MemoryKind};
use iomgr_core::{Errno, Operation};

use crate::story::{OWN, POOL, Story, config, io, read, region, write};

#[test]
fn a_read_of_what_an_orphan_may_be_writing_says_so() {
    let mut story = Story::new();
    let here = [region(0, 0)];
    let (first, ghost) = story.submit(&write(&here));
    let (_, reader) = story.submit(&read(&here));
    story.cancel(first);
    story.answer(reader, Ok(()));
    assert!(story.is_indeterminate(), "it became one while it was read");
    let (_, reader) = story.submit(&read(&here));
    story.answer(ghost, Ok(()));
    story.answer(reader, Ok(()));
    assert!(story.is_indeterminate(), "it was one when it was read");
    let (_, reader) = story.submit(&read(&here));
    story.answer(reader, Ok(()));
    assert!(!story.is_indeterminate());
}

#[test]
fn a_read_that_is_longer_than_an_orphan_says_so_too() {
    let mut story = Story::new();
    let (here, beside) = ([region(0, 0)], [region(0, 8)]);
    let (first, ghost) = story.submit(&write(&here));
    for regions in [&here, &beside] {
        story.start(&io(Operation::Read, regions, POOL));
    }
    let readers = story.submissions();
    story.cancel(first);
    story.detach();
    assert_eq!(story.answer(ghost, Ok(())), Completed::Late);
    assert!(
        matches!(story.events()[1], Event::Late(_)),
        "who is told that it has landed"
    );
    story.answer(readers[0], Ok(()));
    assert!(story.is_indeterminate(), "may yet get what was there before");
    story.answer(readers[1], Ok(()));
    assert!(!story.is_indeterminate(), "the orphan was not there");
    assert_eq!(story.machine.counters().indeterminate, 1);
}

#[test]
fn what_never_started_is_seen_by_no_read() {
    let mut story = Story::new();
    let here = [region(0, 0)];
    let (first, stopped) = story.submit(&write(&here));
    let (_, reader) = story.submit(&read(&here));
    story.cancel(first);
    story.stop();
    story.answer(stopped, Err(Errno::CANCELED));
    story.answer(reader, Ok(()));
    assert!(!story.is_indeterminate());
}

#[test]
fn a_read_that_outlives_its_devices_number_says_what_the_device_still_wrote() {
    let mut story = Story::new();
    let here = [region(0, 0)];
    story.start(&io(Operation::Write, &here, POOL));
    story.submission();
    let (_, reader) = story.submit(&io(Operation::Read, &here, OWN));
    story
        .machine
        .replace(story.now, DeviceIndex(0), config().devices[0])
        .unwrap();
    story.answer(reader, Ok(()));
    assert!(story.is_indeterminate());
}

#[test]
fn what_brings_no_bytes_is_not_indeterminate() {
    let mut story = Story::new();
    let here = [region(0, 0)];
    let (first, _) = story.submit(&write(&here));
    let (_, there) = story.submit(&io(Operation::Prefetch, &here, MemoryKind::None));
    story.cancel(first);
    story.answer(there, Ok(()));
    assert!(!story.is_indeterminate());
}
