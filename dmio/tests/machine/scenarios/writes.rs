//! Writes, and the sectors that they hold.

use dmio::{Completed, DeviceIndex, Event, MemoryKind, Reason, Region, Submission};
use iomgr_core::{Errno, Operation, Sector, SectorCount, SectorRange};

use crate::story::{MS, POOL, Story, cancelled, config, io, region, write};

#[test]
fn a_cancelled_write_holds_its_sectors_until_its_device_answers() {
    let mut story = Story::new();
    let (here, beside) = ([region(0, 0)], [region(0, 8)]);
    let (first, ghost) = story.submit(&write(&here));
    assert_eq!(story.cancel(first), 1);
    assert_eq!(story.cancel(first), 0, "once is enough");
    assert_eq!(story.detach(), [ghost.leg]);
    assert_eq!(story.states(), [(0, cancelled(Reason::Handle, false))]);

    story.start(&io(Operation::Discard, &here, MemoryKind::None));
    assert_eq!(story.submissions(), [], "it may land yet");
    story.start(&write(&beside));
    story.submission();
    story.pass(MS);
    assert_eq!(story.answer(ghost, Ok(())), Completed::Late);
    let Event::Late(late) = story.events()[0] else {
        panic!("it is told");
    };
    assert_eq!((late.request, late.after, late.result), (first, MS, Ok(())));
    assert_eq!(story.submission().op, Operation::Discard);
}

#[test]
fn a_later_write_does_not_overtake_one_that_it_overlaps() {
    let mut story = Story::new();
    let wide = |start, count| Region {
        range: SectorRange::new(Sector(start), SectorCount(count)).unwrap(),
        ..region(0, 0)
    };
    let ranges = [wide(0, 8), wide(4, 8), wide(10, 8), wide(40, 8)];
    for range in ranges {
        story.start(&io(Operation::Write, &[range], POOL));
    }
    let first = story.submissions();
    let ranges_of = |legs: &[Submission]| legs.iter().map(|leg| leg.range.start().0).collect::<Vec<_>>();
    assert_eq!(
        ranges_of(&first),
        [0, 40],
        "the third waits for the second, which waits for the first"
    );
    story.answer(first[0], Ok(()));
    let second = story.submission();
    assert_eq!(second.range.start(), Sector(4));
    story.answer(second, Err(Errno::IO));
    assert_eq!(story.submission().range.start(), Sector(10));
}

#[test]
fn a_replaced_device_has_no_ghosts() {
    let mut story = Story::new();
    let here = [region(0, 0)];
    let (_, ghost) = story.submit(&write(&here));
    let missing = story.machine.cells_missing(DeviceIndex(0)).unwrap();
    assert_eq!(missing, 1, "the ghost keeps one");
    story.machine.add_cells(missing);
    let generation = story
        .machine
        .replace(story.now, DeviceIndex(0), config().devices[0])
        .unwrap();
    assert_ne!(generation, ghost.generation);
    assert_eq!(story.detach(), [ghost.leg]);
    assert_eq!(story.states(), [(0, cancelled(Reason::Device, false))]);
    story.start(&write(&here));
    assert_eq!(story.submission().generation, generation, "it waits for nothing");
    assert_eq!(story.answer(ghost, Ok(())), Completed::Late);
}
