//! A queue thread: one hardware queue, one `tqueue`, one queue of the device behind it.
//!
//! ```text
//!  ┌──────────────────────────────────────────────────────────────────────────────────────────┐
//!  │ deliver: tags' requests ─► lane (hooks) ─► device ─► ops ─┐          ends ─► commits ─┐    │
//!  │    ▲                                                      ▼                          ▼    │
//!  │    └──────────── one io_uring_enter: backing I/O, commits (which fetch the next), wait ◄──┘
//!  └──────────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! # Contract
//! - A request is committed once, with its whole length (read, write), with 0 (the rest), or with an error: never short.
//! - Served until the kernel has aborted every tag, or the device is left to the next server; what is in flight ends first.
//!   The first queue also waits for the others.

mod leave;
mod peers;
mod start;
mod tags;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use iomgr_core::manager::HookMeter;
use iomgr_core::{Data, Ended, Errno, FileSlot, Lane, Pass, Request, RequestFlags, SECTOR_BYTES, Tag, Timestamp};
use tqueue::{Completion, EventWake, Interest, NetFull, Queue};

use self::tags::{FRONTEND, FrontOp, Tags};
use crate::abi::Descriptor;
use crate::driver::{Delivery, QueuePort};
use crate::{Error, ErrorKind, IoOp};

pub(crate) use leave::Leave;
pub(crate) use peers::Place;
pub(crate) use start::{WorkerPlan, run_worker};

/// Said by a queue thread.
#[derive(Debug)]
pub(crate) enum Report {
    /// It has taken the step that it was asked for: it is ready for the device; then, all tags are fetched. Or why not.
    Done(Result<(), Error>),
    /// The kernel has stopped the device, and everything is closed; or it failed.
    Ended(Result<(), Error>),
}

/// What a queue thread shows of itself, once a pass.
#[derive(Debug, Default)]
pub(crate) struct Gauges {
    /// Requests delivered that have not ended.
    pub(crate) in_flight: AtomicU32,
    /// Requests that ended.
    pub(crate) requests: AtomicU64,
    /// Calls of `io_uring_enter`.
    pub(crate) enters: AtomicU64,
    /// Entries submitted.
    pub(crate) sqes: AtomicU64,
    /// The device's ops that went to the kernel as part of another one.
    pub(crate) merges: AtomicU64,
}

/// A queue thread's state.
#[derive(Debug)]
pub(crate) struct Worker {
    queue: Queue,
    lane: Lane,
    port: Box<dyn QueuePort>,
    tags: Tags,
    wake: Arc<EventWake>,
    wake_file: FileSlot,
    place: Place,
    leave: Arc<Leave>,
    gauges: Arc<Gauges>,
    /// How long this pass is in managers' hooks.
    hooks: HookMeter,
    /// When the pass began.
    now: Timestamp,
}

impl Worker {
    /// Serves until the kernel wants nothing more.
    fn run(&mut self) -> Result<(), Error> {
        while !self.is_over() {
            self.wait()?;
            self.begin_pass();
            self.deliver()?;
            self.work()?;
            self.hooks.end_pass();
            self.publish();
        }
        Ok(())
    }

    /// Lets the lane see a swap of managers, and the time.
    fn begin_pass(&mut self) {
        self.now = self.queue.now();
        self.enter_hooks();
        let (lane, mut pass) = self.lane();
        lane.begin_pass(&mut pass);
        self.leave_hooks();
        self.hooks.follow(self.lane.manager());
    }

    /// Managers' hooks may be called from here on, if there are any: the clock runs.
    fn enter_hooks(&mut self) {
        if self.hooks.is_needed() {
            self.hooks.enter(self.queue.now());
        }
    }

    /// None are called from here on.
    fn leave_hooks(&mut self) {
        if self.hooks.is_needed() {
            self.hooks.leave(self.queue.now());
        }
    }

    /// Does the kernel want nothing more, or another server, and do the other queues need nothing either?
    fn is_over(&self) -> bool {
        (self.tags.are_gone() || self.leave.is_asked()) && self.lane.is_idle() && self.place.may_close()
    }

    /// Submits what was queued, and sleeps until something ends, or a held request is due.
    fn wait(&mut self) -> Result<(), Error> {
        let timeout = self.lane.wake_at().map(|at| at.since(self.queue.now()));
        let done = match timeout {
            Some(Duration::ZERO) => self.queue.submit(),
            timeout => self.queue.submit_and_wait(timeout),
        };
        done.map_err(queue_failed)
    }

    /// Hands completions to whom they belong.
    fn deliver(&mut self) -> Result<(), Error> {
        while let Some(completion) = self.queue.next_completion() {
            if completion.token.owner() != FRONTEND {
                let (lane, mut pass) = self.lane();
                lane.op_done(&mut pass, completion.op_done());
                continue;
            }
            match FrontOp::of(completion.token) {
                FrontOp::Tag(tag) => self.delivered(tag, completion)?,
                FrontOp::Wake => self.woken()?,
            }
        }
        Ok(())
    }

    /// A tag's command has completed.
    fn delivered(&mut self, tag: u16, completion: Completion) -> Result<(), Error> {
        let delivery = self.port.delivered(&mut self.queue, tag, completion.result);
        match delivery.map_err(|errno| not_fetched(tag, errno))? {
            Delivery::Aborted => self.tags.abort(tag),
            Delivery::Request(descriptor) => {
                let buffer = self.tags.serve(tag, &mut self.queue);
                if self.leave.is_asked() {
                    // The next server gets it, as one that was not ended.
                    return Ok(());
                }
                match request(tag, descriptor, buffer, self.now) {
                    Ok(request) => self.lane.push(request),
                    Err(errno) => {
                        tracing::warn!(tag, ?descriptor, %errno, "request_refused");
                        self.commit(tag, -errno.raw_os_error())?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Another thread has news for the device, or for the lane.
    fn woken(&mut self) -> Result<(), Error> {
        self.wake.take();
        self.watch()?;
        let (lane, mut pass) = self.lane();
        lane.kick(&mut pass);
        Ok(())
    }

    /// Arms what wakes the loop from outside.
    fn watch(&mut self) -> Result<(), Error> {
        let armed = self
            .queue
            .poll_fd(self.wake_file, Interest::READ, FrontOp::Wake.token());
        armed.map_err(no_room)
    }

    /// Everything that can be done without waiting: what ends may let others start.
    fn work(&mut self) -> Result<(), Error> {
        loop {
            self.enter_hooks();
            let (lane, mut pass) = self.lane();
            lane.admit(&mut pass);
            let mut any = false;
            while let Some(ended) = self.lane.poll_ended(self.now) {
                any = true;
                self.ended(&ended)?;
            }
            self.leave_hooks();
            if !any {
                return Ok(());
            }
        }
    }

    fn ended(&mut self, ended: &Ended) -> Result<(), Error> {
        let tag = u16::try_from(ended.request.tag.0).expect("tags are below the depth");
        let result = match ended.result {
            // A length for what moved data, and for nothing else.
            Ok(()) => i32::try_from(ended.request.data.len).expect("requests are far below 2 GiB"),
            Err(errno) => -errno.raw_os_error(),
        };
        self.commit(tag, result)
    }

    fn commit(&mut self, tag: u16, result: i32) -> Result<(), Error> {
        self.tags.fetch(tag);
        self.port.commit(&mut self.queue, tag, result).map_err(no_room)
    }

    fn lane(&mut self) -> (&mut Lane, Pass<'_>) {
        let pass = Pass {
            now: self.now,
            io: &mut self.queue,
        };
        (&mut self.lane, pass)
    }

    fn publish(&self) {
        let counters = self.queue.counters();
        let Gauges {
            in_flight,
            requests,
            enters,
            sqes,
            merges,
        } = &*self.gauges;
        in_flight.store(self.lane.in_flight(), Ordering::Relaxed);
        requests.store(self.lane.ended(), Ordering::Relaxed);
        enters.store(counters.enters, Ordering::Relaxed);
        sqes.store(counters.sqes, Ordering::Relaxed);
        merges.store(counters.merges, Ordering::Relaxed);
    }

    /// Lets go of the device that requests come from, and closes the one behind.
    fn close(self) {
        let Self {
            mut queue,
            lane,
            port,
            tags,
            ..
        } = self;
        port.close(&mut queue);
        lane.close(&mut queue);
        tags.free(&mut queue);
        // Only now does this queue leave its peers.
    }

    /// The same, while the kernel has tags: it lets go of them, and of their memory, when the process has ended.
    fn depart(self) -> Result<(), Error> {
        let Self {
            mut queue, lane, port, ..
        } = self;
        // Commits of what has ended.
        let submitted = queue.submit().map_err(queue_failed);
        port.close(&mut queue);
        lane.close(&mut queue);
        queue.leave_to_kernel();
        submitted
    }
}

/// What a descriptor asks of the device; else what to answer.
fn request(tag: u16, descriptor: Descriptor, buffer: Data, now: Timestamp) -> Result<Request, Errno> {
    let op = descriptor.op().ok_or(Errno::OPNOTSUPP)?;
    let range = descriptor.range().ok_or(Errno::INVAL)?;
    let data = match op {
        IoOp::Read | IoOp::Write => {
            let len = u64::from(descriptor.sectors) * SECTOR_BYTES;
            let len = u32::try_from(len).ok().filter(|&len| len > 0 && len <= buffer.len);
            buffer.slice(0, len.ok_or(Errno::INVAL)?)
        }
        IoOp::Flush | IoOp::Discard | IoOp::WriteZeroes => Data::NONE,
    };
    // A flush is one, however durable it is wanted.
    let flags = match op {
        IoOp::Flush => RequestFlags::empty(),
        _ => descriptor.flags(),
    };
    Ok(Request {
        tag: Tag(tag.into()),
        op: op.into(),
        flags,
        range,
        data,
        arrival: now,
        deadline: None,
    })
}

fn queue_failed(error: tqueue::Error) -> Error {
    Error::new(ErrorKind::Queue, "the queue of the thread failed").caused_by(error)
}

fn no_room(_: NetFull) -> Error {
    Error::new(ErrorKind::Queue, "the queue of the thread has no room for its tags")
}

fn not_fetched(tag: u16, errno: Errno) -> Error {
    Error::new(
        ErrorKind::Os,
        format!("the ublk driver refuses the command of tag {tag}"),
    )
    .caused_by(errno)
}
