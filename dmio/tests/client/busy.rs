//! Devices that take one request at a time, and never say when to try again.

use std::collections::VecDeque;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use dmio::{AlignedBuf, Buffers, Cancelled, DeviceIndex, IoRequest, Memory, Reason, RegionState};
use iomgr_core::{
    Busy, CancelOutcome, Device, DeviceQueue, Done, Errno, Limits, OpDone, OpQueue, Pass, QueueContext, Request, Tag,
};
use tqueue::sim::SimConfig;

use crate::log::log_of;
use crate::rig::{Notes, Rig, device, region};

/// What becomes of the request that it has taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// It ends from inside `submit`.
    AtOnce,
    /// It waits in the queue until it is given up.
    Waits,
    /// The device below does it.
    Below,
    /// Likewise; and no other is ever taken.
    BelowOnce,
    /// Likewise; and it says of the first legs that they have ended, as if it knew them.
    Forges,
}

/// So many.
const FORGED: u32 = 16;

#[derive(Debug)]
struct Narrow {
    below: Arc<dyn Device>,
    way: Way,
}

#[derive(Debug)]
struct NarrowQueue {
    below: Box<dyn DeviceQueue>,
    way: Way,
    has: Option<Tag>,
    is_closed: bool,
    done: VecDeque<Done>,
}

impl Device for Narrow {
    fn name(&self) -> &str {
        "narrow"
    }

    fn limits(&self) -> Limits {
        self.below.limits()
    }

    fn open_queue(&self, cx: QueueContext<'_>) -> Result<Box<dyn DeviceQueue>, Box<dyn Error + Send + Sync>> {
        Ok(Box::new(NarrowQueue {
            below: self.below.open_queue(cx)?,
            way: self.way,
            has: None,
            is_closed: false,
            done: VecDeque::with_capacity(1),
        }))
    }
}

impl NarrowQueue {
    fn end(&mut self, tag: Tag, result: Result<(), Errno>) {
        self.has = None;
        self.done.push_back(Done { tag, result });
    }
}

impl DeviceQueue for NarrowQueue {
    fn submit(&mut self, pass: &mut Pass<'_>, request: Request) -> Result<(), Busy> {
        if self.busy() {
            return Err(Busy(request));
        }
        self.has = Some(request.tag);
        self.is_closed = self.way == Way::BelowOnce;
        match self.way {
            Way::AtOnce => self.end(request.tag, Ok(())),
            Way::Waits => {}
            Way::Below | Way::BelowOnce => self.below.submit(pass, request)?,
            Way::Forges => {
                let ended = |tag| Done {
                    tag: Tag(tag),
                    result: Ok(()),
                };
                self.done.extend((0..FORGED).map(ended));
                self.below.submit(pass, request)?;
            }
        }
        Ok(())
    }

    fn op_done(&mut self, pass: &mut Pass<'_>, done: OpDone) {
        self.below.op_done(pass, done);
        while let Some(Done { tag, result }) = self.below.poll_done() {
            self.end(tag, result);
        }
    }

    fn kick(&mut self, pass: &mut Pass<'_>) {
        self.below.kick(pass);
    }

    fn poll_done(&mut self) -> Option<Done> {
        self.done.pop_front()
    }

    fn busy(&self) -> bool {
        self.is_closed || self.has.is_some() || !self.done.is_empty()
    }

    fn cancel(&mut self, pass: &mut Pass<'_>, tag: Tag) -> CancelOutcome {
        if self.way != Way::Waits || self.has != Some(tag) {
            return self.below.cancel(pass, tag);
        }
        self.end(tag, Err(Errno::CANCELED));
        CancelOutcome::NeverStarted
    }

    fn is_idle(&self) -> bool {
        self.has.is_none() && self.done.is_empty()
    }

    fn close(self: Box<Self>, io: &mut dyn OpQueue) {
        self.below.close(io);
    }
}

fn narrow(way: Way) -> Rig {
    Rig::with(SimConfig::calm(5), 1, |mut config| {
        let below = Arc::clone(&config.devices[0]);
        config.devices[0] = Arc::new(Narrow { below, way });
        config
    })
}

fn sectors() -> Memory {
    let parts = (0..8).map(|number| AlignedBuf::copied_from(&[number; 512]).unwrap());
    Memory::Owned(Buffers::Vector(parts.collect()))
}

#[test]
fn what_was_handed_back_goes_on_after_an_end_from_inside_submit() {
    let mut rig = narrow(Way::AtOnce);
    let notes = Notes::default();
    for at in 0..3 {
        let at = [region(0, at * 8, 8)];
        rig.client
            .io(IoRequest::write_zeroes(&at), Some(notes.listener()))
            .unwrap();
    }
    rig.pass_time(Duration::from_secs(1));
    assert_eq!(notes.states(), [(0, RegionState::Ok); 3]);
    let at = [region(0, 0, 8)];
    rig.client
        .io(IoRequest::write(&at, sectors()), Some(notes.listener()))
        .unwrap();
    rig.pass_time(Duration::from_secs(1));
    assert_eq!(notes.states(), [(0, RegionState::Ok); 4], "the parts of a list as well");
    assert!(rig.client.destroy().is_ok());
}

#[test]
fn what_was_handed_back_goes_on_after_an_end_from_inside_cancel() {
    let mut rig = narrow(Way::Waits);
    let notes = Notes::default();
    let handles = [0, 8].map(|start| {
        let at = [region(0, start, 8)];
        let request = IoRequest::write_zeroes(&at);
        rig.client.io(request, Some(notes.listener())).unwrap()
    });
    rig.client.poll(Some(Duration::ZERO)).unwrap();
    assert_eq!((rig.client.counters().submitted, rig.client.counters().busy), (1, 1));
    handles[0].cancel().unwrap();
    rig.pass_time(Duration::from_secs(1));
    let never = RegionState::Cancelled(Cancelled {
        reason: Reason::Handle,
        never_started: true,
    });
    assert_eq!(notes.states(), [(0, never)]);
    assert_eq!(rig.client.counters().submitted, 2, "the device has the second");
}

/// Starts a write of a list of eight sectors.
fn write_list(rig: &mut Rig) -> Notes {
    let notes = Notes::default();
    let at = [region(0, 0, 8)];
    let started = rig.client.io(IoRequest::write(&at, sectors()), Some(notes.listener()));
    started.unwrap();
    notes
}

#[test]
fn a_part_that_ends_makes_room_for_the_next() {
    let mut rig = narrow(Way::Below);
    let notes = write_list(&mut rig);
    rig.pass_time(Duration::from_secs(1));
    assert_eq!(notes.states(), [(0, RegionState::Ok)]);
    let expected: Vec<u8> = (0..8).flat_map(|number| [number; 512]).collect();
    assert_eq!(rig.bytes(0, 0, 8), expected);
}

#[test]
fn of_a_list_no_more_goes_to_a_device_that_was_replaced() {
    for (way, is_stalled) in [(Way::BelowOnce, false), (Way::Below, true)] {
        let mut rig = narrow(way);
        if is_stalled {
            rig.disks[0].stall();
        }
        let notes = write_list(&mut rig);
        rig.pass_time(Duration::from_secs(1));
        let next = rig.machine.create_block_device(1 << 20);
        rig.client.replace(DeviceIndex(0), &device(&next)).unwrap();
        rig.pass_time(Duration::from_secs(1));
        assert_eq!(notes.states().is_empty(), is_stalled, "a device has the first part");
        rig.disks[0].release();
        rig.pass_time(Duration::from_secs(1));
        assert_eq!(notes.states(), [(0, RegionState::Error(Errno::NODEV))]);
        let memory = notes.take().pop().unwrap().memory;
        assert!(matches!(memory, Memory::Owned(Buffers::Vector(parts)) if parts.len() == 8));
        assert_eq!(rig.bytes(0, 1, 7), [0; 7 * 512]);
        assert!(rig.client.destroy().is_ok());
    }
}

#[test]
fn a_list_ends_with_its_parts_whatever_is_said_of_its_leg() {
    let mut rig = narrow(Way::Forges);
    let notes = write_list(&mut rig);
    rig.disks[0].stall();
    let log = log_of(|| rig.pass_time(Duration::from_secs(1)));
    assert_eq!(notes.states(), [], "the device has the first part");
    assert_eq!(log.matches("answer_unknown").count(), FORGED as usize, "{log}");
    rig.disks[0].release();
    rig.pass_time(Duration::from_secs(1));
    assert_eq!(notes.states(), [(0, RegionState::Ok)]);
    let expected: Vec<u8> = (0..8).flat_map(|number| [number; 512]).collect();
    assert_eq!(rig.bytes(0, 0, 8), expected);
    assert!(rig.client.destroy().is_ok());
}
