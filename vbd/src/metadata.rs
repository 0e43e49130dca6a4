//! Runs a dynamic image's allocator on queue 0's thread: takes wishes from all queues, does its steps, sends answers back.
//!
//! Data never comes here: a queue asks for a block, gets its answer, and writes the data itself.

mod again;
mod second;

use std::collections::VecDeque;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};
use iomgr_core::{Action, Errno, FileSlot, Lease, Op, OpQueue, Owner, Pass, QueueContext, Tag, Timestamp, Waker};
use slab::Slab;
use vhd::{Allocator, Step, StepAction, StepId};

use crate::generation::Shared;
use crate::layout::Owned;
use crate::queue::{ALLOCATOR_LANE, Answer, Message, Neighbours, lease_all, step_token};
use crate::{Error, ErrorKind};
use again::DelayedStep;
pub(crate) use second::SecondChances;

/// What a queue wishes for a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    /// Space, so that any of its sectors can be written.
    Allocate,
    /// To be rid of it: zeros.
    Release,
}

/// A wish, and who waits for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wish {
    pub(crate) queue: u16,
    pub(crate) tag: Tag,
    pub(crate) want: Want,
    pub(crate) block: u64,
}

impl Wish {
    fn cookie(self) -> u64 {
        u64::from(self.queue) << 32 | u64::from(self.tag.0)
    }
}

/// Who waits, by its wish's cookie.
fn waiter(cookie: u64) -> (u16, Tag) {
    let queue = u16::try_from(cookie >> 32).expect("made of a queue and a tag");
    (
        queue,
        Tag(u32::try_from(cookie & u64::from(u32::MAX)).expect("masked to 32 bits")),
    )
}

/// Buffers that steps share; more steps wait for one to come free.
const STEP_BUFFERS: usize = 8;

/// See the module.
#[derive(Debug)]
pub(crate) struct Metadata {
    owned: Owned,
    shared: Arc<Shared>,
    flush: FlushStep,
    neighbours: Neighbours,
    inbox: Receiver<Message>,
    peers: Box<[Option<Peer>]>,
    second_chances: SecondChances,
    /// Answers for queue 0 itself.
    ready: VecDeque<Answer>,
    steps: Slab<Running>,
    /// Those of them that wait to be done again.
    delayed: usize,
    /// A step that found no room.
    held: Option<Step>,
    /// May there be anything to do? Most requests, to mapped blocks, come and go without.
    stirred: bool,
    buffers: Vec<Lease>,
    file: FileSlot,
    owner: Owner,
}

#[derive(Debug)]
struct Peer {
    answers: Sender<Answer>,
    waker: Waker,
}

/// How far the flush step is. There is one at a time, as it has one lane on the board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FlushStep {
    /// There is none.
    Idle,
    /// Its op is under way.
    Running,
    /// Its op has ended; other lanes may have a word to say.
    Ended(StepId),
}

/// A step that is under way.
#[derive(Debug)]
struct Running {
    step: Step,
    buffer: Option<Lease>,
    /// What was asked of the queue for it.
    action: Action,
    /// When it began.
    since: Timestamp,
    /// Times that it was done again.
    again: u32,
    delayed: Option<DelayedStep>,
}

impl Metadata {
    /// The memory for steps, of the thread's queue.
    pub(crate) fn buffers(io: &mut dyn OpQueue) -> Result<Vec<Lease>, Error> {
        let bytes = u32::try_from(Allocator::STEP_BYTES_MAX).expect("steps are short");
        lease_all(io, STEP_BUFFERS, bytes)
            .ok_or_else(|| Error::new(ErrorKind::Queue, "the queue has no memory for the allocator"))
    }

    pub(crate) fn new(
        owned: Owned,
        shared: Arc<Shared>,
        inbox: Receiver<Message>,
        file: FileSlot,
        buffers: Vec<Lease>,
        second_chances: SecondChances,
        cx: &QueueContext<'_>,
    ) -> Self {
        Self {
            owned,
            shared,
            flush: FlushStep::Idle,
            neighbours: Neighbours::new(),
            inbox,
            second_chances,
            peers: (0..cx.count).map(|_| None).collect(),
            ready: VecDeque::with_capacity(cx.depth as usize),
            steps: Slab::with_capacity(Allocator::STEPS_MAX),
            delayed: 0,
            held: None,
            stirred: true,
            buffers,
            file,
            owner: cx.owner,
        }
    }

    /// Takes a wish.
    pub(crate) fn wish(&mut self, wish: Wish) {
        self.second_chances.note(wish);
        self.pass_on(wish);
        self.stir();
    }

    /// May there be anything to do?
    pub(crate) fn is_stirred(&self) -> bool {
        self.stirred
    }

    /// Does a step wait for room, and none run whose end would make some?
    pub(crate) fn lacks_room(&self) -> bool {
        self.held.is_some() && self.steps.is_empty()
    }

    /// There may be news: from other threads, or of ops that have ended.
    pub(crate) fn stir(&mut self) {
        self.stirred = true;
    }

    fn pass_on(&mut self, wish: Wish) {
        let taken = match wish.want {
            Want::Allocate => self.owned.allocator.want(wish.block, wish.cookie()),
            Want::Release => self.owned.allocator.release(wish.block, wish.cookie()),
        };
        taken.expect("the allocator has room for a wish of every request");
    }

    /// Goes as far as possible; then the next request of queue 0 that can go on.
    pub(crate) fn next_ready(&mut self, pass: &mut Pass<'_>) -> Option<Answer> {
        let answer = self.work(pass);
        self.stirred = answer.is_some() || self.is_waiting();
        answer
    }

    /// Does anything wait for what nobody tells us of: room in the queue, or the end of other requests?
    fn is_waiting(&self) -> bool {
        let flush_ended = matches!(self.flush, FlushStep::Ended(_));
        self.held.is_some() || flush_ended || !self.second_chances.is_empty() || self.owned.allocator.awaits_reuse()
    }

    fn work(&mut self, pass: &mut Pass<'_>) -> Option<Answer> {
        self.settle_flush();
        self.retry_delayed(pass);
        self.read_inbox();
        self.go_on(pass);
        while let Some(wish) = self.second_chances.next_due() {
            self.pass_on(wish);
            self.go_on(pass);
        }
        self.ready.pop_front()
    }

    fn go_on(&mut self, pass: &mut Pass<'_>) {
        self.run_steps(pass);
        self.send_answers();
    }

    fn read_inbox(&mut self) {
        while let Ok(message) = self.inbox.try_recv() {
            match message {
                Message::Join(join) => {
                    self.peers[usize::from(join.queue)] = Some(Peer {
                        answers: join.answers,
                        waker: join.waker,
                    });
                }
                Message::Wish(wish) => self.wish(wish),
            }
        }
    }

    fn run_steps(&mut self, pass: &mut Pass<'_>) {
        while let Some(step) = self.held.take().or_else(|| self.owned.allocator.poll_step()) {
            if let Err(step) = self.start(pass, step) {
                self.held = Some(step);
                return;
            }
        }
    }

    /// Starts a step, or hands it back for want of room.
    fn start(&mut self, pass: &mut Pass<'_>, step: Step) -> Result<(), Step> {
        let is_flush = matches!(step.action, StepAction::Flush);
        if self.steps.len() == self.steps.capacity() || (is_flush && self.flush != FlushStep::Idle) {
            return Err(step);
        }
        let buffer = match step.action {
            StepAction::Write { .. } | StepAction::Read { .. } => Some(self.buffers.pop().ok_or(step)?),
            StepAction::Zero { .. } | StepAction::Flush => None,
        };
        let action = self.action(pass, step, buffer.as_ref());
        let index = self.steps.insert(Running {
            step,
            buffer,
            action,
            since: pass.now,
            again: 0,
            delayed: None,
        });
        let token = step_token(self.owner, u32::try_from(index).expect("few steps run at once"));
        match pass.io.push(Op {
            token,
            file: self.file,
            action,
        }) {
            Ok(()) => {
                if is_flush {
                    self.flush = FlushStep::Running;
                    self.shared.flush_board.begin(ALLOCATOR_LANE);
                }
                Ok(())
            }
            Err(_) => {
                let running = self.steps.remove(index);
                self.buffers.extend(running.buffer);
                Err(step)
            }
        }
    }

    fn action(&mut self, pass: &mut Pass<'_>, step: Step, buffer: Option<&Lease>) -> Action {
        let data = |len: usize| {
            let buffer = buffer.expect("transfers have a buffer");
            buffer.data().slice(0, u32::try_from(len).expect("steps are short"))
        };
        match step.action {
            StepAction::Read { offset, len } => Action::Read {
                offset,
                data: data(len),
            },
            StepAction::Write { offset, len } => {
                let data = data(len);
                self.owned
                    .allocator
                    .fill(step.id, pass.io.bytes_mut(data).expect("the buffer is free"));
                Action::Write {
                    offset,
                    data,
                    durable: false,
                }
            }
            StepAction::Zero { offset, len, unmap } => Action::WriteZeroes {
                offset,
                len,
                unmap,
                fast: false,
            },
            StepAction::Flush => Action::Flush,
        }
    }

    /// A step's op has ended.
    pub(crate) fn step_done(&mut self, pass: &mut Pass<'_>, index: u32, result: Result<(), Errno>) {
        let index = index as usize;
        if let Err(errno) = result
            && self.put_off(pass.now, index, errno)
        {
            return;
        }
        let Running { step, buffer, .. } = &self.steps[index];
        if let (StepAction::Read { len, .. }, Ok(()), Some(buffer)) = (step.action, result, &buffer) {
            let bytes = pass.io.bytes(buffer.data()).expect("the read has ended");
            self.owned.allocator.read_done(step.id, &bytes[..len]);
        }
        self.end_step(index, result);
    }

    fn end_step(&mut self, index: usize, result: Result<(), Errno>) {
        self.stir();
        let Running { step, buffer, .. } = self.steps.remove(index);
        self.buffers.extend(buffer);
        if matches!(step.action, StepAction::Flush) {
            self.flush_ended(step.id, result);
        } else {
            self.owned.allocator.step_done(step.id, result);
        }
    }

    fn flush_ended(&mut self, step: StepId, result: Result<(), Errno>) {
        // Noted before the board hears of the end: whoever waits for this flush sees the failure.
        if let Err(errno) = result {
            self.shared.fail(errno);
        }
        self.shared.flush_board.end(ALLOCATOR_LANE);
        self.neighbours.look_around(&self.shared.flush_board);
        self.flush = FlushStep::Ended(step);
    }

    /// Tells the allocator how its flush ended, once that is certain.
    fn settle_flush(&mut self) {
        if let FlushStep::Ended(step) = self.flush
            && self.neighbours.have_spoken(&self.shared.flush_board)
        {
            self.flush = FlushStep::Idle;
            self.owned.allocator.step_done(step, self.shared.flush_verdict());
        }
    }

    fn send_answers(&mut self) {
        while let Some(event) = self.owned.allocator.poll_event() {
            let (queue, tag) = waiter(event.cookie);
            if event.result == Err(Errno::NOSPC) && self.second_chances.put_off(queue, tag) {
                self.peers.iter().flatten().for_each(|peer| peer.waker.wake());
                continue;
            }
            match &self.peers[usize::from(queue)] {
                None => self.ready.push_back((tag, event.result)),
                Some(peer) => {
                    // Its channel has room for an answer to each of its requests; a queue that is gone needs none.
                    let _ = peer.answers.try_send((tag, event.result));
                    peer.waker.wake();
                }
            }
        }
    }

    pub(crate) fn flush_started(&mut self) -> u64 {
        self.owned.allocator.flush_started()
    }

    pub(crate) fn flush_done(&mut self, ticket: u64, result: Result<(), Errno>) {
        self.owned.allocator.flush_done(ticket, result);
        self.stir();
    }

    /// Are steps under way or waiting for room?
    pub(crate) fn is_working(&self) -> bool {
        !self.steps.is_empty() || self.held.is_some() || self.flush != FlushStep::Idle
    }

    /// Gives the allocator back.
    pub(crate) fn close(mut self, io: &mut dyn OpQueue) -> Owned {
        // The other queues are closed, so nothing holds it up any more.
        self.settle_flush();
        self.buffers.into_iter().for_each(|buffer| io.free(buffer));
        self.owned
    }
}
