//! A disk by blocking calls: for tools that copy, compare and look.

use std::time::Duration;

use iomgr_core::{
    BlockStatus, Data, Device, DeviceQueue, Errno, OpQueue, Operation, Owner, Pass, QueueContext, Request,
    RequestFlags, Sector, SectorCount, SectorRange, Tag, Token, Waker,
};
use tqueue::{Config, EngineKind, Queue};

use crate::error::{Error, ErrorKind};

/// The frontend is its own owner 0; the one device queue is 1.
pub(crate) const TOOL: Owner = Owner(0);
const DEVICE: Owner = Owner(1);
const TAG: Tag = Tag(0);
/// One wait lasts no longer.
const PATIENCE: Duration = Duration::from_secs(1);

/// One queue of a device, driven by its caller, one request at a time.
#[derive(Debug)]
pub struct BlockingDisk {
    queue: Queue,
    device: Option<Box<dyn DeviceQueue>>,
    /// See [`keep_bytes`](Self::keep_bytes).
    #[cfg(feature = "test-utils")]
    keeps_bytes: bool,
}

impl BlockingDisk {
    /// The most bytes that one call takes.
    pub const TRANSFER_BYTES_MAX: usize = 4 << 20;

    /// Opens queue 0 of `device`, which must be its only one.
    pub fn open(device: &dyn Device, engine: EngineKind) -> Result<Self, Error> {
        let config = Config {
            engine,
            size: 32,
            max_ops: 64,
            arena_bytes: 8 << 20,
            ..Config::default()
        };
        let queue = Queue::new(&config)
            .map_err(|error| Error::new(ErrorKind::Queue, "no queue of ops can be set up").because(error))?;
        Self::with_queue(device, queue)
    }

    /// The same on a queue of the caller's.
    pub fn with_queue(device: &dyn Device, mut queue: Queue) -> Result<Self, Error> {
        let cx = QueueContext {
            index: 0,
            count: 1,
            owner: DEVICE,
            depth: 1,
            waker: Waker::none(),
            io: &mut queue,
        };
        let opened = device
            .open_queue(cx)
            .map_err(|error| Error::new(ErrorKind::Queue, "the disk's queue cannot be opened").because(error))?;
        Ok(Self {
            queue,
            device: Some(opened),
            #[cfg(feature = "test-utils")]
            keeps_bytes: false,
        })
    }

    /// From now on the disk sees no bytes, as if a driver had registered the memory of each request. For a queue with a buffer
    /// of a driver's, on an engine other than io_uring.
    #[cfg(feature = "test-utils")]
    pub fn keep_bytes(mut self) -> Self {
        self.keeps_bytes = true;
        self
    }

    /// A request's memory, as the disk gets it. What a read does not fill is found out.
    #[cfg(feature = "test-utils")]
    fn hand_over(&mut self, op: Operation, data: Data) -> Data {
        if !self.keeps_bytes || data.len == 0 {
            return data;
        }
        if op == Operation::Read {
            self.queue.bytes_mut(data).expect("no op is outstanding").fill(0xa5);
        }
        self.queue.play_driver_buffer(0, Some(data));
        Data {
            home: iomgr_core::DataHome::Registered(0),
            offset: 0,
            len: data.len,
        }
    }

    #[cfg(not(feature = "test-utils"))]
    #[expect(clippy::unused_self, reason = "tests have something here")]
    fn hand_over(&mut self, _: Operation, data: Data) -> Data {
        data
    }

    /// Fills `buf`, whole sectors, from `start`.
    pub fn read(&mut self, buf: &mut [u8], start: Sector) -> std::io::Result<()> {
        let lease = self.lease(buf.len())?;
        let result = self.run(
            Operation::Read,
            RequestFlags::empty(),
            start,
            buf.len() as u64,
            lease.data(),
        );
        if result.is_ok() {
            buf.copy_from_slice(self.queue.bytes(lease.data()).expect("no op is outstanding"));
        }
        self.queue.free(lease);
        result
    }

    /// Writes `buf`, whole sectors, at `start`.
    pub fn write(&mut self, buf: &[u8], start: Sector, flags: RequestFlags) -> std::io::Result<()> {
        let lease = self.lease(buf.len())?;
        self.queue
            .bytes_mut(lease.data())
            .expect("no op is outstanding")
            .copy_from_slice(buf);
        let result = self.run(Operation::Write, flags, start, buf.len() as u64, lease.data());
        self.queue.free(lease);
        result
    }

    /// Flushes.
    pub fn flush(&mut self) -> std::io::Result<()> {
        self.run(Operation::Flush, RequestFlags::empty(), Sector(0), 0, Data::NONE)
    }

    /// Gives sectors back.
    pub fn discard(&mut self, range: SectorRange) -> std::io::Result<()> {
        self.run(
            Operation::Discard,
            RequestFlags::empty(),
            range.start(),
            range.len_bytes(),
            Data::NONE,
        )
    }

    /// Makes sectors read as zeros.
    pub fn write_zeroes(&mut self, range: SectorRange, flags: RequestFlags) -> std::io::Result<()> {
        self.run(
            Operation::WriteZeroes,
            flags,
            range.start(),
            range.len_bytes(),
            Data::NONE,
        )
    }

    /// Hints that sectors will be read soon.
    pub fn prefetch(&mut self, range: SectorRange) -> std::io::Result<()> {
        self.run(
            Operation::Prefetch,
            RequestFlags::empty(),
            range.start(),
            range.len_bytes(),
            Data::NONE,
        )
    }

    /// What the disk's queue knows about the first of some sectors.
    pub fn block_status(&mut self, range: SectorRange) -> BlockStatus {
        self.device.as_mut().expect("open until dropped").block_status(range)
    }

    fn lease(&mut self, len: usize) -> std::io::Result<iomgr_core::Lease> {
        assert!(
            len <= Self::TRANSFER_BYTES_MAX,
            "a transfer has at most {} bytes",
            Self::TRANSFER_BYTES_MAX
        );
        let len = u32::try_from(len).expect("bounded above");
        self.queue.alloc(len).ok_or_else(|| Errno::NOMEM.into())
    }

    fn run(
        &mut self,
        op: Operation,
        flags: RequestFlags,
        start: Sector,
        len_bytes: u64,
        data: Data,
    ) -> std::io::Result<()> {
        let count = SectorCount::from_bytes(len_bytes).ok_or(Errno::INVAL)?;
        let range = SectorRange::new(start, count).ok_or(Errno::INVAL)?;
        let data = self.hand_over(op, data);
        let now = self.queue.now();
        let request = Request {
            tag: TAG,
            op,
            flags,
            range,
            data,
            arrival: now,
            deadline: None,
        };
        let device = self.device.as_mut().expect("open until dropped");
        device
            .submit(
                &mut Pass {
                    now,
                    io: &mut self.queue,
                },
                request,
            )
            .map_err(|_| Errno::BUSY)?;
        loop {
            if let Some(done) = device.poll_done() {
                return Ok(done.result?);
            }
            // Other threads have no part in this queue, so everything that is awaited is an op of our own, or time.
            wait(&mut self.queue, [device.as_ref()]).map_err(std::io::Error::other)?;
            deliver(&mut self.queue, device.as_mut());
        }
    }

    /// Ends the allocator's background work and closes the queue.
    fn close(&mut self) {
        let Some(mut device) = self.device.take() else { return };
        while !device.is_idle() {
            if let Err(error) = wait(&mut self.queue, [device.as_ref()]) {
                tracing::error!(%error, "queue_failed: closing regardless");
                break;
            }
            deliver(&mut self.queue, device.as_mut());
        }
        device.close(&mut self.queue);
    }
}

/// Waits for an op, or until a device wants to be kicked.
pub(crate) fn wait<'a>(
    queue: &mut Queue,
    devices: impl IntoIterator<Item = &'a dyn DeviceQueue>,
) -> Result<(), tqueue::Error> {
    let due = devices.into_iter().filter_map(DeviceQueue::wake_at).min();
    let most = due.map_or(PATIENCE, |due| due.since(queue.now()).min(PATIENCE));
    if let Some(due) = due
        && queue.is_idle()
    {
        // Without anything that could end the queue would not wait. There is room for one op in an empty queue.
        let _always_room = queue.timer(due, Token::new(TOOL, 0));
    }
    queue.submit_and_wait(Some(most))
}

/// Kicks a device that waited for its time.
pub(crate) fn kick_if_due(queue: &mut Queue, device: &mut dyn DeviceQueue) {
    let now = queue.now();
    if device.wake_at().is_some_and(|due| due <= now) {
        device.kick(&mut Pass { now, io: queue });
    }
}

fn deliver(queue: &mut Queue, device: &mut dyn DeviceQueue) {
    kick_if_due(queue, device);
    let now = queue.now();
    while let Some(completion) = queue.next_completion() {
        if completion.token.owner() != TOOL {
            device.op_done(&mut Pass { now, io: queue }, completion.op_done());
        }
    }
}

impl Drop for BlockingDisk {
    fn drop(&mut self) {
        self.close();
    }
}
