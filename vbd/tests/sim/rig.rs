//! Several queues of a simulated disk on one ring, for requests that are under way together.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use iomgr_core::{
    Action, CancelOutcome, Data, Device, DeviceQueue, Errno, Lease, Op, OpDone, OpQueue, Operation, Owner, Pass,
    QueueContext, Request, RequestFlags, Sector, SectorCount, SectorRange, Tag, Timestamp, Token, Wake, Waker,
};
use tqueue::sim::{SimDisk, SimHandle};
use tqueue::{Config, EngineKind, Queue};
use vbd::Disk;

const DEPTH: u32 = 16;

/// A dynamic image in a new file.
pub(crate) fn dynamic(sim: &SimHandle, blocks: u64, block_bytes: u32) -> SimDisk {
    format(sim.create_file(), blocks, block_bytes)
}

/// Makes `storage` a dynamic image.
pub(crate) fn format(storage: SimDisk, blocks: u64, block_bytes: u32) -> SimDisk {
    let options = vhd::CreateOptions {
        block_bytes,
        ..vhd::CreateOptions::dynamic(blocks * u64::from(block_bytes), [7; 16], 0)
    };
    vhd::create(&storage, &options).unwrap();
    storage
}

/// A request under way: which lane, which tag.
pub(crate) type Flight = (usize, u32);

pub(crate) struct Lanes {
    queue: Queue,
    lanes: Vec<Lane>,
    leases: BTreeMap<Flight, Lease>,
    results: BTreeMap<Flight, Result<(), Errno>>,
    next_tag: u32,
    timer_is_set: bool,
}

/// The rig's own ops.
const RIG: Owner = Owner(0);
const TIMER: Token = Token::new(RIG, 0);

struct Lane {
    device: Box<dyn DeviceQueue>,
    woken: Arc<Woken>,
}

#[derive(Debug, Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Lanes {
    pub(crate) fn open(disk: &Disk, sim: &SimHandle, count: u16) -> Self {
        Self::try_open(disk, sim, count).unwrap()
    }

    pub(crate) fn try_open(disk: &Disk, sim: &SimHandle, count: u16) -> Result<Self, Box<dyn Error + Send + Sync>> {
        let config = Config {
            engine: EngineKind::Sim(sim.clone()),
            size: 32,
            max_ops: 256,
            arena_bytes: 8 << 20,
            ..Config::default()
        };
        let mut queue = Queue::new(&config)?;
        let lanes: Result<_, _> = (0..count)
            .map(|index| Lane::open(disk, index, count, &mut queue))
            .collect();
        Ok(Self {
            queue,
            lanes: lanes?,
            leases: BTreeMap::new(),
            results: BTreeMap::new(),
            next_tag: 0,
            timer_is_set: false,
        })
    }

    /// Submits a request, and does not wait for it.
    pub(crate) fn begin(
        &mut self,
        lane: usize,
        op: Operation,
        flags: RequestFlags,
        start: u64,
        sectors: u64,
        bytes: Option<&[u8]>,
    ) -> Flight {
        while self.leases.contains_key(&(lane, self.next_tag)) {
            self.next_tag = (self.next_tag + 1) % DEPTH;
        }
        let flight = (lane, self.next_tag);
        self.next_tag = (self.next_tag + 1) % DEPTH;
        let is_transfer = matches!(op, Operation::Read | Operation::Write);
        let lease = is_transfer.then(|| self.queue.alloc(u32::try_from(sectors * 512).unwrap()).unwrap());
        if let (Some(lease), Some(bytes)) = (&lease, bytes) {
            self.queue.bytes_mut(lease.data()).unwrap().copy_from_slice(bytes);
        }
        let now = self.queue.now();
        let request = Request {
            tag: Tag(flight.1),
            op,
            flags,
            range: SectorRange::new(Sector(start), SectorCount(sectors)).unwrap(),
            data: lease.as_ref().map_or(Data::NONE, Lease::data),
            arrival: now,
            deadline: None,
        };
        if let Some(lease) = lease {
            self.leases.insert(flight, lease);
        }
        let io = &mut self.queue;
        self.lanes[lane].device.submit(&mut Pass { now, io }, request).unwrap();
        flight
    }

    pub(crate) fn begin_write(&mut self, lane: usize, start: u64, bytes: &[u8]) -> Flight {
        let sectors = bytes.len() as u64 / 512;
        self.begin(
            lane,
            Operation::Write,
            RequestFlags::empty(),
            start,
            sectors,
            Some(bytes),
        )
    }

    pub(crate) fn begin_flush(&mut self, lane: usize) -> Flight {
        self.begin(lane, Operation::Flush, RequestFlags::empty(), 0, 0, None)
    }

    /// Has it ended, and how?
    pub(crate) fn result(&self, flight: Flight) -> Option<Result<(), Errno>> {
        self.results.get(&flight).copied()
    }

    /// Lets things happen until it has ended.
    pub(crate) fn wait(&mut self, flight: Flight) -> Result<(), Errno> {
        self.wait_with_bytes(flight).map(drop)
    }

    fn wait_with_bytes(&mut self, flight: Flight) -> Result<Vec<u8>, Errno> {
        while !self.results.contains_key(&flight) {
            assert!(
                self.turn() || self.results.contains_key(&flight),
                "{flight:?} waits, and nothing is under way"
            );
        }
        let result = self.results.remove(&flight).unwrap();
        let lease = self.leases.remove(&flight);
        let bytes = lease
            .as_ref()
            .map(|lease| self.queue.bytes(lease.data()).unwrap().to_vec());
        if let Some(lease) = lease {
            self.queue.free(lease);
        }
        result.map(|()| bytes.unwrap_or_default())
    }

    pub(crate) fn write(&mut self, lane: usize, start: u64, bytes: &[u8]) -> Result<(), Errno> {
        let flight = self.begin_write(lane, start, bytes);
        self.wait(flight)
    }

    pub(crate) fn read(&mut self, lane: usize, start: u64, sectors: u64) -> Result<Vec<u8>, Errno> {
        let flight = self.begin(lane, Operation::Read, RequestFlags::empty(), start, sectors, None);
        self.wait_with_bytes(flight)
    }

    pub(crate) fn flush(&mut self, lane: usize) -> Result<(), Errno> {
        let flight = self.begin_flush(lane);
        self.wait(flight)
    }

    pub(crate) fn discard(&mut self, lane: usize, start: u64, sectors: u64) -> Result<(), Errno> {
        let flight = self.begin(lane, Operation::Discard, RequestFlags::empty(), start, sectors, None);
        self.wait(flight)
    }

    /// One pass of a frontend's loop. Says whether anything was under way.
    pub(crate) fn turn(&mut self) -> bool {
        self.set_timer();
        let idle = self.queue.is_idle();
        if !idle {
            self.queue.submit_and_wait(None).unwrap();
        }
        let (now, io) = (self.queue.now(), &mut self.queue);
        while let Some(completion) = io.next_completion() {
            if completion.token.owner() == RIG {
                self.timer_is_set &= completion.token != TIMER;
                continue;
            }
            let lane = usize::from(completion.token.owner().0) - 1;
            let done = OpDone {
                token: completion.token,
                result: completion.result.map(drop),
            };
            self.lanes[lane].device.op_done(&mut Pass { now, io }, done);
        }
        let mut woken = false;
        for lane in &mut self.lanes {
            let is_due = lane.device.wake_at().is_some_and(|due| due <= now);
            if lane.woken.0.swap(false, Ordering::Relaxed) || is_due {
                woken = true;
                lane.device.kick(&mut Pass { now, io });
            }
        }
        for (lane, device) in self.lanes.iter_mut().map(|lane| &mut lane.device).enumerate() {
            while let Some(done) = device.poll_done() {
                self.results.insert((lane, done.tag.0), done.result);
            }
        }
        !idle || woken
    }

    /// A device that waits for its time shall not sleep through it.
    fn set_timer(&mut self) {
        let due = self.lanes.iter().filter_map(|lane| lane.device.wake_at()).min();
        if let Some(due) = due
            && !self.timer_is_set
        {
            self.queue.timer(due, TIMER).unwrap();
            self.timer_is_set = true;
        }
    }

    /// Gives a request up.
    pub(crate) fn cancel(&mut self, flight: Flight) -> CancelOutcome {
        let (now, io) = (self.queue.now(), &mut self.queue);
        self.lanes[flight.0].device.cancel(&mut Pass { now, io }, Tag(flight.1))
    }

    /// Fills the thread's queue with ops of the rig's own, to its last place.
    pub(crate) fn fill(&mut self, image: &SimDisk) {
        let file = self.queue.add_file(&image.handle()).unwrap();
        let (token, action) = (Token::new(RIG, 1), Action::Flush);
        while self.queue.push(Op { token, file, action }).is_ok() {}
        self.queue.remove_file(file);
    }

    /// The time.
    pub(crate) fn now(&self) -> Timestamp {
        self.queue.now()
    }

    /// Lets everything end, and closes the queues.
    pub(crate) fn close(mut self) {
        while self.turn() {}
        while let Some(lane) = self.lanes.pop() {
            lane.device.close(&mut self.queue);
        }
    }
}

impl Lane {
    fn open(disk: &Disk, index: u16, count: u16, queue: &mut Queue) -> Result<Self, Box<dyn Error + Send + Sync>> {
        let woken = Arc::new(Woken::default());
        let cx = QueueContext {
            index,
            count,
            owner: Owner(index + 1),
            depth: DEPTH,
            waker: Waker::new(Arc::clone(&woken) as Arc<dyn Wake>),
            io: queue,
        };
        Ok(Self {
            device: disk.open_queue(cx)?,
            woken,
        })
    }
}
