//! S3-8: so many requests as `min_ios` says always progress, on each device, whatever the others do.
//!
//! All devices but one never answer. They are asked for as much as there is room for, alone and together with the good one, and
//! some of it is cancelled or has its time over. On the good one a reader always has as many reads as `min_ios` minus those that other
//! requests have there now: each gets to the device in the pass in which it comes.

use std::time::Duration;

use dmio::{DeviceConfig, DeviceIndex, Io, IoFlags, Machine, MachineConfig, MemoryKind, Region, RequestId, Submission};
use fastrand::Rng;
use iomgr_core::{CancelOutcome, Operation, RequestFlags, Sector, SectorCount, SectorRange, Timestamp};

const GOOD: DeviceIndex = DeviceIndex(0);

struct Stalls {
    machine: Machine,
    rng: Rng,
    now: Timestamp,
    devices: u16,
    min_ios: usize,
    others: Vec<RequestId>,
    /// What the good device has.
    at_good: Vec<Submission>,
}

/// Runs a seed; says how many steps those were.
pub(crate) fn run(seed: u64) -> u64 {
    let mut stalls = Stalls::new(Rng::with_seed(seed));
    let passes = 100;
    for _ in 0..passes {
        stalls.disturb();
        stalls.pass();
        stalls.answer();
        stalls.use_the_good_one();
        stalls.machine.self_check();
    }
    passes
}

impl Stalls {
    fn new(mut rng: Rng) -> Self {
        let (devices, min_ios) = (rng.u16(2..5), rng.u32(1..5));
        let device = DeviceConfig {
            size: SectorCount(1 << 20),
            logical_block_bytes: 512,
            read_only: false,
        };
        let config = MachineConfig {
            requests: 1 << 10,
            legs: 1 << 12,
            devices: vec![device; devices.into()],
            min_ios,
            orphans_max: rng.u32(1..16),
            max_size: SectorCount(8),
        };
        Self {
            machine: Machine::new(config).unwrap(),
            rng,
            now: Timestamp::ZERO,
            devices,
            min_ios: min_ios as usize,
            others: Vec::new(),
            at_good: Vec::new(),
        }
    }

    /// Something else, on any devices.
    fn disturb(&mut self) {
        self.now = self.now + Duration::from_millis(self.rng.u64(..5));
        self.machine.handle_timeout(self.now);
        for _ in 0..self.rng.usize(..8) {
            let mut regions: Vec<_> = (0..self.devices).map(|device| self.region(device)).collect();
            self.rng.shuffle(&mut regions);
            regions.truncate(self.rng.usize(1..4));
            let op = if self.rng.bool() {
                Operation::Write
            } else {
                Operation::Read
            };
            let cancels = self.rng.bool();
            let io = Io {
                choice: op == Operation::Read,
                timeout: self.rng.bool().then(|| Duration::from_millis(self.rng.u64(1..20))),
                flags: if cancels {
                    IoFlags::CANCEL_ON_TIMEOUT
                } else {
                    IoFlags::empty()
                },
                ..io(op, &regions)
            };
            self.others.extend(self.machine.start(self.now, &io));
        }
        if self.rng.bool() && !self.others.is_empty() {
            let id = self.others.swap_remove(self.rng.usize(..self.others.len()));
            self.machine.cancel(self.now, id).unwrap();
            self.machine.release(id);
        }
    }

    /// Everything that there is to do, but for the answers.
    fn pass(&mut self) {
        while let Some(told) = self.machine.poll_cancel() {
            self.machine
                .handle_cancelled(self.now, told.leg, CancelOutcome::Detached);
        }
        while let Some(submission) = self.machine.poll_submit() {
            if submission.device == GOOD {
                self.at_good.push(submission);
            }
        }
        while self.machine.poll_event().is_some() {}
    }

    /// The good device answers for everything, as long as anything comes.
    fn answer(&mut self) {
        while let Some(submission) = self.at_good.pop() {
            self.machine.handle_completion(self.now, submission.leg, Ok(()));
            self.pass();
        }
    }

    /// It has nothing now: its memory is free, and nobody waits there.
    fn use_the_good_one(&mut self) {
        let region = [self.region(GOOD.0)];
        let ids: Vec<_> = (0..self.min_ios)
            .map(|_| {
                let io = Io {
                    flags: IoFlags::NOWAIT,
                    ..io(Operation::Read, &region)
                };
                self.machine.start(self.now, &io).expect("there is memory")
            })
            .collect();
        self.pass();
        let at_good: Vec<_> = self.at_good.iter().map(|submission| submission.request).collect();
        assert_eq!(ids, at_good, "each is at the device in the pass in which it came");
        ids.into_iter().for_each(|id| self.machine.release(id));
        self.answer();
    }

    fn region(&mut self, device: u16) -> Region {
        let start = Sector(self.rng.u64(..1000) * 8);
        Region {
            device: DeviceIndex(device),
            range: SectorRange::new(start, SectorCount(8)).unwrap(),
        }
    }
}

fn io(op: Operation, regions: &[Region]) -> Io<'_> {
    Io {
        op,
        request_flags: RequestFlags::empty(),
        regions,
        choice: false,
        timeout: None,
        flags: IoFlags::empty(),
        memory: MemoryKind::Bounce,
    }
}
