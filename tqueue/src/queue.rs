//! The queue: takes ops, defers them, plans and issues them, continues what came short, and keeps completions for delivery.

use std::cell::Cell;
use std::collections::VecDeque;
use std::marker::PhantomData;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use iomgr_core::{Errno, OpDone, OpError, Timestamp, Token};

use crate::Error;
use crate::buf::Arena;
use crate::config::QueueInfo;
use crate::counters::Counters;
use crate::driver_buffers::DriverBuffers;
use crate::engine::{Engine, Surroundings, Wait, clock};
use crate::fifo::Fifo;
use crate::files::{FileIndex, Files};
use crate::filter::Chain;
use crate::inflight::{Debt, Entry, Inflight, Key, Stage, Work};
use crate::net::{NetFull, Sends};
use crate::plan::{Plan, PlanOp};
use crate::raw::Commands;
use crate::run::Run;
use crate::stuck::Watch;

/// How an op ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The op's token.
    pub token: Token,
    /// For an op of [`OpQueue`](iomgr_core::OpQueue), `Ok(_)` says that all of it was done. Else what the op's own page says.
    pub result: Result<u32, OpError>,
}

impl Completion {
    /// As a device queue takes it.
    pub fn op_done(self) -> OpDone {
        OpDone {
            token: self.token,
            result: self.result.map(|_| ()),
        }
    }
}

/// A queue of ops on one thread; see the [crate's front page](crate).
///
/// It stays on the thread that made it. Dropping it ends what waits (sockets, polls, timers), waits for what the disk is
/// at, up to [`Config::drain_max`](crate::Config::drain_max), and leaks the ring and the buffers rather than free what the kernel may
/// still write to.
#[derive(Debug)]
pub struct Queue {
    // Drop order: the engine (the ring) goes before the memory that it may reach.
    pub(crate) engine: Engine,
    pub(crate) arena: Arena,
    pub(crate) ops: Inflight,
    /// What sees disk ops come and go, if anything does.
    pub(crate) filters: Option<Box<Chain>>,
    /// Disk ops to be issued, oldest first.
    pub(crate) disk: VecDeque<Key>,
    /// Other ops to be issued, oldest first.
    pub(crate) net: VecDeque<Key>,
    /// Issued ops that are to be cancelled.
    pub(crate) cancels: VecDeque<Key>,
    pub(crate) files: Files,
    pub(crate) drivers: DriverBuffers,
    pub(crate) sends: Sends,
    pub(crate) commands: Commands,
    /// What ended and was not delivered yet.
    pub(crate) done: Fifo<Done>,
    pub(crate) counters: Counters,
    pub(crate) plan: Plan,
    pub(crate) batch: Vec<PlanOp>,
    /// The memory of the merged op that is being issued.
    pub(crate) runs: Vec<Run>,
    pub(crate) load: Load,
    pub(crate) bounds: Bounds,
    pub(crate) watch: Watch,
    /// The time that somebody was told since the last pass.
    pub(crate) told: Cell<Option<Timestamp>>,
    /// The next wait ends for sends as well.
    pub(crate) hurry: bool,
    pub(crate) info: QueueInfo,
    pub(crate) not_send: PhantomData<*mut ()>,
}

/// A completion, and which share of the queue it takes until it is delivered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Done {
    pub(crate) completion: Completion,
    pub(crate) is_disk: bool,
}

/// How much is outstanding.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Load {
    /// Disk ops taken and not delivered.
    pub(crate) disk: u32,
    /// Other ops taken and not delivered.
    pub(crate) net: u32,
    /// Disk ops in the engine.
    pub(crate) disk_issued: u32,
    /// The same with merged ones as one: never more than the queue's size.
    pub(crate) disk_merged: u32,
    /// Other ops in the engine.
    pub(crate) net_issued: u32,
    /// Quiet sends among them.
    pub(crate) quiet: u32,
    /// Is a quiet send on a socket on which nothing is being waited for?
    pub(crate) quiet_alone: bool,
}

/// How much may be outstanding.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) size: u32,
    pub(crate) max_ops: u32,
    pub(crate) net_ops: u32,
    pub(crate) drain_max: Duration,
}

impl Queue {
    /// What the queue turned out to be.
    pub fn info(&self) -> QueueInfo {
        self.info.clone()
    }

    /// Plans and submits what is queued, and reaps what has ended. Waits for nothing.
    pub fn submit(&mut self) -> Result<(), Error> {
        self.hurry = false;
        // What came short goes on at once: nobody might call again for its sake.
        while self.pass(Wait::No)? && self.done.is_empty() {}
        Ok(())
    }

    /// A descriptor that is readable when [`submit`](Self::submit) would reap something: for a thread that sleeps in an event loop
    /// of its own. Let it sleep only after a `submit` that brought no completion; `examples/embed.rs` shows such a loop.
    ///
    /// `None` where the engine has none. By blocking calls, disk ops have ended when `submit` returns, and sockets, polls and
    /// timers need [`submit_and_wait`](Self::submit_and_wait).
    pub fn completion_fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.engine {
            Engine::Ring(ring) => Some(ring.fd()),
            Engine::Sync(_) => None,
            #[cfg(feature = "test-utils")]
            Engine::Sim(_) => None,
        }
    }

    /// Plans and submits what is queued, then waits for a completion, in one system call where it can.
    ///
    /// Returns at once if there is a completion to deliver, or nothing that could end. Returns without a completion when
    /// the time is over or a signal came.
    ///
    /// Sends that go through at once do not end the wait if a receive or a poll is outstanding on their sockets, unless
    /// [`alloc`](iomgr_core::OpQueue::alloc) found no memory since the last wait, or [`wake_for_sends`](Self::wake_for_sends) was
    /// called: a thread that holds anything back until a send is done must say so.
    pub fn submit_and_wait(&mut self, timeout: Option<Duration>) -> Result<(), Error> {
        let deadline = timeout.map(|time| self.now() + time);
        let mut wait = timeout.map_or(Wait::Forever, Wait::AtMost);
        // Entries without a completion (a transfer that came short, a cancel) do not end the wait.
        while self.pass(wait)? && self.done.is_empty() {
            if let Some(deadline) = deadline {
                wait = Wait::AtMost(deadline.since(self.now()));
            }
        }
        self.hurry = false;
        Ok(())
    }

    /// Lets the next [`submit_and_wait`](Self::submit_and_wait) end for a send that went through, whatever else is going
    /// on. Call it while something is held back that a finished send would free.
    pub fn wake_for_sends(&mut self) {
        self.hurry = true;
    }

    /// The next completion. `None` when all that were reaped are delivered; submit to reap more.
    #[inline]
    pub fn next_completion(&mut self) -> Option<Completion> {
        let Done { completion, is_disk } = self.done.pop()?;
        if is_disk {
            self.load.disk -= 1;
        } else {
            self.load.net -= 1;
        }
        Some(completion)
    }

    /// The time: `CLOCK_MONOTONIC`, or the simulation's.
    pub fn now(&self) -> Timestamp {
        let now = self.engine.now();
        self.told.set(Some(now));
        now
    }

    /// Is nothing outstanding and nothing to be delivered?
    pub fn is_idle(&self) -> bool {
        self.load.disk == 0 && self.load.net == 0
    }

    /// What was counted so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// One round: issue, enter, reap. True: something was reaped, or there is more to issue.
    fn pass(&mut self, wait: Wait) -> Result<bool, Error> {
        self.watch();
        self.fill();
        let wait = self.how_to_wait(wait);
        let (wait, cut) = self.set_alarm(wait);
        let Self {
            engine,
            arena,
            files,
            sends,
            counters,
            runs,
            ..
        } = self;
        let on = &mut Surroundings {
            arena,
            files,
            sends,
            counters,
            runs,
        };
        engine.enter(wait, on)?;
        Ok(self.reap() || cut)
    }

    /// Issues what may go now.
    pub(crate) fn fill(&mut self) {
        // Quiet sends that the kernel has not even seen yet still count.
        self.load.quiet_alone &= self.load.quiet > 0;
        while let Some(&key) = self.cancels.front() {
            if !self.engine.cancel(key) {
                return;
            }
            self.cancels.pop_front();
        }
        self.fill_commands();
        while let Some(key) = self.net.pop_front() {
            if !self.issue(key) {
                return self.net.push_front(key);
            }
        }
        self.fill_disk();
    }

    fn fill_disk(&mut self) {
        let before = self.load.disk_issued;
        self.take_batch();
        if self.batch.is_empty() {
            return;
        }
        self.plan.make(&self.batch);
        let all = (0..self.plan.len()).all(|at| self.load.disk_merged < self.bounds.size && self.issue_group(at));
        if !all {
            self.put_back();
        }
        if self.load.disk_issued > before {
            self.watch.issues();
        }
        let (ops, merged) = (self.load.disk_issued.into(), self.load.disk_merged.into());
        self.counters.max_in_kernel = self.counters.max_in_kernel.max(merged);
        self.counters.max_ops_in_kernel = self.counters.max_ops_in_kernel.max(ops);
    }

    /// Takes as many ops as the kernel may get, and of those behind them what only goes on where the last one ends.
    fn take_batch(&mut self) {
        self.batch.clear();
        let room = (self.bounds.size - self.load.disk_merged) as usize;
        let most = room.saturating_mul(self.plan.limits().max_segments as usize);
        for &key in self.disk.iter().take(most) {
            let op = self.ops.at(key).plan_op(key);
            if self.batch.len() >= room && !self.batch.last().is_some_and(|last| op.continues(last)) {
                break;
            }
            self.batch.push(op);
        }
        self.disk.drain(..self.batch.len());
    }

    /// Puts what was not issued back to the front, in its order.
    fn put_back(&mut self) {
        for op in self.batch.iter().rev() {
            if self.ops.get(op.key).is_some_and(|entry| entry.stage == Stage::Queued) {
                self.disk.push_front(op.key);
            }
        }
    }

    /// Waits only for what is certain to come: never for a quiet send's entry, and not at all if somebody needs to know
    /// about one.
    fn how_to_wait(&mut self, wait: Wait) -> Wait {
        let issued = self.load.disk_issued + self.load.net_issued;
        let starved = self.arena.take_starved();
        let hurry = self.load.quiet > 0 && (self.hurry || self.load.quiet_alone || starved);
        if hurry || issued == self.load.quiet || !self.done.is_empty() {
            Wait::No
        } else {
            wait
        }
    }

    fn reap(&mut self) -> bool {
        let cqes = self.counters.cqes;
        let mut any = false;
        while let Some(outcome) = self.engine.next_outcome(&mut self.counters) {
            any = true;
            self.settle(outcome);
        }
        any || self.counters.cqes > cqes
    }

    /// Queues a completion for delivery.
    pub(crate) fn complete(&mut self, token: Token, result: Result<u32, OpError>, is_disk: bool) {
        self.counters.completed += 1;
        if let Err(error) = result {
            self.counters.failed += 1;
            self.counters.never_started += u64::from(error == OpError::NeverStarted);
        }
        let completion = Completion { token, result };
        self.done.push(Done { completion, is_disk });
    }

    /// Takes a place for a socket, poll or timer op.
    pub(crate) fn net_room(&mut self) -> Result<(), NetFull> {
        if self.load.net >= self.bounds.net_ops {
            self.counters.handed_back += 1;
            return Err(NetFull);
        }
        Ok(())
    }

    /// Ends an op that cannot be.
    pub(crate) fn refuse_net(&mut self, token: Token, errno: Errno) -> Result<(), NetFull> {
        self.counters.pushed += 1;
        self.load.net += 1;
        self.complete(token, Err(OpError::Os(errno)), false);
        Ok(())
    }

    /// Ends a use of a file, and forgets the file if that was asked for.
    pub(crate) fn file_done(&mut self, index: FileIndex) {
        if self.files.done(index) {
            self.forget(index);
        }
    }

    pub(crate) fn forget(&mut self, index: FileIndex) {
        self.tell_of_forgotten(self.files.slot(index));
        if self.files[index].registered {
            self.engine.unregister_file(index);
        }
        self.files.forget(index);
    }

    /// Ends an op that no engine has seen, or whose engine is through with it.
    pub(crate) fn end(&mut self, key: Key, result: Result<u32, OpError>) {
        let Some(result) = self.leave_filters(key, result) else {
            return;
        };
        let entry = self.ops.at(key);
        let result = match (entry.debt.take(), entry.stuck) {
            (None, false) => result,
            (debt, _) => self.end_oddity(key, debt, result),
        };
        let &Entry {
            token,
            work,
            file,
            held,
            ..
        } = self.ops.remove(key);
        if let Some(held) = held {
            self.arena.release(held);
        }
        if let Work::SendMany { slot } = work {
            self.sends.release(slot, &mut self.arena);
        }
        if let Some(file) = file {
            if let Work::Recv { .. } | Work::Poll { .. } = work {
                self.files[file].listens -= 1;
            }
            self.file_done(file);
        }
        self.complete(token, result, work.is_disk());
    }

    /// The result of an op that was in debt, or stuck.
    #[cold]
    fn end_oddity(&mut self, key: Key, debt: Option<Debt>, result: Result<u32, OpError>) -> Result<u32, OpError> {
        let result = debt.map_or(result, |debt| self.settle_debt(debt, result));
        let entry = *self.ops.at(key);
        if entry.stuck {
            self.stuck_op_ended(&entry, result);
        }
        result
    }
}

/// The time on the clock that real engines use, for those who have no queue at hand.
pub fn monotonic_now() -> Timestamp {
    clock()
}
