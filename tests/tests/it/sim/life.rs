//! One life of a simulated disk: opened, loaded with random requests, and ended by a cut, a kill or a clean close.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fastrand::Rng;
use iomgr_core::{
    Data, Device, DeviceQueue, Done, Lease, OpDone, OpQueue, Operation, Owner, Pass, QueueContext, Request,
    RequestFlags, SECTOR_BYTES, Sector, SectorCount, SectorRange, Tag, Wake, Waker,
};
use tqueue::sim::SimHandle;
use tqueue::{Config, EngineKind, Queue};
use vbd::Disk;

use super::SECTOR;
use super::model::{FlushMark, Model, Stamp};

/// Queues per disk: the second hands its allocations to the first.
const QUEUES: u16 = 2;
/// Requests in flight per queue.
const DEPTH: u32 = 8;
const SECTORS_MAX: u64 = 96;

/// See the module.
pub(super) struct Life<'a> {
    sim: SimHandle,
    queue: Queue,
    lanes: Vec<Lane>,
    model: &'a mut Model,
    rng: &'a mut Rng,
    next_stamp: &'a mut Stamp,
    block_sectors: u64,
}

/// One device queue and what is in flight on it.
struct Lane {
    device: Box<dyn DeviceQueue>,
    woken: Arc<Woken>,
    flights: BTreeMap<u32, Flight>,
}

#[derive(Debug, Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A request in flight.
struct Flight {
    op: Operation,
    range: SectorRange,
    fua: bool,
    lease: Option<Lease>,
    mark: Option<FlushMark>,
}

impl<'a> Life<'a> {
    /// Opens all queues of `disk` on one simulated ring.
    pub(super) fn new(
        disk: &Disk,
        sim: &SimHandle,
        model: &'a mut Model,
        rng: &'a mut Rng,
        next_stamp: &'a mut Stamp,
    ) -> Self {
        let engine = EngineKind::Sim(sim.clone());
        let config = Config {
            engine,
            size: 16,
            max_ops: 256,
            arena_bytes: 8 << 20,
            ..Config::default()
        };
        let mut queue = Queue::new(&config).expect("a simulated queue always opens");
        let lanes = (0..QUEUES).map(|index| Lane::open(disk, index, &mut queue)).collect();
        let block_sectors = u64::from(disk.limits().discard_granularity_bytes) / SECTOR_BYTES;
        Self {
            sim: sim.clone(),
            queue,
            lanes,
            model,
            rng,
            next_stamp,
            block_sectors: block_sectors.max(8),
        }
    }

    /// Runs random load, `passes` passes of it or until the power fails, if that was asked for.
    pub(super) fn run(&mut self, passes: u64) {
        for _ in 0..passes {
            if self.sim.is_off() {
                return;
            }
            for lane in 0..self.lanes.len() {
                if self.rng.u8(..) < 140 {
                    self.submit_random(lane);
                }
            }
            self.pass();
        }
    }

    /// Lets everything end, and closes the queues.
    pub(super) fn finish(mut self) {
        while !self.queue.is_idle() || self.lanes.iter().any(|lane| !lane.flights.is_empty()) {
            self.pass();
        }
        // Queue 0 last.
        while let Some(lane) = self.lanes.pop() {
            lane.device.close(&mut self.queue);
        }
    }

    fn pass(&mut self) {
        if !self.queue.is_idle() {
            self.queue.submit_and_wait(None).expect("a simulated queue never fails");
        }
        if self.sim.is_off() {
            return;
        }
        let now = self.queue.now();
        while let Some(completion) = self.queue.next_completion() {
            let lane = usize::from(completion.token.owner().0) - 1;
            let done = OpDone {
                token: completion.token,
                result: completion.result.map(drop),
            };
            self.lanes[lane].device.op_done(
                &mut Pass {
                    now,
                    io: &mut self.queue,
                },
                done,
            );
        }
        for lane in 0..self.lanes.len() {
            if self.lanes[lane].woken.0.swap(false, Ordering::Relaxed) {
                self.lanes[lane].device.kick(&mut Pass {
                    now,
                    io: &mut self.queue,
                });
            }
        }
        for lane in 0..self.lanes.len() {
            while let Some(done) = self.lanes[lane].device.poll_done() {
                self.ended(lane, done);
            }
        }
    }

    fn submit_random(&mut self, lane: usize) {
        let Some(tag) = (0..DEPTH).find(|tag| !self.lanes[lane].flights.contains_key(tag)) else {
            return;
        };
        let (op, flags) = self.random_op();
        let Some(range) = self.random_range(op) else { return };
        let transfer = matches!(op, Operation::Read | Operation::Write);
        let lease = if transfer {
            let Some(lease) = self.queue.alloc(u32::try_from(range.len_bytes()).unwrap()) else {
                return;
            };
            Some(lease)
        } else {
            None
        };
        let fua = flags.contains(RequestFlags::FUA);
        self.begin(op, range, lease.as_ref());
        let mark = (op == Operation::Flush).then(|| self.model.flush_begin());
        let data = lease.as_ref().map_or(Data::NONE, Lease::data);
        let now = self.queue.now();
        let request = Request {
            tag: Tag(tag),
            op,
            flags,
            range,
            data,
            arrival: now,
            deadline: None,
        };
        self.lanes[lane].flights.insert(
            tag,
            Flight {
                op,
                range,
                fua,
                lease,
                mark,
            },
        );
        self.lanes[lane]
            .device
            .submit(
                &mut Pass {
                    now,
                    io: &mut self.queue,
                },
                request,
            )
            .expect("a disk takes what fits");
    }

    fn random_op(&mut self) -> (Operation, RequestFlags) {
        let op = match self.rng.u8(0..100) {
            0..55 => Operation::Write,
            55..75 => Operation::Read,
            75..83 => Operation::Flush,
            83..92 => Operation::Discard,
            _ => Operation::WriteZeroes,
        };
        let mut flags = RequestFlags::empty();
        flags.set(RequestFlags::FUA, op.is_write() && self.rng.u8(..) < 24);
        flags.set(RequestFlags::NO_UNMAP, op == Operation::WriteZeroes && self.rng.bool());
        (op, flags)
    }

    /// A range that nothing in flight overlaps, unless both only read.
    fn random_range(&mut self, op: Operation) -> Option<SectorRange> {
        if op == Operation::Flush {
            return SectorRange::new(Sector(0), SectorCount::ZERO);
        }
        let disk = self.model.len() as u64;
        let (start, count) = if matches!(op, Operation::Discard | Operation::WriteZeroes) && self.rng.bool() {
            let blocks = disk.div_ceil(self.block_sectors);
            let start = self.rng.u64(0..blocks) * self.block_sectors;
            (start, self.block_sectors * self.rng.u64(1..4))
        } else {
            (self.rng.u64(0..disk), self.rng.u64(1..=SECTORS_MAX))
        };
        let range = SectorRange::new(Sector(start), SectorCount(count.min(disk - start)))?;
        let is_read = op == Operation::Read;
        let flights = self.lanes.iter().flat_map(|lane| lane.flights.values());
        let mut clashing = flights.filter(|flight| !(is_read && flight.op == Operation::Read));
        (!clashing.any(|flight| flight.range.overlaps(range))).then_some(range)
    }

    /// Tells the model of a change, and fills the memory of a write.
    fn begin(&mut self, op: Operation, range: SectorRange, lease: Option<&Lease>) {
        match op {
            Operation::Write => {
                let stamp = *self.next_stamp;
                *self.next_stamp += 1;
                let bytes = self
                    .queue
                    .bytes_mut(lease.expect("a write has memory").data())
                    .expect("it is ours");
                fill(bytes, stamp);
                self.model.begin(range, stamp, false);
            }
            Operation::WriteZeroes => self.model.begin(range, 0, false),
            Operation::Discard => self.model.begin(range, 0, true),
            Operation::Read | Operation::Flush => {}
        }
    }

    fn ended(&mut self, lane: usize, done: Done) {
        let flight = self.lanes[lane]
            .flights
            .remove(&done.tag.0)
            .expect("only what was submitted ends");
        done.result
            .unwrap_or_else(|errno| panic!("{:?} of {} failed: {errno}", flight.op, flight.range));
        match flight.op {
            Operation::Read => self.check_read(&flight),
            Operation::Flush => self.model.flush_done(flight.mark.expect("a flush has a mark")),
            Operation::Write | Operation::Discard | Operation::WriteZeroes => self.model.done(flight.range, flight.fua),
        }
        if let Some(lease) = flight.lease {
            self.queue.free(lease);
        }
    }

    fn check_read(&self, flight: &Flight) {
        let data = flight.lease.as_ref().expect("a read has memory").data();
        let bytes = self.queue.bytes(data).expect("the read has ended");
        for (at, sector) in (flight.range.start().0..).zip(bytes.chunks_exact(SECTOR)) {
            let at = usize::try_from(at).unwrap();
            let stamp = stamp_of(sector).unwrap_or_else(|| panic!("sector {at} is torn"));
            assert!(
                self.model.may_read(at, stamp),
                "sector {at} reads as {stamp}, not one of {:?}",
                self.model.allowed(at)
            );
        }
    }
}

impl Lane {
    fn open(disk: &Disk, index: u16, queue: &mut Queue) -> Self {
        let woken = Arc::new(Woken::default());
        let waker = Waker::new(Arc::clone(&woken) as Arc<dyn Wake>);
        let cx = QueueContext {
            index,
            count: QUEUES,
            owner: Owner(index + 1),
            depth: DEPTH,
            waker,
            io: queue,
        };
        Self {
            device: disk.open_queue(cx).expect("queues open in order"),
            woken,
            flights: BTreeMap::new(),
        }
    }
}

/// A sector that is all of one stamp.
fn fill(bytes: &mut [u8], stamp: Stamp) {
    bytes
        .chunks_exact_mut(8)
        .for_each(|word| word.copy_from_slice(&stamp.to_le_bytes()));
}

/// The stamp of a sector, if it is all of one.
pub(super) fn stamp_of(sector: &[u8]) -> Option<Stamp> {
    let mut words = sector
        .chunks_exact(8)
        .map(|word| Stamp::from_le_bytes(word.try_into().unwrap()));
    let first = words.next()?;
    words.all(|word| word == first).then_some(first)
}
