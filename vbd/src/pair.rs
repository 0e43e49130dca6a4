//! Two disks on one queue of ops: for tools that copy from one to the other, or compare them, with many requests in flight.
//!
//! ```text
//!  tool ─► submit(side, tag, …) ─► DeviceQueue of the side ─┐
//!   ▲                                                       ├─► one tqueue
//!   └───────────── next_done() ◄── op_done ◄────────────────┘
//! ```

use std::io;

use iomgr_core::{
    Data, Device, DeviceQueue, Done, Errno, Lease, OpQueue, Operation, Owner, Pass, QueueContext, Request,
    RequestFlags, SectorRange, Tag, Waker,
};
use tqueue::{Config, EngineKind, Queue};

use crate::blocking::{self, TOOL};
use crate::error::{Error, ErrorKind};

/// Bytes that a request of a tool moves at most.
pub(crate) const CHUNK_BYTES: u32 = 1 << 20;
/// Chunks that a tool has under way at the same time.
pub(crate) const LANES: u32 = 8;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The source; the first of two that are compared.
    First,
    /// The target; the second.
    Second,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Pair {
    queue: Queue,
    /// By side; there until the pair is dropped.
    devices: [Option<Box<dyn DeviceQueue>>; 2],
}

impl Pair {
    /// Opens a queue of each, with tags below `depth`.
    pub(crate) fn open(devices: [&dyn Device; 2], depth: u32) -> Result<Self, Error> {
        let config = Config {
            engine: EngineKind::Auto,
            size: 64,
            max_ops: 256,
            arena_bytes: 32 << 20,
            ..Config::default()
        };
        let queue = Queue::new(&config)
            .map_err(|error| Error::new(ErrorKind::Queue, "no queue of ops can be set up").because(error))?;
        let mut pair = Self {
            queue,
            devices: [None, None],
        };
        for side in [Side::First, Side::Second] {
            let opened = devices[side as usize].open_queue(pair.context(side, depth));
            let opened = opened
                .map_err(|error| Error::new(ErrorKind::Queue, "the disk's queue cannot be opened").because(error))?;
            pair.devices[side as usize] = Some(opened);
        }
        Ok(pair)
    }

    fn context(&mut self, side: Side, depth: u32) -> QueueContext<'_> {
        QueueContext {
            index: 0,
            count: 1,
            owner: side.owner(),
            depth,
            waker: Waker::none(),
            io: &mut self.queue,
        }
    }

    /// Memory for one chunk.
    pub(crate) fn lease(&mut self) -> Result<Lease, Error> {
        let lease = self.queue.alloc(CHUNK_BYTES);
        lease
            .ok_or_else(|| Error::new(ErrorKind::Queue, "no memory for a chunk").because(io::Error::from(Errno::NOMEM)))
    }

    /// The memory of a request that has ended.
    pub(crate) fn bytes(&self, data: Data) -> &[u8] {
        self.queue.bytes(data).expect("no op is outstanding on it")
    }

    /// Starts a request; `tag` is free on this side.
    pub(crate) fn submit(&mut self, side: Side, tag: Tag, op: Operation, range: SectorRange, data: Data) {
        let now = self.queue.now();
        let request = Request {
            tag,
            op,
            flags: RequestFlags::empty(),
            range,
            data,
            arrival: now,
            deadline: None,
        };
        let device = self.devices[side as usize].as_mut().expect("open until dropped");
        let io = &mut self.queue;
        device
            .submit(&mut Pass { now, io }, request)
            .expect("a disk's queue takes a request for every tag");
    }

    /// Waits until something has ended; [`next_done`](Self::next_done) says what.
    pub(crate) fn wait(&mut self) -> io::Result<()> {
        // Other threads have no part in this queue, so all that is awaited is an op of our own, or time.
        let devices = self.devices.iter().flatten().map(AsRef::as_ref);
        blocking::wait(&mut self.queue, devices).map_err(io::Error::other)?;
        for device in self.devices.iter_mut().flatten() {
            blocking::kick_if_due(&mut self.queue, device.as_mut());
        }
        let now = self.queue.now();
        while let Some(completion) = self.queue.next_completion() {
            if completion.token.owner() == TOOL {
                continue;
            }
            let side = Side::of(completion.token.owner());
            let device = self.devices[side as usize].as_mut().expect("open until dropped");
            let io = &mut self.queue;
            device.op_done(&mut Pass { now, io }, completion.op_done());
        }
        Ok(())
    }

    /// A request that has ended.
    pub(crate) fn next_done(&mut self) -> Option<(Side, Done)> {
        [Side::First, Side::Second].into_iter().find_map(|side| {
            let done = self.devices[side as usize].as_mut()?.poll_done()?;
            Some((side, done))
        })
    }

    fn is_idle(&self) -> bool {
        self.devices.iter().flatten().all(|device| device.is_idle())
    }
}

impl Side {
    /// The tool itself is owner 0.
    fn owner(self) -> Owner {
        Owner(self as u16 + 1)
    }

    fn of(owner: Owner) -> Self {
        if owner == Self::First.owner() {
            Self::First
        } else {
            Self::Second
        }
    }
}

impl Drop for Pair {
    /// Lets the disks' background work end, and closes their queues.
    fn drop(&mut self) {
        while !self.is_idle() {
            if let Err(error) = self.wait() {
                tracing::error!(%error, "queue_failed: closing regardless");
                break;
            }
        }
        for device in &mut self.devices {
            if let Some(device) = device.take() {
                device.close(&mut self.queue);
            }
        }
    }
}

/// What can go wrong while a pair works, as an error.
pub(crate) struct Fault;

impl Fault {
    pub(crate) fn queue(error: io::Error) -> Error {
        Error::new(ErrorKind::Queue, "the queue of ops failed").because(error)
    }

    pub(crate) fn metadata(error: io::Error) -> Error {
        Error::new(ErrorKind::Io, "its metadata cannot be read").because(error)
    }

    pub(crate) fn read(errno: Errno, range: SectorRange) -> Error {
        Self::request("read", errno, range)
    }

    pub(crate) fn write(errno: Errno, range: SectorRange) -> Error {
        Self::request("written", errno, range)
    }

    pub(crate) fn flush(errno: Errno) -> Error {
        Error::new(ErrorKind::Io, "cannot be flushed").because(io::Error::from(errno))
    }

    fn request(done: &str, errno: Errno, range: SectorRange) -> Error {
        let (start, len) = (range.offset_bytes(), range.len_bytes());
        Error::new(
            ErrorKind::Io,
            format!("{len} bytes at byte {start} of the disk cannot be {done}"),
        )
        .because(io::Error::from(errno))
    }
}
