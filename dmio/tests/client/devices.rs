//! Devices that are busy, fenced, replaced.

use std::cell::Cell;
use std::collections::VecDeque;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use dmio::{AlignedBuf, Buffers, DeviceIndex, ErrorKind, IoFlags, IoRequest, Memory, RegionState};
use iomgr_core::{
    Busy, CancelOutcome, Device, DeviceQueue, Done, Errno, Limits, OpDone, OpQueue, Pass, QueueContext, Request, Tag,
    Timestamp,
};
use tqueue::sim::SimConfig;

use crate::rig::{Notes, Rig, device, region};

/// Takes every other request only, and no more than so many at a time.
#[derive(Debug)]
struct Picky {
    below: Arc<dyn Device>,
    most: u32,
}

#[derive(Debug)]
struct PickyQueue {
    below: Box<dyn DeviceQueue>,
    most: u32,
    in_flight: u32,
    turn: Cell<bool>,
    wake_at: Option<Timestamp>,
    done: VecDeque<Done>,
}

impl Device for Picky {
    fn name(&self) -> &str {
        "picky"
    }

    fn limits(&self) -> Limits {
        self.below.limits()
    }

    fn open_queue(&self, cx: QueueContext<'_>) -> Result<Box<dyn DeviceQueue>, Box<dyn Error + Send + Sync>> {
        Ok(Box::new(PickyQueue {
            done: VecDeque::with_capacity(cx.depth as usize),
            below: self.below.open_queue(cx)?,
            most: self.most,
            in_flight: 0,
            turn: Cell::new(false),
            wake_at: None,
        }))
    }
}

impl DeviceQueue for PickyQueue {
    fn submit(&mut self, pass: &mut Pass<'_>, request: Request) -> Result<(), Busy> {
        self.turn.set(!self.turn.get());
        if !self.turn.get() || self.in_flight == self.most {
            self.wake_at = Some(pass.now + Duration::from_millis(1));
            return Err(Busy(request));
        }
        self.in_flight += 1;
        self.below.submit(pass, request)
    }

    fn op_done(&mut self, pass: &mut Pass<'_>, done: OpDone) {
        self.below.op_done(pass, done);
        while let Some(done) = self.below.poll_done() {
            self.in_flight -= 1;
            self.done.push_back(done);
        }
    }

    fn kick(&mut self, pass: &mut Pass<'_>) {
        self.wake_at = None;
        self.below.kick(pass);
    }

    fn wake_at(&self) -> Option<Timestamp> {
        self.wake_at
    }

    fn poll_done(&mut self) -> Option<Done> {
        self.done.pop_front()
    }

    fn busy(&self) -> bool {
        self.in_flight == self.most
    }

    fn cancel(&mut self, pass: &mut Pass<'_>, tag: Tag) -> CancelOutcome {
        self.below.cancel(pass, tag)
    }

    fn is_idle(&self) -> bool {
        self.in_flight == 0 && self.done.is_empty()
    }

    fn close(self: Box<Self>, io: &mut dyn OpQueue) {
        self.below.close(io);
    }
}

fn picky(most: u32) -> Rig {
    Rig::with(SimConfig::calm(5), 2, |mut config| {
        let below = Arc::clone(&config.devices[0]);
        config.devices[0] = Arc::new(Picky { below, most });
        config
    })
}

fn bounce(byte: u8) -> Memory {
    Memory::Bounce(Buffers::One(vec![byte; 4096]))
}

#[test]
fn what_a_busy_device_hands_back_is_submitted_again() {
    for most in [1, 3] {
        let mut rig = picky(most);
        let notes = Notes::default();
        for at in 0..40 {
            let legs = [region(0, at * 8, 8), region(1, at * 8, 8)];
            rig.client
                .io(
                    IoRequest::write(&legs, bounce(at.to_le_bytes()[0])),
                    Some(notes.listener()),
                )
                .unwrap();
        }
        while notes.states().len() < 80 {
            rig.client.poll(None).unwrap();
        }
        assert!(notes.states().iter().all(|(_, state)| *state == RegionState::Ok));
        let expected: Vec<u8> = (0..40).flat_map(|at| [at; 4096]).collect();
        assert!(rig.bytes(0, 0, 320) == expected && rig.bytes(1, 0, 320) == expected);
        assert!(rig.client.counters().busy > 0);
        assert!(rig.client.destroy().is_ok());
    }
}

#[test]
fn lists_go_on_where_a_busy_device_stopped() {
    for most in [1, 3] {
        let mut rig = picky(most);
        let notes = Notes::default();
        for at in 0..10 {
            let parts: Vec<_> = (0..8)
                .map(|part| AlignedBuf::copied_from(&[at * 8 + part; 512]).unwrap())
                .collect();
            let legs = [region(0, u64::from(at) * 8, 8), region(1, u64::from(at) * 8, 8)];
            let memory = Memory::Owned(Buffers::Vector(parts));
            rig.client
                .io(IoRequest::write(&legs, memory), Some(notes.listener()))
                .unwrap();
        }
        while notes.states().len() < 20 {
            rig.client.poll(None).unwrap();
        }
        let expected: Vec<u8> = (0..80).flat_map(|sector| [sector; 512]).collect();
        assert!(rig.bytes(0, 0, 80) == expected && rig.bytes(1, 0, 80) == expected);
        let whole =
            |note: dmio::Notification| matches!(note.memory, Memory::Owned(Buffers::Vector(parts)) if parts.len() == 8);
        assert_eq!(
            notes
                .take()
                .into_iter()
                .filter(|note| note.is_last)
                .map(whole)
                .filter(|whole| *whole)
                .count(),
            10
        );
        assert!(rig.client.destroy().is_ok());
    }
}

#[test]
fn an_overlapping_write_waits_for_the_orphan_before_it() {
    let mut rig = Rig::new(1);
    rig.disks[0].stall();
    let at = [region(0, 8, 8)];
    let ghost = rig.client.io(IoRequest::write(&at, bounce(1)), None).unwrap();
    rig.client.poll(Some(Duration::ZERO)).unwrap();
    ghost.cancel().unwrap();
    let notes = Notes::default();
    rig.client
        .io(IoRequest::write(&at, bounce(2)), Some(notes.listener()))
        .unwrap();
    rig.pass_time(Duration::from_secs(5));
    assert!(notes.states().is_empty() && rig.disks[0].in_flight() == 1, "it is held");
    rig.disks[0].release();
    while notes.states().is_empty() {
        rig.client.poll(None).unwrap();
    }
    assert_eq!(rig.bytes(0, 8, 8), [2; 4096], "the newer one stays");
}

#[test]
fn a_stalled_device_takes_no_other_ones_places() {
    let mut rig = Rig::new(2);
    rig.disks[0].stall();
    let requests = u64::from(dmio::ClientConfig::default().requests);
    for at in 0..2 * requests {
        let stalled = [region(0, at, 1)];
        let given_up = rig.client.io(IoRequest::write_zeroes(&stalled), None).unwrap();
        rig.client.poll(Some(Duration::ZERO)).unwrap();
        given_up.cancel().unwrap();
        let well = [region(1, 8, 8)];
        let outcome = rig.client.io_sync(IoRequest::write(&well, bounce(1)), None).unwrap();
        assert_eq!(outcome.error_mask, 0, "after {at}");
    }
    assert!(rig.client.counters().failed_fast > 0, "the stalled one is degraded");
}

#[test]
fn a_new_device_has_all_its_bounce_memory_while_the_old_one_keeps_its_own() {
    let mut rig = Rig::new(1);
    rig.disks[0].stall();
    let cells = u64::from(rig.client.occupancy().cells_free);
    for at in 0..cells {
        let at = [region(0, at * 8, 8)];
        rig.client.io(IoRequest::write(&at, bounce(1)), None).unwrap();
    }
    rig.client.poll(Some(Duration::ZERO)).unwrap();
    let next = rig.machine.create_block_device(1 << 20);
    let mut hoard = Vec::new();
    while let Some(lease) = rig.client.alloc(4096) {
        hoard.push(lease);
    }
    let refused = rig.client.replace(DeviceIndex(0), &device(&next)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Memory, "{refused}");
    hoard.into_iter().for_each(|lease| rig.client.free(lease));
    rig.client.replace(DeviceIndex(0), &device(&next)).unwrap();
    for at in 0..cells {
        let at = [region(0, at * 8, 8)];
        rig.client
            .io(IoRequest::write(&at, bounce(2)).flags(IoFlags::NOWAIT), None)
            .unwrap();
    }
    rig.pass_time(Duration::from_secs(1));
    let taken = rig.client.occupancy();
    assert_eq!((u64::from(taken.cells_orphaned), taken.cells_used), (cells, 0));
    rig.disks[0].release();
    rig.pass_time(Duration::from_secs(1));
    assert_eq!(u64::from(rig.client.occupancy().cells_free), 2 * cells);
    assert!(rig.client.destroy().is_ok());
}

#[test]
fn a_replaced_device_is_free_of_the_old_ones_orphans() {
    let mut rig = Rig::new(1);
    rig.disks[0].stall();
    let at = [region(0, 8, 8)];
    let notes = Notes::default();
    let lease = rig.client.alloc(4096).unwrap();
    let kept = lease.data();
    rig.client
        .io(IoRequest::write(&at, Memory::Pool(lease)), Some(notes.listener()))
        .unwrap();
    rig.client.poll(Some(Duration::ZERO)).unwrap();
    let next = rig.machine.create_block_device(1 << 20);
    rig.client.replace(DeviceIndex(0), &device(&next)).unwrap();
    let outcome = rig.client.io_sync(IoRequest::write(&at, bounce(2)), None).unwrap();
    assert_eq!(outcome.error_mask, 0);
    assert!(matches!(notes.states()[..], [(0, RegionState::Cancelled(_))]));
    assert!(rig.client.bytes_mut(kept).is_none(), "the old device still has it");
    rig.disks[0].release();
    rig.pass_time(Duration::from_secs(1));
    let mut bytes = [0; 4096];
    iomgr_core::Storage::read_at(&next, &mut bytes, 4096).unwrap();
    assert_eq!(bytes, [2; 4096]);
    assert!(rig.client.destroy().is_ok());
}

#[test]
fn a_device_that_does_not_open_leaves_the_one_that_is_there() {
    let mut rig = Rig::new(1);
    // It has a queue already.
    let taken = device(&rig.disks[0]);
    rig.client.replace(DeviceIndex(0), &taken).unwrap();
    let error = rig.client.replace(DeviceIndex(0), &taken).unwrap_err();
    assert!(std::error::Error::source(&error).is_some(), "{error}");
    assert!(rig.client.replace(DeviceIndex(7), &device(&rig.disks[0])).is_err());
    let outcome = rig
        .client
        .io_sync(IoRequest::write(&[region(0, 8, 8)], bounce(1)), None)
        .unwrap();
    assert_eq!(outcome.error_mask, 0);
    assert!(rig.client.destroy().is_ok());
}

#[test]
fn a_stalled_device_starves_no_other() {
    let mut rig = Rig::new(2);
    rig.disks[0].stall();
    let stuck: Vec<_> = (0..10)
        .map(|at| {
            rig.client
                .io(IoRequest::write(&[region(0, at * 8, 8)], bounce(1)), None)
                .unwrap()
        })
        .collect();
    for at in 0..100 {
        let request = [region(1, at % 10 * 8, 8)];
        let outcome = rig.client.io_sync(IoRequest::write(&request, bounce(2)), None).unwrap();
        assert_eq!(outcome.error_mask, 0);
    }
    let refused = rig.client.io(
        IoRequest::write(&[region(0, 800, 8)], bounce(1)).flags(IoFlags::NOWAIT),
        None,
    );
    assert_eq!(refused.unwrap_err().error.errno(), Errno::AGAIN);
    assert!(stuck.iter().all(|handle| !handle.is_over()));
}

#[test]
fn a_stalled_device_that_has_hundreds_starves_no_other() {
    let mut rig = Rig::with(SimConfig::calm(5), 2, |config| dmio::ClientConfig {
        requests: 600,
        regions: 600,
        ..config
    });
    rig.disks[0].stall();
    let zero = |rig: &mut Rig, at: u64| {
        let at = [region(0, at * 4, 2)];
        rig.client.io(IoRequest::write_zeroes(&at), None).unwrap()
    };
    let stuck: Vec<_> = (0..500).map(|at| zero(&mut rig, at)).collect();
    rig.client.poll(Some(Duration::ZERO)).unwrap();
    assert_eq!(rig.disks[0].in_flight(), 500);
    let outcome = rig
        .client
        .io_sync(IoRequest::write(&[region(1, 0, 8)], bounce(2)), None)
        .unwrap();
    assert_eq!(outcome.error_mask, 0);
    drop(stuck);
}
