//! One life of a simulated disk: opened, loaded with random requests, and ended by a cut, a kill or a clean close.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fastrand::Rng;
use iomgr_core::{
    Data, Device, DeviceQueue, Done, Errno, Lease, OpDone, OpQueue, Operation, Owner, Pass, QueueContext, Request,
    RequestFlags, SECTOR_BYTES, Sector, SectorCount, SectorRange, Tag, Wake, Waker,
};
use tqueue::sim::{SimDisk, SimHandle};
use tqueue::{Config, EngineKind, PlanLimits, Queue};
use vbd::Disk;

use super::SECTOR_LEN;
use super::model::{FlushMark, Model, Moment, Stamp};

/// Queues per disk: the second hands its allocations to the first.
const QUEUES: u16 = 2;
/// Requests in flight per queue.
const DEPTH: u32 = 8;
const SECTORS_MAX: u64 = 96;
/// Passes after which something must have ended: no op takes so long.
pub(super) const PASSES_MAX: u32 = 100_000;

/// What the guest does.
#[derive(Clone, Copy, Debug)]
struct Load {
    /// Of 100 requests so many write, read, flush, discard; the rest writes zeros.
    shares: [u8; 4],
    /// Of 256 changes so many carry FUA.
    fua: u8,
    /// Of 256 discards and zeroings so many are of whole blocks.
    whole: u8,
    /// Are there requests that overlap others which are under way?
    races: bool,
}

/// One mix of everything; one that frees blocks about as fast as it allocates them; one that is all about durability; and
/// one that gets it by FUA alone.
const LOADS: [([u8; 4], u8, u8); 4] = [
    ([55, 20, 8, 9], 24, 128),
    ([42, 12, 14, 20], 12, 220),
    ([52, 8, 18, 8], 96, 128),
    ([82, 4, 1, 8], 110, 230),
];

/// What a run does or does not in all its lives.
#[derive(Clone, Copy, Debug)]
pub(super) struct Habits {
    /// Are ops merged?
    pub(super) merges: bool,
    /// Is the disk paused at times?
    pub(super) pauses: bool,
}

/// See the module.
pub(super) struct Life<'a> {
    pub(super) sim: SimHandle,
    pub(super) disk: Disk,
    /// What it lies on now.
    pub(super) storage: SimDisk,
    queue: Queue,
    lanes: Vec<Lane>,
    pub(super) model: &'a mut Model,
    pub(super) rng: &'a mut Rng,
    next_stamp: &'a mut Stamp,
    block_sectors: u64,
    load: Load,
    /// What requests may fail with.
    pub(super) excused: Vec<Errno>,
    /// Requests that have ended.
    pub(super) ended: u64,
    /// Is the disk paused at times?
    pauses: bool,
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
    begun: Begun,
}

/// What the model knows a request by.
#[derive(Clone, Copy)]
enum Begun {
    Read(Moment),
    Change(Moment),
    Flush(FlushMark),
}

impl<'a> Life<'a> {
    /// Opens all queues of `disk` on one simulated ring.
    pub(super) fn new(
        disk: &Disk,
        storage: SimDisk,
        habits: Habits,
        model: &'a mut Model,
        rng: &'a mut Rng,
        next_stamp: &'a mut Stamp,
    ) -> Self {
        let sim = storage.machine().clone();
        let engine = EngineKind::Sim(sim.clone());
        let mut plan = PlanLimits::default();
        if !habits.merges {
            plan.max_segments = 1;
        }
        let config = Config {
            engine,
            plan,
            size: 16,
            max_ops: 256,
            arena_bytes: 8 << 20,
            ..Config::default()
        };
        let mut queue = Queue::new(&config).expect("a simulated queue always opens");
        let lanes = (0..QUEUES).map(|index| Lane::open(disk, index, &mut queue)).collect();
        let (shares, fua, whole) = LOADS[rng.usize(..LOADS.len())];
        let races = rng.bool();
        let block_sectors = u64::from(disk.limits().discard_granularity_bytes) / SECTOR_BYTES;
        Self {
            sim,
            disk: disk.clone(),
            storage,
            queue,
            lanes,
            model,
            rng,
            next_stamp,
            block_sectors: block_sectors.max(8),
            load: Load {
                shares,
                fua,
                whole,
                races,
            },
            excused: Vec::new(),
            ended: 0,
            pauses: habits.pauses,
        }
    }

    /// From here on requests may fail with `errno`.
    pub(super) fn excuse(&mut self, errno: Errno) {
        self.excused.push(errno);
    }

    /// Runs random load, `passes` passes of it or until the power fails, if that was asked for.
    pub(super) fn run(&mut self, passes: u64) {
        for _ in 0..passes {
            if self.sim.is_off() {
                return;
            }
            self.ask_and_pass();
            if self.pauses && self.rng.u8(..) < 6 {
                self.pause();
            }
        }
    }

    /// A pass with what the guest asks for before.
    pub(super) fn ask_and_pass(&mut self) {
        for lane in 0..self.lanes.len() {
            if self.rng.u8(..) < 140 {
                self.submit_random(lane);
            }
        }
        self.pass();
    }

    /// Lets everything end, and closes the queues. What the disk lies on is left.
    pub(super) fn finish(mut self) -> SimDisk {
        let mut passes = 0;
        while !self.queue.is_idle() || self.lanes.iter().any(|lane| !lane.device.is_idle()) {
            self.pass();
            passes += 1;
            assert!(passes < PASSES_MAX, "requests never end");
        }
        // Queue 0 last.
        while let Some(lane) = self.lanes.pop() {
            lane.device.close(&mut self.queue);
        }
        self.storage
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
        let begun = self.begin(op, range, lease.as_ref());
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
                begun,
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
        const OPS: [Operation; 4] = [Operation::Write, Operation::Read, Operation::Flush, Operation::Discard];
        let mut left = self.rng.u8(0..100);
        let chosen = OPS.into_iter().zip(self.load.shares).find(|&(_, share)| {
            let hit = left < share;
            left = left.saturating_sub(share);
            hit
        });
        let op = chosen.map_or(Operation::WriteZeroes, |(op, _)| op);
        let mut flags = RequestFlags::empty();
        flags.set(RequestFlags::FUA, op.is_write() && self.rng.u8(..) < self.load.fua);
        flags.set(RequestFlags::NO_UNMAP, op == Operation::WriteZeroes && self.rng.bool());
        // The simulated files have holes: zeros may always be asked to be fast, and nothing else may come of it. Drawing no
        // lot for that keeps the kept seeds what they are.
        let may_unmap = op == Operation::WriteZeroes && !flags.contains(RequestFlags::NO_UNMAP);
        flags.set(RequestFlags::FAST_ZERO, may_unmap && self.next_stamp.is_multiple_of(2));
        (op, flags)
    }

    /// A range; if the guest does not race with itself, one that nothing in flight overlaps, unless both only read.
    fn random_range(&mut self, op: Operation) -> Option<SectorRange> {
        if op == Operation::Flush {
            return SectorRange::new(Sector(0), SectorCount::ZERO);
        }
        let disk = self.model.len() as u64;
        let (start, count) =
            if matches!(op, Operation::Discard | Operation::WriteZeroes) && self.rng.u8(..) < self.load.whole {
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
        (self.load.races || !clashing.any(|flight| flight.range.overlaps(range))).then_some(range)
    }

    /// Tells the model of a request, and fills the memory of a write.
    fn begin(&mut self, op: Operation, range: SectorRange, lease: Option<&Lease>) -> Begun {
        match op {
            Operation::Write => {
                let stamp = *self.next_stamp;
                *self.next_stamp += 1;
                let bytes = self
                    .queue
                    .bytes_mut(lease.expect("a write has memory").data())
                    .expect("it is ours");
                fill(bytes, stamp);
                Begun::Change(self.model.begin(range, stamp, false))
            }
            Operation::WriteZeroes => Begun::Change(self.model.begin(range, 0, false)),
            Operation::Discard => Begun::Change(self.model.begin(range, 0, true)),
            Operation::Read | Operation::Prefetch => Begun::Read(self.model.read_begin()),
            Operation::Flush => Begun::Flush(self.model.flush_begin()),
        }
    }

    fn ended(&mut self, lane: usize, done: Done) {
        self.ended += 1;
        let flight = self.lanes[lane]
            .flights
            .remove(&done.tag.0)
            .expect("only what was submitted ends");
        match done.result {
            Ok(()) => self.ended_well(&flight),
            Err(errno) => {
                let Flight { op, range, .. } = flight;
                assert!(self.excused.contains(&errno), "{op:?} of {range} failed: {errno}");
                if let Begun::Change(begun) = flight.begun {
                    self.model.failed(range, begun);
                }
            }
        }
        if let Begun::Read(begun) = flight.begun {
            self.model.read_end(begun);
        }
        if let Some(lease) = flight.lease {
            self.queue.free(lease);
        }
    }

    fn ended_well(&mut self, flight: &Flight) {
        match flight.begun {
            Begun::Read(begun) => self.check_read(flight, begun),
            Begun::Change(begun) => self.model.done(flight.range, begun, flight.fua),
            Begun::Flush(mark) => self.model.flush_done(mark),
        }
    }

    fn check_read(&self, flight: &Flight, begun: Moment) {
        let data = flight.lease.as_ref().expect("a read has memory").data();
        let bytes = self.queue.bytes(data).expect("the read has ended");
        for (at, sector) in (flight.range.start().0..).zip(bytes.chunks_exact(SECTOR_LEN)) {
            let at = usize::try_from(at).unwrap();
            let stamp = stamp_of(sector).unwrap_or_else(|| panic!("sector {at} is torn"));
            let allowed = self.model.readable(at, begun);
            assert!(
                allowed.contains(&stamp),
                "sector {at} reads as {stamp}, not one of {allowed:?}"
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
