//! The device trait: what every image, mapper and null device is to a frontend.

use std::error::Error;
use std::fmt::Debug;

use crate::{Done, OpDone, OpQueue, Owner, Request, SectorCount, SectorRange, Tag, Timestamp, Waker};

/// What a device can take, in the words of a kernel block device's queue limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Size.
    pub size: SectorCount,
    /// Smallest unit of I/O, in bytes; a power of two from 512. Requests are multiples of it.
    pub logical_block_bytes: u32,
    /// Unit that is written without read-modify-write below, in bytes.
    pub physical_block_bytes: u32,
    /// Best size of I/O, in bytes; 0 where there is none.
    pub optimal_io_bytes: u32,
    /// Unit in which a discard gives space back, in bytes; 0 where discards do nothing.
    pub discard_granularity_bytes: u32,
    /// Are writes refused?
    pub read_only: bool,
    /// Is there a volatile cache, so that flushes mean something?
    pub volatile_cache: bool,
    /// Does it need to see the bytes of every request (so that zero copy is out of the question)?
    pub needs_bytes: bool,
    /// Do seeks cost?
    pub rotational: bool,
}

/// One pass of a frontend's loop: the time, read once, and the thread's queue of ops.
pub struct Pass<'a> {
    /// When the pass began.
    pub now: Timestamp,
    /// The thread's queue.
    pub io: &'a mut dyn OpQueue,
}

impl Debug for Pass<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pass").field("now", &self.now).finish_non_exhaustive()
    }
}

/// What a device needs to know to open a queue on a frontend's thread.
pub struct QueueContext<'a> {
    /// Which of the device's queues, from 0. Queue 0 is opened first and closed last.
    pub index: u16,
    /// How many queues there are in all.
    pub count: u16,
    /// The owner that the device stamps on its tokens.
    pub owner: Owner,
    /// Requests outstanding at most; tags are below it.
    pub depth: u32,
    /// Wakes this thread.
    pub waker: Waker,
    /// The thread's queue of ops, to make files known.
    pub io: &'a mut dyn OpQueue,
}

impl Debug for QueueContext<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QueueContext")
            .field("index", &self.index)
            .field("count", &self.count)
            .field("owner", &self.owner)
            .field("depth", &self.depth)
            .finish_non_exhaustive()
    }
}

/// A virtual block device, shared by all threads that serve it.
pub trait Device: Send + Sync + Debug {
    /// Its name, for people.
    fn name(&self) -> &str;

    /// What it can take now.
    fn limits(&self) -> Limits;

    /// Opens one queue for the calling thread. Everything that the queue will ever need is allocated here.
    fn open_queue(&self, cx: QueueContext<'_>) -> Result<Box<dyn DeviceQueue>, Box<dyn Error + Send + Sync>>;
}

/// One thread's handle of a device. It stays on its thread; requests in, ops out; completed ops in, finished requests out.
///
/// # Contract
/// - Every accepted request yields exactly one [`Done`] from [`poll_done`](Self::poll_done), never from inside `submit`.
/// - Requests that are outstanding together have no order among them.
/// - Nothing here blocks or, after opening, allocates.
pub trait DeviceQueue: Debug {
    /// Takes a request, or hands it back: try again after a request of this queue has ended or the queue was kicked.
    fn submit(&mut self, pass: &mut Pass<'_>, request: Request) -> Result<(), Busy>;

    /// Takes the completion of an op that carries this queue's owner.
    fn op_done(&mut self, pass: &mut Pass<'_>, done: OpDone);

    /// Looks for news from other threads, and at the time; the frontend calls it when the thread was woken, and when
    /// [`wake_at`](Self::wake_at) has come.
    fn kick(&mut self, pass: &mut Pass<'_>);

    /// When it is to be kicked although nobody wakes the thread: something waits for time to pass. The frontend does not sleep beyond.
    fn wake_at(&self) -> Option<Timestamp> {
        None
    }

    /// The next finished request; `None` when there is none. Call it until then after every other call.
    fn poll_done(&mut self) -> Option<Done>;

    /// Would a request be handed back now?
    fn busy(&self) -> bool;

    /// What is known, without reading data, about the first sectors of `range`, which is not empty and lies on the disk.
    ///
    /// Requests that change these sectors and are under way may or may not show. A device that knows nothing says that all
    /// of it is data, which is never wrong.
    fn block_status(&mut self, range: SectorRange) -> BlockStatus {
        BlockStatus::data(range.count())
    }

    /// Takes note of a request that ended well without this queue, for what it asks was [known](Self::block_status): users of
    /// the device count it like any other.
    fn note_settled(&mut self, _request: &Request, _now: Timestamp) {}

    /// Gives a request up.
    fn cancel(&mut self, pass: &mut Pass<'_>, tag: Tag) -> CancelOutcome;

    /// Is nothing under way, neither a request nor work of the device's own (space being reserved ahead, say)?
    fn is_idle(&self) -> bool;

    /// Ends the queue: forgets its files. Only when it is idle; queue 0 last.
    fn close(self: Box<Self>, io: &mut dyn OpQueue);
}

/// What lies in a run of sectors, as far as that is known without reading them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockStatus {
    /// How many sectors, from 1. The next ones may be of the same kind.
    pub count: SectorCount,
    /// No space is taken for them: a write may fail for want of it.
    pub is_hole: bool,
    /// They read as zeros.
    pub is_zero: bool,
}

impl BlockStatus {
    /// Sectors that may hold anything.
    pub const fn data(count: SectorCount) -> Self {
        Self {
            count,
            is_hole: false,
            is_zero: false,
        }
    }

    /// Sectors that take space and read as zeros.
    pub const fn zero(count: SectorCount) -> Self {
        Self {
            count,
            is_hole: false,
            is_zero: true,
        }
    }

    /// Sectors that take no space and read as zeros.
    pub const fn hole(count: SectorCount) -> Self {
        Self {
            count,
            is_hole: true,
            is_zero: true,
        }
    }
}

/// The device queue cannot take the request now; here it is back.
#[derive(Debug, PartialEq, Eq)]
pub struct Busy(pub Request);

/// What cancelling a request came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelOutcome {
    /// It had not reached any file: it ends as `ECANCELED`, and nothing was read or written.
    NeverStarted,
    /// It is on its way and ends by itself; its memory stays in use until then.
    Detached,
    /// No such request.
    Unknown,
}
