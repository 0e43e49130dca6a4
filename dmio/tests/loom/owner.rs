//! An owner, its machine, and what it has heard.

use std::time::Duration;

use dmio::{
    DeviceConfig, DeviceIndex, Event, Io, IoFlags, LegId, Machine, MachineConfig, MemoryKind, Region, RegionState,
    RequestId,
};
use iomgr_core::{CancelOutcome, Operation, RequestFlags, Sector, SectorCount, SectorRange, Timestamp};
use loom::sync::Arc;

use crate::meeting::Meeting;
use crate::shim::Waker;

/// Behind every deadline of these models.
pub(crate) const LATE: Timestamp = Timestamp::from_nanos(1 << 40);
/// Long before them.
pub(crate) const EARLY: Timestamp = Timestamp::from_nanos(1 << 30);

pub(crate) struct Owner {
    pub(crate) meeting: Arc<Meeting<Box<Machine>>>,
    bell: Waker,
    /// Legs that devices have.
    pub(crate) submitted: Vec<LegId>,
    pub(crate) heard: Vec<RegionState>,
    pub(crate) late: usize,
}

/// Makes a machine on a stack that is large enough: those of the model checker's threads are small.
fn make(config: MachineConfig) -> Box<Machine> {
    let machine = std::thread::spawn(move || Box::new(Machine::new(config).unwrap()));
    machine.join().unwrap()
}

/// A write to `legs` devices.
pub(crate) fn request(legs: u16, flags: IoFlags) -> (Vec<Region>, IoFlags) {
    let region = |device| Region {
        device: DeviceIndex(device),
        range: SectorRange::new(Sector(0), SectorCount(8)).unwrap(),
    };
    ((0..legs).map(region).collect(), flags)
}

impl Owner {
    pub(crate) fn new(devices: usize) -> Self {
        let device = DeviceConfig {
            size: SectorCount(64),
            logical_block_bytes: 512,
            read_only: false,
        };
        let config = MachineConfig {
            requests: 2,
            legs: 4,
            devices: vec![device; devices],
            min_ios: 2,
            orphans_max: 4,
            max_size: SectorCount(8),
        };
        let bell = Waker::default();
        Self {
            meeting: Arc::new(Meeting::new(make(config), bell.clone())),
            bell,
            submitted: Vec::new(),
            heard: Vec::new(),
            late: 0,
        }
    }

    /// Starts a request, with a timeout between [`EARLY`] and [`LATE`].
    pub(crate) fn start(&mut self, op: Operation, (regions, flags): (Vec<Region>, IoFlags)) -> RequestId {
        let io = Io {
            op,
            request_flags: RequestFlags::empty(),
            regions: &regions,
            choice: op == Operation::Read,
            timeout: Some(Duration::from_secs(100)),
            flags,
            memory: match op {
                Operation::Flush => MemoryKind::None,
                _ => MemoryKind::Bounce,
            },
        };
        self.meeting.own(|machine| machine.start(EARLY, &io).unwrap())
    }

    /// A pass: as in the client, all under one lock.
    pub(crate) fn pass(&mut self, now: Timestamp, answer: Option<LegId>) {
        let Self {
            meeting,
            submitted,
            heard,
            late,
            ..
        } = self;
        meeting.own(|machine| {
            if let Some(leg) = answer {
                machine.handle_completion(now, leg, Ok(()));
            }
            machine.handle_timeout(now);
            while let Some(cancel) = machine.poll_cancel() {
                machine.handle_cancelled(now, cancel.leg, CancelOutcome::Detached);
            }
            while let Some(submission) = machine.poll_submit() {
                submitted.push(submission.leg);
            }
            while let Some(event) = machine.poll_event() {
                match event {
                    Event::Region(event) => heard.push(event.state),
                    Event::Late(_) => *late += 1,
                    _ => {}
                }
            }
        });
    }

    /// Sleeps and works until the request was told of as often, or so much was submitted.
    pub(crate) fn work_until(&mut self, now: Timestamp, is_done: impl Fn(&Self) -> bool) {
        loop {
            self.bell.take();
            self.pass(now, None);
            if is_done(self) {
                return;
            }
            self.bell.sleep();
        }
    }
}
