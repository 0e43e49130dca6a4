//! A device in memory, for tests and examples of whoever serves devices; and seeds for random tests.

mod seeds;

use std::collections::VecDeque;
use std::error::Error;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::{
    Action, BlockStatus, Busy, CancelOutcome, Device, DeviceQueue, Done, Errno, FileHandle, FileSlot, Lease, Limits,
    Op, OpDone, OpQueue, Operation, Owner, Pass, QueueContext, Request, RequestFlags, SectorCount, SectorRange, Tag,
    Token, Waker,
};

pub use seeds::Seeds;

/// A device whose sectors are memory: holes until they are written. Requests end as soon as they are submitted, unless they
/// are [held](Self::hold).
#[derive(Debug)]
pub struct MemDevice {
    name: String,
    limits: Limits,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    sectors: Mutex<Sectors>,
    /// Zeros are written slowly, so that a fast zero fails.
    slow_zeroes: AtomicBool,
    /// What requests in this range of sectors end with.
    fault: Mutex<Option<(Operation, Errno)>>,
    held: AtomicBool,
    wakers: Mutex<Vec<Waker>>,
    open_queues: AtomicU64,
    /// The numbers of the queues that were closed, in that order.
    closed_queues: Mutex<Vec<u16>>,
    /// Requests of this kind panic.
    bomb: Mutex<Option<Operation>>,
    /// Each queue reads from this for itself.
    background: Mutex<Option<FileHandle>>,
    /// The queue of this number does not open.
    broken_queue: Mutex<Option<u16>>,
    /// What was submitted, the oldest first; up to [`LOG_MAX`].
    log: Mutex<Vec<Logged>>,
    submitted: AtomicU64,
    /// Somebody waits for `submitted` to grow.
    is_awaited: AtomicBool,
    meeting: Mutex<()>,
    more: Condvar,
}

/// What a device holds.
#[derive(Debug, Default)]
struct Sectors {
    /// Empty on a null device.
    bytes: Vec<u8>,
    /// What is told of each sector; empty where nothing is.
    kinds: Vec<Kind>,
}

/// What a device tells of a sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Hole,
    Zero,
    Data,
}

/// Requests that the log of a device holds.
const LOG_MAX: u64 = 4096;

/// A request as the log of a [`MemDevice`] has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Logged {
    /// What was asked for.
    pub op: Operation,
    /// How.
    pub flags: RequestFlags,
    /// Where.
    pub range: SectorRange,
}

impl MemDevice {
    /// A device of `size_bytes` zeros; a tail shorter than a sector is cut off.
    pub fn new(name: &str, size_bytes: u64) -> Self {
        let size = SectorCount::from_bytes_floor(size_bytes);
        let len = usize::try_from(size_bytes).expect("a memory device fits into memory");
        let device = Self::null(name, size);
        let sectors = usize::try_from(size.0).expect("a memory device fits into memory");
        *lock(&device.shared.sectors) = Sectors {
            bytes: vec![0; len],
            kinds: vec![Kind::Hole; sectors],
        };
        device
    }

    /// A device that forgets: writes go nowhere, reads leave their buffers as they are.
    pub fn null(name: &str, size: SectorCount) -> Self {
        let limits = Limits {
            size,
            logical_block_bytes: 512,
            physical_block_bytes: 4096,
            optimal_io_bytes: 0,
            discard_granularity_bytes: 512,
            read_only: false,
            volatile_cache: true,
            needs_bytes: true,
            rotational: false,
        };
        Self {
            name: name.to_owned(),
            limits,
            shared: Arc::default(),
        }
    }

    /// The same, with other limits.
    pub fn with_limits(mut self, change: impl FnOnce(&mut Limits)) -> Self {
        change(&mut self.limits);
        self
    }

    /// From now on, requests wait until [`release`](Self::release).
    pub fn hold(&self) {
        self.shared.held.store(true, Ordering::SeqCst);
    }

    /// Lets held requests end.
    pub fn release(&self) {
        self.shared.held.store(false, Ordering::SeqCst);
        lock(&self.shared.wakers).iter().for_each(Waker::wake);
    }

    /// From now on, requests of this kind fail.
    pub fn fail(&self, op: Operation, errno: Errno) {
        *lock(&self.shared.fault) = Some((op, errno));
    }

    /// Its bytes.
    pub fn bytes(&self) -> Vec<u8> {
        lock(&self.shared.sectors).bytes.clone()
    }

    /// What it tells of each sector, as the protocol's state flags: 1 for a hole, 2 for zeros.
    pub fn states(&self) -> Vec<u32> {
        let state = |kind: &Kind| match kind {
            Kind::Hole => 3,
            Kind::Zero => 2,
            Kind::Data => 0,
        };
        lock(&self.shared.sectors).kinds.iter().map(state).collect()
    }

    /// From now on, zeros are written slowly: a fast zero fails.
    pub fn slow_down_zeroes(&self) {
        self.shared.slow_zeroes.store(true, Ordering::SeqCst);
    }

    /// From now on, submitting a request of this kind panics.
    pub fn explode(&self, op: Operation) {
        *lock(&self.shared.bomb) = Some(op);
    }

    /// From now on, each queue that is opened reads a byte from `file` for itself.
    pub fn read_for_itself(&self, file: FileHandle) {
        *lock(&self.shared.background) = Some(file);
    }

    /// From now on, queue `index` does not open.
    pub fn break_queue(&self, index: u16) {
        *lock(&self.shared.broken_queue) = Some(index);
    }

    /// Requests submitted so far.
    pub fn submitted(&self) -> u64 {
        self.shared.submitted.load(Ordering::SeqCst)
    }

    /// Waits until that many requests were submitted.
    ///
    /// # Panics
    /// If that does not happen within a minute.
    pub fn wait_submitted(&self, count: u64) {
        let minute = Duration::from_secs(60);
        let shared = &self.shared;
        shared.is_awaited.store(true, Ordering::SeqCst);
        let few = |(): &mut ()| shared.submitted.load(Ordering::SeqCst) < count;
        let waited = shared.more.wait_timeout_while(lock(&shared.meeting), minute, few);
        let (_guard, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        shared.is_awaited.store(false, Ordering::SeqCst);
        assert!(
            !timeout.timed_out(),
            "{} of {count} requests were submitted",
            self.submitted()
        );
    }

    /// The first few thousand requests that were submitted.
    pub fn log(&self) -> Vec<Logged> {
        lock(&self.shared.log).clone()
    }

    /// Queues that are open.
    pub fn open_queues(&self) -> u64 {
        self.shared.open_queues.load(Ordering::SeqCst)
    }

    /// The numbers of the queues that were closed so far, in that order.
    pub fn closed_queues(&self) -> Vec<u16> {
        lock(&self.shared.closed_queues).clone()
    }
}

impl Device for MemDevice {
    fn name(&self) -> &str {
        &self.name
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn open_queue(&self, cx: QueueContext<'_>) -> Result<Box<dyn DeviceQueue>, Box<dyn Error + Send + Sync>> {
        if *lock(&self.shared.broken_queue) == Some(cx.index) {
            return Err(format!("queue {} is broken", cx.index).into());
        }
        lock(&self.shared.wakers).push(cx.waker);
        self.shared.open_queues.fetch_add(1, Ordering::SeqCst);
        let depth = cx.depth as usize;
        let background = lock(&self.shared.background).clone();
        let background = background.map(|file| read_byte(cx.io, cx.owner, &file)).transpose()?;
        Ok(Box::new(MemQueue {
            index: cx.index,
            background,
            shared: Arc::clone(&self.shared),
            held: VecDeque::with_capacity(depth),
            done: VecDeque::with_capacity(depth),
        }))
    }
}

impl Shared {
    fn note(&self, request: &Request) {
        let Request { op, flags, range, .. } = *request;
        if self.submitted.load(Ordering::SeqCst) < LOG_MAX {
            lock(&self.log).push(Logged { op, flags, range });
        }
        self.submitted.fetch_add(1, Ordering::SeqCst);
        if self.is_awaited.load(Ordering::SeqCst) {
            drop(lock(&self.meeting));
            self.more.notify_all();
        }
    }
}

/// Begins the reading of a byte; what is to be given back at its end.
fn read_byte(io: &mut dyn OpQueue, owner: Owner, file: &FileHandle) -> Result<(FileSlot, Lease), Errno> {
    let slot = io.add_file(file)?;
    let lease = io.alloc(1).ok_or(Errno::NOMEM)?;
    let action = Action::Read {
        offset: 0,
        data: lease.data(),
    };
    let op = Op {
        token: Token::new(owner, 0),
        file: slot,
        action,
    };
    io.push(op).map_err(|_| Errno::BUSY)?;
    Ok((slot, lease))
}

struct MemQueue {
    index: u16,
    shared: Arc<Shared>,
    background: Option<(FileSlot, Lease)>,
    held: VecDeque<Request>,
    done: VecDeque<Done>,
}

impl fmt::Debug for MemQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemQueue")
            .field("held", &self.held.len())
            .finish_non_exhaustive()
    }
}

impl MemQueue {
    fn run(&mut self, io: &mut dyn OpQueue, request: &Request) -> Result<(), Errno> {
        if let Some((op, errno)) = *lock(&self.shared.fault)
            && op == request.op
        {
            return Err(errno);
        }
        if request.flags.contains(RequestFlags::FAST_ZERO) && self.shared.slow_zeroes.load(Ordering::SeqCst) {
            return Err(Errno::NOTSUP);
        }
        lock(&self.shared.sectors).run(io, request)
    }

    fn end(&mut self, io: &mut dyn OpQueue, request: &Request) {
        let result = self.run(io, request);
        self.done.push_back(Done {
            tag: request.tag,
            result,
        });
    }
}

impl Sectors {
    fn run(&mut self, io: &mut dyn OpQueue, request: &Request) -> Result<(), Errno> {
        if self.bytes.is_empty() || request.range.is_empty() {
            return Ok(());
        }
        let at = usize::try_from(request.range.offset_bytes()).map_err(|_| Errno::INVAL)?;
        let len = usize::try_from(request.range.len_bytes()).map_err(|_| Errno::INVAL)?;
        let bytes = self.bytes.get_mut(at..at + len).ok_or(Errno::INVAL)?;
        let kind = match request.op {
            Operation::Read => {
                io.bytes_mut(request.data).ok_or(Errno::FAULT)?.copy_from_slice(bytes);
                return Ok(());
            }
            Operation::Flush | Operation::Prefetch => return Ok(()),
            Operation::Write => {
                bytes.copy_from_slice(io.bytes(request.data).ok_or(Errno::FAULT)?);
                Kind::Data
            }
            Operation::WriteZeroes if request.flags.contains(RequestFlags::NO_UNMAP) => {
                bytes.fill(0);
                Kind::Zero
            }
            Operation::Discard | Operation::WriteZeroes => {
                bytes.fill(0);
                Kind::Hole
            }
        };
        self.kinds[at >> 9..(at + len) >> 9].fill(kind);
        Ok(())
    }

    fn status(&self, range: SectorRange) -> BlockStatus {
        let start = usize::try_from(range.start().0).expect("a memory device fits into memory");
        let Some(kinds) = self.kinds.get(start..).filter(|kinds| !kinds.is_empty()) else {
            return BlockStatus::data(range.count());
        };
        let run = kinds.iter().take_while(|kind| **kind == kinds[0]).count() as u64;
        BlockStatus {
            count: SectorCount(run.min(range.count().0)),
            is_hole: kinds[0] == Kind::Hole,
            is_zero: kinds[0] != Kind::Data,
        }
    }
}

impl DeviceQueue for MemQueue {
    fn submit(&mut self, pass: &mut Pass<'_>, request: Request) -> Result<(), Busy> {
        let explodes = *lock(&self.shared.bomb) == Some(request.op);
        assert!(!explodes, "{:?} was told to explode", request.op);
        self.shared.note(&request);
        if self.shared.held.load(Ordering::SeqCst) {
            self.held.push_back(request);
        } else {
            self.end(pass.io, &request);
        }
        Ok(())
    }

    fn op_done(&mut self, pass: &mut Pass<'_>, done: OpDone) {
        let (file, lease) = self
            .background
            .take()
            .unwrap_or_else(|| unreachable!("a memory device pushes no ops: {done:?}"));
        pass.io.free(lease);
        pass.io.remove_file(file);
    }

    fn kick(&mut self, pass: &mut Pass<'_>) {
        while !self.shared.held.load(Ordering::SeqCst)
            && let Some(request) = self.held.pop_front()
        {
            self.end(pass.io, &request);
        }
    }

    fn poll_done(&mut self) -> Option<Done> {
        self.done.pop_front()
    }

    fn busy(&self) -> bool {
        false
    }

    fn block_status(&mut self, range: SectorRange) -> BlockStatus {
        lock(&self.shared.sectors).status(range)
    }

    fn cancel(&mut self, _pass: &mut Pass<'_>, tag: Tag) -> CancelOutcome {
        let Some(at) = self.held.iter().position(|request| request.tag == tag) else {
            return CancelOutcome::Unknown;
        };
        self.held.remove(at);
        self.done.push_back(Done {
            tag,
            result: Err(Errno::CANCELED),
        });
        CancelOutcome::NeverStarted
    }

    fn is_idle(&self) -> bool {
        self.held.is_empty() && self.background.is_none()
    }

    fn close(self: Box<Self>, _io: &mut dyn OpQueue) {
        assert!(
            self.held.is_empty() && self.done.is_empty() && self.background.is_none(),
            "a queue is closed when nothing is outstanding"
        );
        lock(&self.shared.closed_queues).push(self.index);
        self.shared.open_queues.fetch_sub(1, Ordering::SeqCst);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
