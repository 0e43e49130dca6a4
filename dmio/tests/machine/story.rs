//! A machine, and what happens to it: the set-up of short stories.

use std::time::Duration;

use dmio::{
    Cancelled, Completed, DeviceConfig, DeviceIndex, Event, Io, IoFlags, LegId, Machine, MachineConfig, MemoryKind,
    Reason, Region, RegionState, RequestId, Submission,
};
use iomgr_core::{CancelOutcome, Errno, Operation, RequestFlags, Sector, SectorCount, SectorRange, Timestamp};

pub(crate) const MS: Duration = Duration::from_millis(1);
pub(crate) const POOL: MemoryKind = MemoryKind::Lent { cancellable: true };
pub(crate) const OWN: MemoryKind = MemoryKind::Lent { cancellable: false };

/// A machine with three devices of 1000 sectors.
pub(crate) struct Story {
    pub(crate) machine: Machine,
    pub(crate) now: Timestamp,
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

pub(crate) fn cancelled(reason: Reason, never_started: bool) -> RegionState {
    RegionState::Cancelled(Cancelled { reason, never_started })
}

impl Story {
    pub(crate) fn new() -> Self {
        Self {
            machine: Machine::new(config()).unwrap(),
            now: Timestamp::ZERO,
        }
    }

    pub(crate) fn start(&mut self, io: &Io<'_>) -> RequestId {
        self.machine.start(self.now, io).unwrap()
    }

    pub(crate) fn submissions(&mut self) -> Vec<Submission> {
        self.machine.self_check();
        std::iter::from_fn(|| self.machine.poll_submit()).collect()
    }

    /// The only one.
    pub(crate) fn submission(&mut self) -> Submission {
        let all = self.submissions();
        assert_eq!(all.len(), 1, "{all:?}");
        all[0]
    }

    /// Starts a request of one leg, and hands that to its device.
    pub(crate) fn submit(&mut self, io: &Io<'_>) -> (RequestId, Submission) {
        (self.start(io), self.submission())
    }

    pub(crate) fn cancel(&mut self, id: RequestId) -> u32 {
        self.machine.cancel(self.now, id).unwrap()
    }

    pub(crate) fn answer(&mut self, submission: Submission, result: Result<(), Errno>) -> Completed {
        self.machine.handle_completion(self.now, submission.leg, result)
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        self.machine.handle_timeout(self.now);
    }

    /// Devices are told to give up, and cannot.
    pub(crate) fn detach(&mut self) -> Vec<LegId> {
        let mut told = Vec::new();
        while let Some(cancel) = self.machine.poll_cancel() {
            self.machine
                .handle_cancelled(self.now, cancel.leg, CancelOutcome::Detached);
            told.push(cancel.leg);
        }
        told
    }

    /// A device is told to give up what it had not begun.
    pub(crate) fn stop(&mut self) {
        let told = self.machine.poll_cancel().unwrap();
        self.machine
            .handle_cancelled(self.now, told.leg, CancelOutcome::NeverStarted);
    }

    pub(crate) fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.machine.poll_event()).collect()
    }

    /// Is some region said to be so?
    pub(crate) fn is_indeterminate(&mut self) -> bool {
        let is = |event: &Event| matches!(event, Event::Region(event) if event.indeterminate);
        self.events().iter().any(is)
    }

    /// Regions, and what they came to, of events that are about nothing else.
    pub(crate) fn states(&mut self) -> Vec<(usize, RegionState)> {
        let state = |event| match event {
            Event::Region(event) => (event.region, event.state),
            other => panic!("{other:?}"),
        };
        self.events().into_iter().map(state).collect()
    }
}
