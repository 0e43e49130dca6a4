//! One thread's queue of a disk: it serves whatever image is behind the disk, and holds requests while there is none.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};

use iomgr_core::{
    BlockStatus, Busy, CancelOutcome, DeviceQueue, Done, Errno, OpDone, OpQueue, Owner, Pass, QueueContext, Request,
    SectorRange, Tag, Timestamp, Waker,
};

use super::Stable;
use crate::error::{Error, ErrorKind};
use crate::generation::Shared;
use crate::queue::{ALLOCATOR_LANE, DiskQueue};
use crate::stats::QueueStats;

/// One thread's queue of a disk, over whatever generation is current.
#[derive(Debug)]
pub(crate) struct StableQueue {
    stable: Arc<Stable>,
    seat: Seat,
    /// What it serves: nothing while the door is shut, or where the queue could not be opened.
    serving: Option<(DiskQueue, Arc<Shared>)>,
    /// The turn of the door that this is about.
    turn: u64,
    /// The turn of the door at which a request was late.
    late: u64,
    stats: QueueStats,
    /// Accepted and not ended, by the generation that is served.
    in_flight: u32,
    /// Requests that came while there was no generation to serve them.
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
        if usize::from(index) >= ALLOCATOR_LANE {
            let what = format!("a disk has at most {ALLOCATOR_LANE} queues");
            return Err(Error::new(ErrorKind::Queue, what));
        }
        let seat = Seat {
            index,
            count,
            owner,
            depth,
            waker,
        };
        let mut queue = Self {
            serving: None,
            // Not this turn: it has not entered yet.
            turn: stable.turn().wrapping_sub(1),
            late: stable.turn(),
            stats: QueueStats::new(),
            in_flight: 0,
            held: VecDeque::with_capacity(depth as usize),
            failed: VecDeque::with_capacity(depth as usize),
            seat,
            stable,
        };
        queue.sit_down(io)?;
        let mut stats = queue.stable.stats.lock().unwrap_or_else(PoisonError::into_inner);
        stats.push(queue.stats.clone());
        drop(stats);
        Ok(queue)
    }

    /// Takes the seat, and enters if the door is open; a paused disk is entered when it is resumed.
    fn sit_down(&mut self, io: &mut dyn OpQueue) -> Result<(), Error> {
        // Seated first: who finds the door shut shall be woken when it opens.
        let before = self.stable.seats().insert(self.seat.index, self.seat.waker.clone());
        self.enter(io).inspect_err(|_| {
            let mut seats = self.stable.seats();
            match before {
                Some(other) => seats.insert(self.seat.index, other),
                None => seats.remove(&self.seat.index),
            };
        })
    }

    fn is_current(&self) -> bool {
        self.turn == self.stable.turn()
    }

    /// Was the door shut while a request was on its way here? Managers count it as begun, so it had better not wait for
    /// the next image. One for each time that the door is shut, for [`busy`](DeviceQueue::busy) keeps others out from then on.
    fn is_late(&mut self) -> bool {
        let turn = self.stable.turn();
        self.serving.is_some() && std::mem::replace(&mut self.late, turn) != turn
    }

    /// Goes where the door is, as far as that is possible now.
    fn go_over(&mut self, pass: &mut Pass<'_>) {
        self.stay();
        if self.serving.is_some() && !self.is_current() {
            self.take_back(pass);
            self.leave(pass.io);
        }
        if self.serving.is_none() && !self.is_current() {
            self.enter_at(pass);
        }
        if self.is_current() {
            while let Some(request) = self.held.pop_front() {
                self.begin(pass, request);
            }
        } else if self.stable.is_given_up() {
            while let Some(request) = self.held.pop_front() {
                self.refuse(request.tag, Errno::SHUTDOWN);
            }
        }
    }

    /// An image that could not be taken away in time is served on by who has not left it.
    fn stay(&mut self) {
        let turn = self.stable.turn();
        if self.serving.is_some() && turn.is_multiple_of(2) {
            self.turn = turn;
        }
    }

    /// What waits to be tried again may as well be tried on the next image.
    fn take_back(&mut self, pass: &mut Pass<'_>) {
        let Some((queue, _)) = &mut self.serving else { return };
        while let Some(request) = queue.take_back(pass) {
            self.in_flight -= 1;
            self.held.push_back(request);
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
        generation.attendance.leave(self.seat.index == 0);
        // Queue 0 may be waiting for us.
        self.stable.wake_all();
    }

    /// The same as [`enter`](Self::enter); where it fails, requests fail until the next generation.
    fn enter_at(&mut self, pass: &mut Pass<'_>) {
        if let Err(error) = self.enter(pass.io) {
            tracing::error!(disk = self.stable.name, queue = self.seat.index, %error, "generation_refused");
        }
        if let Some((queue, _)) = &mut self.serving {
            queue.count_from(pass.now);
        }
    }

    /// Enters the current generation, if the door is open and it is our turn.
    fn enter(&mut self, io: &mut dyn OpQueue) -> Result<(), Error> {
        let _door = self.stable.door.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = self.stable.turn();
        let Some(generation) = self.stable.image().filter(|_| turn.is_multiple_of(2)) else {
            return Ok(());
        };
        let is_first = self.seat.index == 0;
        if !is_first && generation.attendance.awaits_first() && self.stable.seats().contains_key(&0) {
            return Ok(());
        }
        self.turn = turn;
        let entered = self.seat.enter(&generation, &self.stats, io);
        if is_first {
            generation.attendance.first_is_through();
            self.stable.wake_all();
        }
        self.serving = Some((entered?, generation));
        Ok(())
    }

    fn begin(&mut self, pass: &mut Pass<'_>, request: Request) {
        let Some((queue, _)) = &mut self.serving else {
            self.refuse(request.tag, Errno::IO);
            return;
        };
        self.in_flight += 1;
        queue
            .submit(pass, request)
            .expect("a disk's queue takes a request for every tag");
    }

    fn refuse(&mut self, tag: Tag, errno: Errno) {
        let result = Err(errno);
        self.failed.push_back(Done { tag, result });
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
        if self.is_current() || self.is_late() {
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

    fn wake_at(&self) -> Option<Timestamp> {
        self.serving.as_ref().and_then(|(queue, _)| queue.wake_at())
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

    /// While there is no image requests had better wait where managers do not count them as begun.
    fn busy(&self) -> bool {
        !self.is_current() && !self.stable.is_given_up()
    }

    /// While images are exchanged, nothing is known.
    fn block_status(&mut self, range: SectorRange) -> BlockStatus {
        let is_current = self.is_current();
        match &mut self.serving {
            Some((queue, _)) if is_current => queue.block_status(range),
            _ => BlockStatus::data(range.count()),
        }
    }

    fn note_settled(&mut self, request: &Request, now: Timestamp) {
        let sectors = request.range.count().0;
        let latency_ns = now.since_ns(request.arrival);
        self.stats.record(request.op, sectors, true, latency_ns);
    }

    fn cancel(&mut self, pass: &mut Pass<'_>, tag: Tag) -> CancelOutcome {
        if let Some(at) = self.held.iter().position(|request| request.tag == tag) {
            self.held.remove(at);
            self.refuse(tag, Errno::CANCELED);
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
        self.stable.seats().remove(&self.seat.index);
        if let Some((queue, generation)) = self.serving.take() {
            Box::new(queue).close(io);
            generation.attendance.leave(self.seat.index == 0);
            self.stable.wake_all();
        }
    }
}
