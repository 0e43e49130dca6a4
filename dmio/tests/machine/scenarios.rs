//! Short stories, for people to read: what the rules come to.

use std::time::Duration;

use dmio::{
    Cancelled, Completed, DeviceConfig, DeviceIndex, ErrorKind, Event, Io, IoFlags, LegId, Machine, MachineConfig,
    MemoryKind, Reason, Region, RegionState, RequestId, Submission,
};
use iomgr_core::{CancelOutcome, Errno, Operation, RequestFlags, Sector, SectorCount, SectorRange, Timestamp};

const MS: Duration = Duration::from_millis(1);
pub(crate) const POOL: MemoryKind = MemoryKind::Lent { cancellable: true };
pub(crate) const OWN: MemoryKind = MemoryKind::Lent { cancellable: false };

/// A machine with three devices of 1000 sectors.
struct Story {
    machine: Machine,
    now: Timestamp,
}

pub(crate) fn config() -> MachineConfig {
    let device = DeviceConfig {
        size: SectorCount(1000),
        logical_block_bytes: 512,
        read_only: false,
    };
    MachineConfig {
        requests: 8,
        legs: 16,
        devices: vec![device; 3],
        min_ios: 2,
        orphans_max: 2,
        max_size: SectorCount(64),
    }
}

pub(crate) fn region(device: u16, start: u64) -> Region {
    Region {
        device: DeviceIndex(device),
        range: SectorRange::new(Sector(start), SectorCount(8)).unwrap(),
    }
}

pub(crate) fn io(op: Operation, regions: &[Region], memory: MemoryKind) -> Io<'_> {
    Io {
        op,
        request_flags: RequestFlags::empty(),
        regions,
        choice: false,
        timeout: None,
        flags: IoFlags::empty(),
        memory,
    }
}

pub(crate) fn write(regions: &[Region]) -> Io<'_> {
    io(Operation::Write, regions, MemoryKind::Bounce)
}

pub(crate) fn read(regions: &[Region]) -> Io<'_> {
    Io {
        choice: regions.len() > 1,
        ..io(Operation::Read, regions, MemoryKind::Bounce)
    }
}

fn cancelled(reason: Reason, never_started: bool) -> RegionState {
    RegionState::Cancelled(Cancelled { reason, never_started })
}

impl Story {
    fn new() -> Self {
        Self {
            machine: Machine::new(config()).unwrap(),
            now: Timestamp::ZERO,
        }
    }

    fn start(&mut self, io: &Io<'_>) -> RequestId {
        self.machine.start(self.now, io).unwrap()
    }

    fn submissions(&mut self) -> Vec<Submission> {
        self.machine.self_check();
        std::iter::from_fn(|| self.machine.poll_submit()).collect()
    }

    /// The only one.
    fn submission(&mut self) -> Submission {
        let all = self.submissions();
        assert_eq!(all.len(), 1, "{all:?}");
        all[0]
    }

    fn answer(&mut self, submission: Submission, result: Result<(), Errno>) -> Completed {
        self.machine.handle_completion(self.now, submission.leg, result)
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        self.machine.handle_timeout(self.now);
    }

    /// Devices are told to give up, and cannot.
    fn detach(&mut self) -> Vec<LegId> {
        let mut told = Vec::new();
        while let Some(cancel) = self.machine.poll_cancel() {
            self.machine
                .handle_cancelled(self.now, cancel.leg, CancelOutcome::Detached);
            told.push(cancel.leg);
        }
        told
    }

    fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.machine.poll_event()).collect()
    }

    /// Is some region said to be so?
    fn is_indeterminate(&mut self) -> bool {
        let is = |event: &Event| matches!(event, Event::Region(event) if event.indeterminate);
        self.events().iter().any(is)
    }

    /// Regions, and what they came to, of events that are about nothing else.
    fn states(&mut self) -> Vec<(usize, RegionState)> {
        let state = |event| match event {
            Event::Region(event) => (event.region, event.state),
            other => panic!("{other:?}"),
        };
        self.events().into_iter().map(state).collect()
    }
}

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
fn a_cancelled_write_holds_its_sectors_until_its_device_answers() {
    let mut story = Story::new();
    let (here, beside) = ([region(0, 0)], [region(0, 8)]);
    let first = story.start(&write(&here));
    let ghost = story.submission();
    assert_eq!(story.machine.cancel(story.now, first).unwrap(), 1);
    assert_eq!(story.machine.cancel(story.now, first).unwrap(), 0, "once is enough");
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
    story.start(&write(&here));
    let ghost = story.submission();
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

#[test]
fn a_read_of_what_an_orphan_may_be_writing_says_so() {
    let mut story = Story::new();
    let here = [region(0, 0)];
    let first = story.start(&write(&here));
    let ghost = story.submission();
    story.start(&read(&here));
    let reader = story.submission();
    story.machine.cancel(story.now, first).unwrap();
    story.answer(reader, Ok(()));
    assert!(story.is_indeterminate(), "it became one while it was read");
    story.start(&read(&here));
    let reader = story.submission();
    story.answer(ghost, Ok(()));
    story.answer(reader, Ok(()));
    assert!(story.is_indeterminate(), "it was one when it was read");
    story.start(&read(&here));
    let reader = story.submission();
    story.answer(reader, Ok(()));
    assert!(!story.is_indeterminate());
}

#[test]
fn a_read_that_is_longer_than_an_orphan_says_so_too() {
    let mut story = Story::new();
    let (here, beside) = ([region(0, 0)], [region(0, 8)]);
    let first = story.start(&write(&here));
    let ghost = story.submission();
    for regions in [&here, &beside] {
        story.start(&io(Operation::Read, regions, POOL));
    }
    let readers = story.submissions();
    story.machine.cancel(story.now, first).unwrap();
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
    let first = story.start(&write(&here));
    let stopped = story.submission();
    story.start(&read(&here));
    let reader = story.submission();
    story.machine.cancel(story.now, first).unwrap();
    let told = story.machine.poll_cancel().unwrap();
    story
        .machine
        .handle_cancelled(story.now, told.leg, CancelOutcome::NeverStarted);
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
    story.start(&io(Operation::Read, &here, OWN));
    let reader = story.submission();
    story
        .machine
        .replace(story.now, DeviceIndex(0), config().devices[0])
        .unwrap();
    story.answer(reader, Ok(()));
    assert!(story.is_indeterminate());
}

#[test]
fn a_stalled_candidate_is_hedged_and_the_first_good_answer_wins() {
    let mut story = Story::new();
    let regions = [region(0, 0), region(1, 0), region(2, 0)];
    let timeout = Some(10 * MS);
    story.start(&Io {
        timeout,
        ..read(&regions)
    });
    let first = story.submission();
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
    let regions = [region(0, 0), region(1, 0), region(2, 0)];
    let timeout = Some(10 * MS);
    story.start(&Io {
        timeout,
        ..read(&regions)
    });
    let first = story.submission();
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
    let regions = [region(0, 0), region(1, 0), region(2, 0)];
    story.machine.fence(story.now, DeviceIndex(1)).unwrap();
    let id = story.start(&Io {
        memory: OWN,
        ..read(&regions)
    });
    let first = story.submission();
    story.answer(first, Err(Errno::IO));
    let third = story.submission();
    assert_eq!(third.device, DeviceIndex(2), "the second's device is fenced");
    story.answer(third, Ok(()));
    let (failed, fenced) = (RegionState::Error(Errno::IO), RegionState::Error(Errno::NODEV));
    assert_eq!(story.states(), [(0, failed), (1, fenced), (2, RegionState::Ok)]);
    assert!(story.machine.is_over(id));
}

#[test]
fn lent_memory_comes_back_when_the_orphan_has_ended() {
    let mut story = Story::new();
    let here = [region(0, 0)];
    let id = story.start(&io(Operation::Read, &here, POOL));
    let leg = story.submission();
    story.machine.cancel(story.now, id).unwrap();
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
fn what_works_on_the_callers_own_memory_is_not_cancelled() {
    let mut story = Story::new();
    let here = [region(0, 0)];
    let timeout = Some(MS);
    let id = story.start(&Io {
        timeout,
        ..io(Operation::Read, &here, OWN)
    });
    let leg = story.submission();
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
fn what_a_device_has_not_begun_is_never_late() {
    let mut story = Story::new();
    let here = [region(0, 0)];
    let id = story.start(&write(&here));
    let leg = story.submission();
    story.machine.cancel(story.now, id).unwrap();
    let told = story.machine.poll_cancel().unwrap();
    story
        .machine
        .handle_cancelled(story.now, told.leg, CancelOutcome::NeverStarted);
    assert_eq!(story.states(), [(0, cancelled(Reason::Handle, true))]);
    story.answer(leg, Err(Errno::CANCELED));
    assert_eq!(story.events(), []);
}

#[test]
fn who_was_told_that_the_device_has_it_is_told_when_it_has_it_no_more() {
    let mut story = Story::new();
    let here = [region(0, 0)];
    let id = story.start(&write(&here));
    let leg = story.submission();
    story.machine.cancel(story.now, id).unwrap();
    let told = cancelled(Reason::Handle, false);
    assert_eq!(story.states(), [(0, told)], "before its device was asked");
    let cancel = story.machine.poll_cancel().unwrap();
    story
        .machine
        .handle_cancelled(story.now, cancel.leg, CancelOutcome::NeverStarted);
    assert_eq!(story.machine.state(id, 0), Some(told), "what was told stays true");
    assert_eq!(story.machine.counters().never_started, 0);
    story.answer(leg, Err(Errno::CANCELED));
    let [Event::Late(late)] = story.events()[..] else {
        panic!("somebody waits for it");
    };
    assert_eq!((late.request, late.result), (id, Err(Errno::CANCELED)));
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
