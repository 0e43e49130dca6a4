//! Reads of which one good answer is enough.

use dmio::{Completed, DeviceIndex, Io, Reason, RegionState};
use iomgr_core::Errno;

use crate::story::{MS, OWN, Story, cancelled, read, region};

#[test]
fn a_stalled_candidate_is_hedged_and_the_first_good_answer_wins() {
    let mut story = Story::new();
    let regions = [0, 1, 2].map(|device| region(device, 0));
    let timeout = Some(10 * MS);
    let (_, first) = story.submit(&Io {
        timeout,
        ..read(&regions)
    });
    story.pass(20 * MS);
    let second = story.submission();
    assert_ne!(first.cell, second.cell, "each is read into memory of its own");
    story.answer(second, Ok(()));
    let unneeded = |never_started| cancelled(Reason::Unneeded, never_started);
    let states = story.states();
    assert_eq!(states[0], (0, RegionState::Timeout));
    assert_eq!(
        states[1..],
        [(0, unneeded(false)), (1, RegionState::Ok), (2, unneeded(true))]
    );
    assert_eq!(story.detach(), [first.leg]);
    assert_eq!(story.answer(first, Ok(())), Completed::Late);
}

#[test]
fn a_late_candidate_that_fails_leaves_the_one_that_runs_its_time() {
    let mut story = Story::new();
    let regions = [0, 1, 2].map(|device| region(device, 0));
    let timeout = Some(10 * MS);
    let (_, first) = story.submit(&Io {
        timeout,
        ..read(&regions)
    });
    story.pass(11 * MS);
    story.submission();
    story.pass(5 * MS);
    story.answer(first, Err(Errno::IO));
    assert_eq!(story.submissions(), [], "the second is neither bad nor late");
    story.pass(10 * MS);
    let third = story.submission();
    assert_eq!(third.device, DeviceIndex(2), "now it is late");
    let states = story.states();
    let failed = RegionState::Error(Errno::IO);
    let late = RegionState::Timeout;
    assert_eq!(states, [(0, late), (0, failed), (1, late)]);
}

#[test]
fn a_candidate_follows_one_that_failed() {
    let mut story = Story::new();
    let regions = [0, 1, 2].map(|device| region(device, 0));
    story.machine.fence(story.now, DeviceIndex(1)).unwrap();
    let (id, first) = story.submit(&Io {
        memory: OWN,
        ..read(&regions)
    });
    story.answer(first, Err(Errno::IO));
    let third = story.submission();
    assert_eq!(third.device, DeviceIndex(2), "the second's device is fenced");
    story.answer(third, Ok(()));
    let (failed, fenced) = (RegionState::Error(Errno::IO), RegionState::Error(Errno::NODEV));
    assert_eq!(story.states(), [(0, failed), (1, fenced), (2, RegionState::Ok)]);
    assert!(story.machine.is_over(id));
}
