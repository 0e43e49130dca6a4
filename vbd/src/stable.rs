//! What stays of a disk whatever image is behind it: its name, its seats on the queue threads, its statistics.
//!
//! The image is a *generation*, and can be replaced while requests come: each queue lets what it began end on the old one,
//! holds what comes meanwhile, and goes over to the new one.
//!
//! ```text
//!  queue 1…n:  drain ─► leave the old ────────────┐                   ┌─► enter the new ─► what was held
//!  queue 0:    drain ─────────── the others left? ┴─► leave, enter ───┘
//!  replace():  publish the new, wake all ……………………… everybody has left ─► close the old cleanly
//! ```
//!
//! Queue 0 has the allocator, which the others use to the end of their requests: so it leaves last and enters first.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use iomgr_core::{
    Busy, CancelOutcome, DeviceQueue, Done, Errno, OpDone, OpQueue, Owner, Pass, QueueContext, Request, Tag, Waker,
};

use crate::disk::Shared;
use crate::error::{Error, ErrorKind};
use crate::queue::DiskQueue;
use crate::stats::{QueueStats, Stats};

/// See the module.
#[derive(Debug)]
pub(crate) struct Stable {
    pub(crate) name: String,
    current: ArcSwap<Shared>,
    /// Moves with the generation; queues look at it before each request.
    number: AtomicU64,
    /// One replacement at a time.
    replacing: Mutex<()>,
    seats: Mutex<Vec<Waker>>,
    stats: Mutex<Vec<QueueStats>>,
}

/// Which queues serve a generation.
#[derive(Debug, Default)]
pub(crate) struct Attendance {
    count: Mutex<u32>,
    left: Condvar,
    /// Has queue 0 entered, so that others may?
    first: AtomicBool,
}

impl Attendance {
    fn enter(&self, is_first: bool) {
        *self.count.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.first.fetch_or(is_first, Ordering::AcqRel);
    }

    fn leave(&self) {
        *self.count.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.left.notify_all();
    }

    fn count(&self) -> u32 {
        *self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Blocks until no queue serves the generation any more; says whether that came to pass in time.
    fn wait(&self, timeout: Duration) -> bool {
        let count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.left.wait_timeout_while(count, timeout, |count| *count > 0);
        *waited.unwrap_or_else(PoisonError::into_inner).0 == 0
    }
}

impl Stable {
    pub(crate) fn new(generation: Shared) -> Self {
        Self {
            name: generation.name.clone(),
            current: ArcSwap::from_pointee(generation),
            number: AtomicU64::new(0),
            replacing: Mutex::default(),
            seats: Mutex::default(),
            stats: Mutex::default(),
        }
    }

    /// What is behind the disk now.
    pub(crate) fn generation(&self) -> Arc<Shared> {
        self.current.load_full()
    }

    pub(crate) fn stats(&self) -> Stats {
        Stats::sum(&self.stats.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts `next` behind the disk, and gives back what was there, when no queue serves it any more.
    ///
    /// When queues do not leave the old one in time (a request on it does not end), the new one is in place all the same,
    /// and the old one is left as a crash would leave it.
    pub(crate) fn replace(&self, next: Shared, timeout: Duration) -> Result<Arc<Shared>, Error> {
        let _alone = self.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        let deadline = Instant::now() + timeout;
        let old = self.current.swap(Arc::new(next));
        self.number.fetch_add(1, Ordering::AcqRel);
        self.wake_all();
        match old.attendance.wait(deadline.saturating_duration_since(Instant::now())) {
            true => Ok(old),
            false => Err(Error::new(
                ErrorKind::Io,
                "requests on the replaced image do not end; it is not closed cleanly before they do",
            )),
        }
    }

    fn wake_all(&self) {
        let seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
        seats.iter().for_each(Waker::wake);
    }
}

/// One thread's queue of a disk, over whatever generation is current.
#[derive(Debug)]
pub(crate) struct StableQueue {
    stable: Arc<Stable>,
    seat: Seat,
    /// What it serves, and the number by which it knows that this is current; nothing between two generations.
    serving: Option<(DiskQueue, Arc<Shared>)>,
    number: u64,
    stats: QueueStats,
    /// Accepted and not ended, by the generation that is served.
    in_flight: u32,
    /// Requests that came while the old generation was being left.
    held: VecDeque<Request>,
    /// Requests that no generation could be opened for.
    failed: VecDeque<Done>,
}

/// What it takes to open a queue again.
#[derive(Clone, Debug)]
struct Seat {
    index: u16,
    count: u16,
    owner: Owner,
    depth: u32,
    waker: Waker,
}

impl StableQueue {
    pub(crate) fn open(stable: Arc<Stable>, cx: QueueContext<'_>) -> Result<Self, Error> {
        let QueueContext {
            index,
            count,
            owner,
            depth,
            waker,
            io,
        } = cx;
        let seat = Seat {
            index,
            count,
            owner,
            depth,
            waker,
        };
        let stats = QueueStats::new();
        let number = stable.number.load(Ordering::Acquire);
        let generation = stable.generation();
        let serving = seat.enter(&generation, &stats, io)?;
        stable
            .seats
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(seat.waker.clone());
        stable
            .stats
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(stats.clone());
        Ok(Self {
            stable,
            serving: Some((serving, generation)),
            number,
            stats,
            in_flight: 0,
            held: VecDeque::with_capacity(depth as usize),
            failed: VecDeque::with_capacity(depth as usize),
            seat,
        })
    }

    fn is_current(&self) -> bool {
        self.number == self.stable.number.load(Ordering::Acquire)
    }

    /// Goes over to the current generation, as far as that is possible now.
    fn go_over(&mut self, pass: &mut Pass<'_>) {
        if self.serving.is_some() && !self.is_current() {
            self.leave(pass.io);
        }
        if self.serving.is_none() && self.enter(pass.io) {
            while let Some(request) = self.held.pop_front() {
                self.begin(pass, request);
            }
        }
    }

    fn leave(&mut self, io: &mut dyn OpQueue) {
        let Some((queue, generation)) = self.serving.take() else {
            return;
        };
        let is_last = self.seat.index > 0 || generation.attendance.count() == 1;
        if self.in_flight > 0 || !queue.is_idle() || !is_last {
            self.serving = Some((queue, generation));
            return;
        }
        Box::new(queue).close(io);
        generation.attendance.leave();
        drop(generation);
        // Queue 0 may be waiting for us.
        self.stable.wake_all();
    }

    /// Enters the current generation; false while it is not our turn.
    fn enter(&mut self, io: &mut dyn OpQueue) -> bool {
        let number = self.stable.number.load(Ordering::Acquire);
        let generation = self.stable.generation();
        if self.seat.index > 0 && !generation.attendance.first.load(Ordering::Acquire) {
            return false;
        }
        match self.seat.enter(&generation, &self.stats, io) {
            Ok(queue) => self.serving = Some((queue, generation)),
            Err(error) => {
                tracing::error!(disk = self.stable.name, %error, "generation_refused: requests fail until the next one");
                let held = self.held.drain(..);
                self.failed.extend(held.map(|request| Done {
                    tag: request.tag,
                    result: Err(Errno::IO),
                }));
                return false;
            }
        }
        self.number = number;
        if self.seat.index == 0 {
            self.stable.wake_all();
        }
        true
    }

    fn begin(&mut self, pass: &mut Pass<'_>, request: Request) {
        let (queue, _) = self.serving.as_mut().expect("only a served generation begins requests");
        self.in_flight += 1;
        queue
            .submit(pass, request)
            .expect("a disk's queue takes a request for every tag");
    }
}

impl Seat {
    fn enter(&self, generation: &Arc<Shared>, stats: &QueueStats, io: &mut dyn OpQueue) -> Result<DiskQueue, Error> {
        let Self {
            index,
            count,
            owner,
            depth,
            ref waker,
        } = *self;
        let cx = QueueContext {
            index,
            count,
            owner,
            depth,
            waker: waker.clone(),
            io,
        };
        let queue = DiskQueue::open(Arc::clone(generation), stats.clone(), cx)?;
        generation.attendance.enter(index == 0);
        Ok(queue)
    }
}

impl DeviceQueue for StableQueue {
    fn submit(&mut self, pass: &mut Pass<'_>, request: Request) -> Result<(), Busy> {
        if self.serving.is_some() && self.is_current() {
            self.begin(pass, request);
        } else {
            self.held.push_back(request);
            self.go_over(pass);
        }
        Ok(())
    }

    fn op_done(&mut self, pass: &mut Pass<'_>, done: OpDone) {
        let (queue, _) = self
            .serving
            .as_mut()
            .expect("a generation is left when its ops have ended");
        queue.op_done(pass, done);
        if !self.is_current() {
            self.go_over(pass);
        }
    }

    fn kick(&mut self, pass: &mut Pass<'_>) {
        if let Some((queue, _)) = &mut self.serving {
            queue.kick(pass);
        }
        self.go_over(pass);
    }

    fn poll_done(&mut self) -> Option<Done> {
        if let Some(done) = self.failed.pop_front() {
            return Some(done);
        }
        let done = self.serving.as_mut()?.0.poll_done()?;
        self.in_flight -= 1;
        if self.in_flight == 0 && !self.is_current() {
            // Nothing else may happen on this thread that would let us go over.
            self.seat.waker.wake();
        }
        Some(done)
    }

    fn busy(&self) -> bool {
        false
    }

    fn cancel(&mut self, pass: &mut Pass<'_>, tag: Tag) -> CancelOutcome {
        if let Some(at) = self.held.iter().position(|request| request.tag == tag) {
            self.held.remove(at);
            self.failed.push_back(Done {
                tag,
                result: Err(Errno::CANCELED),
            });
            return CancelOutcome::NeverStarted;
        }
        match &mut self.serving {
            Some((queue, _)) => queue.cancel(pass, tag),
            None => CancelOutcome::Unknown,
        }
    }

    fn is_idle(&self) -> bool {
        let is_serving_idle = self.serving.as_ref().is_none_or(|(queue, _)| queue.is_idle());
        self.held.is_empty() && self.failed.is_empty() && is_serving_idle
    }

    fn close(mut self: Box<Self>, io: &mut dyn OpQueue) {
        if let Some((queue, generation)) = self.serving.take() {
            Box::new(queue).close(io);
            generation.attendance.leave();
            self.stable.wake_all();
        }
    }
}
