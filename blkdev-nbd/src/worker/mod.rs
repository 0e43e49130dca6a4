//! A server thread: one queue, the connections dealt to it, and its share of every export.
//!
//! ```text
//!  ┌──────────────────────────────────────────────────────────────────────────────────────────────┐
//!  │ deliver completions ─► work: process bytes ─► admit (hooks, memory) ─► device ─► replies      │
//!  │        ▲                                                                          │           │
//!  │        └────────── one submit_and_wait ◄── exchange: one send, one receive per connection ◄───┘
//!  └──────────────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! One clock read and one system call per pass, whatever the number of requests. What comes from other threads (clients, exports
//! that come and go, the end) is taken from a channel when they wake the loop; nothing on the way of a request is locked.

mod backlog;
mod batch;
mod conn;
mod conns;
pub(crate) mod control;
mod core;
mod door;
mod input;
mod lane;
mod lanes;
mod memory;
mod output;
mod parting;
mod patience;
mod start;
mod token;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use iomgr_core::{FileSlot, Timestamp};
use tqueue::{Completion, EventWake, Interest};

use self::backlog::PAUSE_MAX;
use self::conn::Conn;
use self::conns::Conns;
use self::control::{Arrival, Control, Gauges, Leave, Report};
use self::core::Core;
use self::door::Door;
use self::parting::Parting;
use self::patience::Patience;
use self::token::{FRONTEND, NetOp};
use crate::export::Listed;
use crate::{ConnectionStats, Error, ErrorKind};

pub(crate) use start::{WorkerPlan, run_worker};

/// A server thread's state.
#[derive(Debug)]
pub(crate) struct Worker {
    core: Core,
    conns: Conns,
    door: Door,
    /// Exports that are being detached.
    partings: Vec<Parting>,
    wake: Arc<EventWake>,
    wake_file: FileSlot,
    control: Receiver<Control>,
    reports: Sender<(u16, Report)>,
    gauges: Arc<Gauges>,
    index: u16,
    stage: Stage,
    stop_timeout: Duration,
    patience: Patience,
    /// When the timer ends that looks for who takes too long, if it runs.
    tick_at: Option<Timestamp>,
    /// The timer that looks whom we have left unheard is running.
    is_resuming: bool,
    /// Another worker has failed; what waits for it may never end.
    peer_failed: bool,
}

/// Where a worker is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Serving,
    /// No new commands; clients have until then to take their replies, or had.
    Draining(Option<Timestamp>),
    /// Nothing is on its way. Other workers may still need this one's device queues.
    Drained,
    Closing,
}

impl Worker {
    /// Serves until told to close.
    fn run(&mut self) -> Result<(), Error> {
        self.watch()?;
        // Other workers' last requests may have given a device of ours something to do.
        while self.stage != Stage::Closing || !self.core.is_idle() {
            self.wait()?;
            self.core.begin_pass();
            self.deliver()?;
            self.work();
            self.follow_partings();
            self.follow_stage()?;
            if self.core.memory.has_line() {
                self.keep_ticking()?;
            }
            self.keep_resuming()?;
            self.core.hooks.end_pass();
            self.publish();
        }
        Ok(())
    }

    /// Arms what wakes the loop from outside.
    fn watch(&mut self) -> Result<(), Error> {
        let armed = self
            .core
            .queue
            .poll_fd(self.wake_file, Interest::READ, NetOp::Wake.token());
        let door = self.door.watch(&mut self.core.queue);
        armed.and(door).map_err(queue_error("watching for clients"))
    }

    /// Submits what was queued, and sleeps until something ends, or a held request is due.
    fn wait(&mut self) -> Result<(), Error> {
        if self.core.memory.is_wanted() {
            // Whoever waits for memory wants to hear of sends that give some back.
            self.core.queue.wake_for_sends();
        }
        let deadline = match self.stage {
            Stage::Draining(deadline) => deadline,
            _ => None,
        };
        let wake_ats = [self.core.lanes.wake_at(), self.parting_deadline(), deadline];
        let timeout = wake_ats
            .into_iter()
            .flatten()
            .min()
            .map(|at| at.since(self.core.queue.now()));
        let done = match timeout {
            Some(Duration::ZERO) => self.core.queue.submit(),
            timeout => self.core.queue.submit_and_wait(timeout),
        };
        done.map_err(queue_error("waiting for completions"))
    }

    /// Hands completions to whom they belong.
    fn deliver(&mut self) -> Result<(), Error> {
        while let Some(completion) = self.core.queue.next_completion() {
            let owner = completion.token.owner();
            if owner == FRONTEND {
                self.net_done(completion)?;
            } else {
                self.core.op_done(owner, completion.op_done());
            }
        }
        Ok(())
    }

    fn net_done(&mut self, completion: Completion) -> Result<(), Error> {
        match NetOp::of(completion.token) {
            NetOp::Recv(id) => {
                if let Some(conn) = self.conns.touch(id) {
                    conn.received(&mut self.core, completion.result);
                }
            }
            NetOp::Send(id) => {
                if let Some(conn) = self.conns.touch(id) {
                    conn.sent(&mut self.core, completion.result);
                }
            }
            NetOp::Wake => return self.woken(),
            NetOp::Tick => return self.ticked(),
            NetOp::Resume => {
                self.is_resuming = false;
                self.conns.resume_overdue(&mut self.core);
            }
            NetOp::Accept(at) | NetOp::AcceptRetry(at) => {
                let accepted = self.door.accept(at, &mut self.core.queue, self.core.now);
                return accepted.map_err(queue_error("watching for clients"));
            }
        }
        Ok(())
    }

    /// Things move: sees to it that the timer ends soon.
    fn keep_ticking(&mut self) -> Result<(), Error> {
        let at = self.core.now + self.patience.tick();
        match self.tick_at {
            Some(before) if before <= at => Ok(()),
            // It runs until somebody idle is overdue. When it has ended, which is now, it begins anew.
            Some(_) => {
                self.tick_at = Some(self.core.now);
                self.core.queue.cancel(NetOp::Tick.token());
                Ok(())
            }
            None => self.tick(Some(at)),
        }
    }

    /// Starts the timer, which does not run, if there is a time to look at the clock.
    fn tick(&mut self, at: Option<Timestamp>) -> Result<(), Error> {
        self.tick_at = at;
        let timer = at.map_or(Ok(()), |at| self.core.queue.timer(at, NetOp::Tick.token()));
        timer.map_err(queue_error("watching the clock"))
    }

    /// Starts the timer for those whom we leave unheard, if there are any and it does not run.
    fn keep_resuming(&mut self) -> Result<(), Error> {
        if self.core.paused == 0 || self.is_resuming {
            return Ok(());
        }
        self.is_resuming = true;
        let at = self.core.now + PAUSE_MAX;
        let timer = self.core.queue.timer(at, NetOp::Resume.token());
        timer.map_err(queue_error("watching the clock"))
    }

    /// Time to look who takes too long.
    fn ticked(&mut self) -> Result<(), Error> {
        self.conns.drop_overdue(&mut self.core, &self.patience);
        self.tick(self.conns.due(&self.patience, self.core.now))
    }

    /// Another thread has news: for the devices, or for us.
    fn woken(&mut self) -> Result<(), Error> {
        self.wake.take();
        let armed = self
            .core
            .queue
            .poll_fd(self.wake_file, Interest::READ, NetOp::Wake.token());
        armed.map_err(queue_error("watching the waker"))?;
        self.core.kick();
        while let Ok(control) = self.control.try_recv() {
            match control {
                Control::Connection(arrival) => self.open(arrival)?,
                Control::Connections(answer) => {
                    // Who asks for both finds what this thread noticed just before it slept.
                    self.publish();
                    self.answer(&answer);
                }
                Control::Open(listed, answer) => answer.give(self.open_lane(&listed)),
                Control::Publish(exports, answer) => {
                    self.core.exports = exports;
                    answer.give(Ok(()));
                }
                Control::Leave(Leave { lane, timeout }, answer) => self.leave(lane, timeout, answer),
                Control::CloseLane(lane, answer) => self.close_lane(lane, answer),
                Control::Stop => self.stop(),
                Control::Fail => {
                    self.peer_failed = true;
                    self.stop();
                }
                Control::Close => self.stage = Stage::Closing,
            }
        }
        Ok(())
    }

    fn open(&mut self, arrival: Arrival) -> Result<(), Error> {
        self.gauges.accepted.fetch_add(1, Ordering::Relaxed);
        let opened = match self.stage {
            Stage::Serving => self.conns.open(&mut self.core, arrival),
            _ => false,
        };
        if !opened {
            tracing::warn!(worker = self.index, "connection_refused");
            self.gauges.connections.fetch_sub(1, Ordering::Relaxed);
            return Ok(());
        }
        self.keep_ticking()
    }

    fn open_lane(&mut self, listed: &Listed) -> Result<(), Error> {
        match self.stage {
            Stage::Serving => self.core.lanes.open(listed, &mut self.core.queue),
            _ => Err(Error::new(ErrorKind::Busy, "the server is being stopped")),
        }
    }

    /// Says what the connections are doing. Whoever asked may have gone, and that is fine.
    fn answer(&self, answer: &Sender<Vec<ConnectionStats>>) {
        let _nobody = answer.send(self.conns.stats(&self.core));
    }

    /// Everything that can be done without waiting.
    fn work(&mut self) {
        loop {
            while self.conns.process(&mut self.core) {}
            self.core.enter_hooks();
            self.core.admit();
            while let Some(finished) = self.core.poll_finished() {
                let conn = self.conns.touch(finished.conn);
                let conn = conn.expect("a connection stays until its requests have ended");
                conn.finished(&mut self.core, finished);
            }
            self.core.leave_hooks();
            while let Some(id) = self.core.poll_unblocked() {
                self.conns.list(id);
            }
            if self.conns.process(&mut self.core) {
                continue;
            }
            let closed = self.conns.exchange(&mut self.core);
            self.gauges.connections.fetch_sub(closed, Ordering::Relaxed);
            if !self.core.memory.has_news() {
                return;
            }
        }
    }

    fn stop(&mut self) {
        if self.stage != Stage::Serving {
            return;
        }
        self.stage = Stage::Draining(Some(self.core.now + self.stop_timeout));
        self.door.close(&mut self.core.queue);
        self.conns.each(&mut self.core, Conn::stop);
    }

    fn follow_stage(&mut self) -> Result<(), Error> {
        let Stage::Draining(deadline) = self.stage else {
            return Ok(());
        };
        if deadline.is_some_and(|deadline| deadline <= self.core.now) {
            self.stage = Stage::Draining(None);
            // What a manager holds would wait for as long as that likes.
            self.core.lanes.iter().for_each(|lane| lane.export.managed.detach());
            self.core.begin_pass();
            self.conns.each(&mut self.core, Conn::break_off);
            self.work();
            if self.peer_failed && !self.core.is_idle() {
                return Err(Error::new(
                    ErrorKind::Panicked,
                    "requests wait for a worker that failed",
                ));
            }
        }
        if self.conns.is_empty() && self.core.is_idle() {
            self.stage = Stage::Drained;
            self.report(Report::Drained);
        }
        Ok(())
    }

    fn publish(&self) {
        let lanes = &self.core.lanes;
        self.gauges.requests.store(lanes.ended(), Ordering::Relaxed);
        self.gauges.in_flight.store(lanes.in_flight(), Ordering::Relaxed);
        let stuck = self.core.queue.counters().stuck;
        self.gauges.stuck_ops.store(stuck, Ordering::Relaxed);
    }

    /// Nobody listens when the server is being dropped, and that is fine.
    fn report(&self, report: Report) {
        let _nobody = self.reports.send((self.index, report));
    }

    /// Gives up what is on its way; the queue's end waits for what the kernel is at.
    fn abandon(mut self) {
        let now = self.core.now;
        let lanes = self.core.lanes.iter_mut();
        lanes.for_each(|lane| lane.requests.abandon(now));
    }

    /// Closes the device queues.
    fn close(self) {
        let Core {
            mut lanes, mut queue, ..
        } = self.core;
        lanes.close_all(&mut queue);
    }
}

fn queue_error<E: std::error::Error + Send + Sync + 'static>(what: &'static str) -> impl Fn(E) -> Error {
    move |error| Error::new(ErrorKind::Queue, what).caused_by(error)
}
