//! A lane: hooks, device and ends in their order.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use iomgr_core::manager::test_utils::CountingManager;
use iomgr_core::manager::{Intake, ManagedDevice, Registry, Verdict, Wait};
use iomgr_core::{
    Busy, CancelOutcome, Class, Data, DeviceQueue, Done, Errno, FileHandle, FileSlot, Full, Lane, Lease, Op, OpDone,
    OpQueue, Operation, Pass, Request, RequestFlags, Sector, SectorCount, SectorRange, Tag, Timestamp, Token, Waker,
};

use crate::support::at;

/// A device that takes so many requests, and ends what it took in a pass of its own.
#[derive(Debug)]
struct Narrow {
    room: usize,
    taken: Vec<Tag>,
    done: VecDeque<Done>,
    /// What ended without it, and after how long.
    settled: Arc<Mutex<Vec<(Tag, Duration)>>>,
}

impl DeviceQueue for Narrow {
    fn submit(&mut self, _pass: &mut Pass<'_>, request: Request) -> Result<(), Busy> {
        if self.taken.len() == self.room {
            return Err(Busy(request));
        }
        self.taken.push(request.tag);
        Ok(())
    }

    fn op_done(&mut self, _pass: &mut Pass<'_>, _done: OpDone) {}

    fn kick(&mut self, _pass: &mut Pass<'_>) {
        let ended = self.taken.drain(..).map(|tag| Done { tag, result: Ok(()) });
        self.done.extend(ended);
    }

    fn poll_done(&mut self) -> Option<Done> {
        self.done.pop_front()
    }

    /// It finds out only when a request is there.
    fn busy(&self) -> bool {
        false
    }

    fn note_settled(&mut self, request: &Request, now: Timestamp) {
        let latency = now.since(request.arrival);
        self.settled.lock().unwrap().push((request.tag, latency));
    }

    fn cancel(&mut self, _pass: &mut Pass<'_>, _tag: Tag) -> CancelOutcome {
        CancelOutcome::Unknown
    }

    fn is_idle(&self) -> bool {
        self.taken.is_empty()
    }

    fn close(self: Box<Self>, _io: &mut dyn OpQueue) {}
}

/// A queue that nobody uses.
struct NoIo;

impl OpQueue for NoIo {
    fn add_file(&mut self, _file: &FileHandle) -> Result<FileSlot, Errno> {
        Err(Errno::NFILE)
    }
    fn remove_file(&mut self, _slot: FileSlot) {}
    fn push(&mut self, op: Op) -> Result<(), Full> {
        Err(Full(op))
    }
    fn cancel(&mut self, _token: Token) -> usize {
        0
    }
    fn alloc(&mut self, _len: u32) -> Option<Lease> {
        None
    }
    fn free(&mut self, _lease: Lease) {}
    fn bytes(&self, _data: Data) -> Option<&[u8]> {
        None
    }
    fn fill_zeros(&mut self, _data: Data) -> bool {
        false
    }
    fn bytes_mut(&mut self, _data: Data) -> Option<&mut [u8]> {
        None
    }
}

/// A lane of depth 4 before a device with that much room.
fn lane(registry: &Registry, room: usize) -> Lane {
    lane_of(&registry.attach("disk").unwrap(), room)
}

/// The same, for a device that is attached already.
fn lane_of(managed: &Arc<ManagedDevice>, room: usize) -> Lane {
    lane_that_tells(managed, room, Arc::default())
}

/// The same, that tells what ended without the device.
fn lane_that_tells(managed: &Arc<ManagedDevice>, room: usize, settled: Arc<Mutex<Vec<(Tag, Duration)>>>) -> Lane {
    let device = Narrow {
        room,
        taken: Vec::new(),
        done: VecDeque::new(),
        settled,
    };
    let intake = Intake::new(managed, 4, Waker::none());
    Lane::new(Box::new(device), intake, 4)
}

fn request(tag: u32, op: Operation) -> Request {
    Request {
        tag: Tag(tag),
        op,
        flags: RequestFlags::empty(),
        range: SectorRange::new(Sector(8), SectorCount(8)).unwrap(),
        data: Data::NONE,
        arrival: Timestamp::ZERO,
        deadline: None,
    }
}

/// A pass: the tags that end in it, in their order.
fn pass(lane: &mut Lane, now: Timestamp) -> Vec<u32> {
    results(lane, now).into_iter().map(|(tag, _)| tag).collect()
}

/// A pass: what ends in it, and how.
fn results(lane: &mut Lane, now: Timestamp) -> Vec<(u32, Result<(), Errno>)> {
    let mut pass = Pass { now, io: &mut NoIo };
    lane.begin_pass(&mut pass);
    lane.kick(&mut pass);
    lane.admit(&mut pass);
    std::iter::from_fn(|| lane.poll_ended(now))
        .map(|ended| (ended.request.tag.0, ended.result))
        .collect()
}

#[test]
fn each_request_passes_the_hooks_and_ends_once() {
    let (registry, manager) = (Registry::new(), CountingManager::new("counting"));
    registry.register(manager.clone()).unwrap();
    let mut lane = lane(&registry, 4);
    (0..4).for_each(|tag| lane.push(request(tag, Operation::Read)));
    assert_eq!((lane.in_flight(), lane.is_idle()), (4, false));
    assert_eq!(pass(&mut lane, at(1)), [0; 0]);
    assert_eq!(manager.seen().pending, 4);
    assert_eq!(pass(&mut lane, at(2)), [0, 1, 2, 3]);
    assert_eq!((lane.in_flight(), lane.ended(), lane.is_idle()), (0, 4, true));
    lane.push(request(0, Operation::Write));
    assert_eq!(
        [pass(&mut lane, at(3)), pass(&mut lane, at(4))].concat(),
        [0],
        "its tag was free again"
    );
    lane.close(&mut NoIo);
    manager.assert_over();
}

/// The device, which would end them in the next pass only, never sees them.
#[test]
fn what_does_not_need_the_device_passes_the_hooks_alone() {
    let manager = CountingManager::with_policy("no-writes", |ask| match ask.head.class {
        Class::Write if ask.now < at(50) => Verdict::No(Wait::Until(at(50))),
        _ => Verdict::Go,
    });
    let registry = Registry::new();
    registry.register(manager.clone()).unwrap();
    let mut lane = lane(&registry, 0);
    lane.push_settled(request(0, Operation::Write));
    lane.push_settled(request(1, Operation::Read));
    assert_eq!((lane.in_flight(), pass(&mut lane, at(1))), (2, vec![1]));
    assert_eq!((lane.in_flight(), lane.is_idle()), (1, false), "the hooks hold one");
    assert_eq!(pass(&mut lane, at(50)), [0]);
    let seen = manager.seen();
    assert_eq!((seen.allocs, seen.frees, lane.ended()), (2, 2, 2));
    lane.close(&mut NoIo);
    manager.assert_over();
}

/// So that what it says of itself is all that its clients have done. What was refused has not been done.
#[test]
fn the_device_hears_of_what_ended_without_it() {
    let (registry, settled) = (Registry::new(), Arc::default());
    let device = registry.attach("disk").unwrap();
    let mut lane = lane_that_tells(&device, 4, Arc::clone(&settled));
    lane.push_settled(request(1, Operation::Read));
    lane.push(request(2, Operation::Read));
    assert_eq!([pass(&mut lane, at(7)), pass(&mut lane, at(8))].concat(), [1, 2]);
    device.detach();
    lane.push_settled(request(3, Operation::Read));
    assert_eq!(results(&mut lane, at(9)), [(3, Err(Errno::SHUTDOWN))]);
    assert_eq!(*settled.lock().unwrap(), [(Tag(1), Duration::from_millis(7))]);
    lane.close(&mut NoIo);
}

/// Its tag is not marked for ever.
#[test]
fn a_tag_that_did_not_need_the_device_may_need_it_next() {
    let mut lane = lane(&Registry::new(), 4);
    lane.push_settled(request(2, Operation::Read));
    assert_eq!(pass(&mut lane, at(1)), [2]);
    lane.push(request(2, Operation::Read));
    assert_eq!(pass(&mut lane, at(2)), [0; 0], "the device has it");
    assert_eq!(pass(&mut lane, at(3)), [2]);
    lane.close(&mut NoIo);
}

/// What the device hands back although it was granted keeps its ticket and its place.
#[test]
fn a_request_that_the_device_hands_back_goes_first() {
    let (registry, manager) = (Registry::new(), CountingManager::new("counting"));
    registry.register(manager.clone()).unwrap();
    let mut lane = lane(&registry, 1);
    (0..3).for_each(|tag| lane.push(request(tag, Operation::Write)));
    let ended: Vec<_> = (1..5).map(|ms| pass(&mut lane, at(ms))).collect();
    assert_eq!(ended, [vec![], vec![0], vec![1], vec![2]]);
    let seen = manager.seen();
    assert_eq!((seen.allocs, seen.aborts, seen.frees), (3, 0, 3));
    lane.close(&mut NoIo);
    manager.assert_over();
}

#[test]
fn what_a_manager_holds_waits_and_says_until_when() {
    let manager = CountingManager::with_policy("no-writes", |ask| match ask.head.class {
        Class::Write if ask.now < at(50) => Verdict::No(Wait::Until(at(50))),
        _ => Verdict::Go,
    });
    let registry = Registry::new();
    registry.register(manager.clone()).unwrap();
    let mut lane = lane(&registry, 4);
    lane.push(request(0, Operation::Write));
    lane.push(request(1, Operation::Flush));
    assert_eq!([pass(&mut lane, at(1)), pass(&mut lane, at(2))].concat(), [1]);
    assert_eq!(lane.wake_at(), Some(at(50)));
    assert_eq!([pass(&mut lane, at(50)), pass(&mut lane, at(51))].concat(), [0]);
    assert_eq!(lane.wake_at(), None);
    lane.close(&mut NoIo);
    manager.assert_over();
}

#[test]
fn a_device_that_is_detached_ends_what_it_has_and_refuses_the_rest() {
    let manager = CountingManager::with_policy("no-writes", |ask| match ask.head.class {
        Class::Write => Verdict::No(Wait::Freed),
        _ => Verdict::Go,
    });
    let registry = Registry::new();
    registry.register(manager.clone()).unwrap();
    let managed = registry.attach("disk").unwrap();
    let mut lane = lane_of(&managed, 4);
    lane.push(request(0, Operation::Read));
    (1..3).for_each(|tag| lane.push(request(tag, Operation::Write)));
    assert_eq!(pass(&mut lane, at(1)), [0; 0]);
    managed.detach();
    lane.push(request(3, Operation::Write));
    let gone = Err(Errno::SHUTDOWN);
    assert_eq!(
        results(&mut lane, at(2)),
        [(0, Ok(())), (1, gone), (2, gone), (3, gone)]
    );
    lane.push(request(1, Operation::Flush));
    assert_eq!(results(&mut lane, at(3)), [(1, gone)]);
    assert_eq!((lane.in_flight(), lane.is_idle(), lane.wake_at()), (0, true, None));
    lane.close(&mut NoIo);
    manager.assert_over();
}

/// A device that will not end what it has: managers hear of the end all the same.
#[test]
fn what_is_abandoned_is_given_back_to_the_manager() {
    let (registry, manager) = (Registry::new(), CountingManager::new("counting"));
    registry.register(manager.clone()).unwrap();
    let mut lane = lane(&registry, 1);
    (0..3).for_each(|tag| lane.push(request(tag, Operation::Read)));
    assert_eq!(pass(&mut lane, at(1)), [0; 0]);
    lane.abandon(at(2));
    drop(lane);
    let seen = manager.seen();
    assert_eq!((seen.pending, seen.granted, seen.allocs), (0, 0, seen.frees));
    manager.assert_over();
}
