//! Writes that were given up and land later all the same: what comes after them waits, or is told.

use std::time::Duration;

use dmio::{IoRequest, RegionState};

use super::rig::{BAD, Events, GOOD, Notes, OLD, Rig, SECTORS, bounce, region};

const GHOST: u8 = 0xAA;
const NEW: u8 = 0xBB;

/// Starts a write that the stalled device gets, and gives it up.
fn ghost(rig: &mut Rig, start: u64) {
    let notes = Notes::default();
    let handle = rig.start(IoRequest::write(&[region(BAD, start, SECTORS)], bounce(GHOST)), &notes);
    assert_eq!(handle.cancel().unwrap(), 1);
    rig.poll_until(|_| notes.len() == 1);
}

#[test]
fn regions_ghost_holds_a_later_write_that_overlaps() {
    let Some(mut rig) = Rig::new() else { return };
    let events = Events::of(&mut rig.client);
    rig.throttle.stall();
    ghost(&mut rig, 64);
    let notes = Notes::default();
    // One overlaps the ghost, one the other one.
    let first = rig.start(IoRequest::write(&[region(BAD, 68, SECTORS)], bounce(NEW)), &notes);
    let second = rig.start(IoRequest::write(&[region(BAD, 72, SECTORS)], bounce(NEW + 1)), &notes);
    rig.pass_time(Duration::from_millis(50));
    assert!(!first.is_over() && !second.is_over());
    let held = rig.client.dump().matches("held by").count();
    assert_eq!(
        (held, rig.client.counters().hold_waits),
        (2, 2),
        "{}",
        rig.client.dump()
    );

    rig.throttle.lift();
    rig.poll_until(|_| notes.len() == 2);
    assert_eq!(notes.of_one(), [RegionState::Ok; 2]);
    let (late, told) = events.late()[0];
    assert_eq!(late.result, Ok(()));
    assert!(
        notes.take().iter().all(|(_, at)| *at > told),
        "they went before the ghost had ended"
    );
    let expected = [[GHOST; 4], [NEW; 4], [NEW + 1; 4], [NEW + 1; 4], [OLD; 4]];
    assert_eq!(rig.on_disk(BAD, 64, 20), expected.as_flattened());
    drop((first, second));
    assert!(rig.client.destroy().is_ok());
}

#[test]
fn regions_ghost_holds_nothing_else() {
    let Some(mut rig) = Rig::new() else { return };
    rig.throttle.stall();
    ghost(&mut rig, 64);
    // The same sectors of the other device; neighbours would be stalled, but not held.
    let outcome = rig
        .client
        .io_sync(IoRequest::write(&[region(GOOD, 64, SECTORS)], bounce(NEW)), None)
        .unwrap();
    assert_eq!(outcome.error_mask, 0);
    let notes = Notes::default();
    for start in [64 - SECTORS, 64 + SECTORS] {
        drop(rig.start(IoRequest::write(&[region(BAD, start, SECTORS)], bounce(NEW)), &notes));
    }
    assert_eq!(rig.client.counters().hold_waits, 0, "{}", rig.client.dump());
    rig.throttle.lift();
    rig.poll_until(|_| notes.len() == 2);
    rig.settle();
    assert_eq!(
        rig.on_disk(BAD, 56, 24),
        [[NEW; 8], [GHOST; 8], [NEW; 8]].as_flattened()
    );
    assert!(rig.client.destroy().is_ok());
}

#[test]
fn regions_ghost_makes_reads_indeterminate() {
    let Some(mut rig) = Rig::new() else { return };
    rig.throttle.stall();
    ghost(&mut rig, 64);
    // Reads are not stalled, and not held.
    for (start, is_told) in [(60, true), (64, true), (72, false)] {
        let notes = Notes::default();
        drop(rig.start(IoRequest::read(&[region(BAD, start, SECTORS)], bounce(0)), &notes));
        rig.poll_until(|_| notes.len() == 1);
        let (note, _) = notes.take().pop().unwrap();
        assert_eq!(
            (note.state, note.indeterminate),
            (RegionState::Ok, is_told),
            "from {start}"
        );
    }
    rig.throttle.lift();
    rig.settle();
    let notes = Notes::default();
    drop(rig.start(IoRequest::read(&[region(BAD, 64, SECTORS)], bounce(0)), &notes));
    rig.poll_until(|_| notes.len() == 1);
    assert!(!notes.take()[0].0.indeterminate, "it is over");
    assert_eq!(rig.client.counters().indeterminate, 2);
    assert!(rig.client.destroy().is_ok());
}

/// What is held can be given up as well: it was never started.
#[test]
fn regions_ghost_lets_what_it_holds_be_cancelled() {
    let Some(mut rig) = Rig::new() else { return };
    rig.throttle.stall();
    ghost(&mut rig, 64);
    let notes = Notes::default();
    let held = rig.start(IoRequest::write(&[region(BAD, 64, SECTORS)], bounce(NEW)), &notes);
    assert_eq!(held.cancel().unwrap(), 1);
    rig.poll_until(|_| notes.len() == 1);
    let RegionState::Cancelled(cancelled) = notes.of_one()[0] else {
        panic!("{:?}", notes.of_one())
    };
    assert!(cancelled.never_started);
    rig.throttle.lift();
    rig.settle();
    drop(held);
    assert_eq!(rig.on_disk(BAD, 64, SECTORS), [GHOST; 8]);
    assert!(rig.client.destroy().is_ok());
}
