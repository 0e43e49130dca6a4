//! How a queue thread comes to be, and what is left when it ends.
//!
//! ```text
//!  ready: ring, memory, the device behind ── /dev/ublkcN is opened ─► map, fetch every tag ─► live
//! ```
//!
//! What can fail for want of memory or of anything else of this process comes before the driver hears of the thread.

use std::sync::Arc;
use std::thread;

use crossbeam_channel::{Receiver, Sender};
use iomgr_core::manager::{HookMeter, HookWatch, Intake, ManagedDevice};
use iomgr_core::{Device, FileSlot, Lane, OpQueue, Owner, QueueContext, Timestamp, Wake, Waker};
use rustix::thread::CpuSet;
use tqueue::{EventWake, Queue};

use super::tags::{FrontOp, Tags};
use super::{Gauges, Leave, Place, Report, Worker, not_fetched, queue_failed};
use crate::config::no_zero_copy;
use crate::driver::{CharDevice, QueuePort};
use crate::{Error, ErrorKind, affinity};

/// What a queue thread is made from, on its thread.
#[derive(Debug)]
pub(crate) struct WorkerPlan {
    pub(crate) device: Arc<dyn Device>,
    pub(crate) managed: Arc<ManagedDevice>,
    pub(crate) index: u16,
    pub(crate) count: u16,
    pub(crate) place: Place,
    /// Where the thread is to run.
    pub(crate) cpus: Option<CpuSet>,
    pub(crate) depth: u16,
    pub(crate) buffer_bytes: u32,
    pub(crate) zero_copy: bool,
    pub(crate) queue: tqueue::Config,
    pub(crate) wake: Arc<EventWake>,
    pub(crate) leave: Arc<Leave>,
    pub(crate) gauges: Arc<Gauges>,
    pub(crate) reports: Sender<Report>,
    pub(crate) on_end: Waker,
    pub(crate) watch: Arc<HookWatch>,
}

/// A queue thread that has all it needs, but the device.
struct Ready {
    plan: WorkerPlan,
    queue: Queue,
    lane: Lane,
    tags: Tags,
    wake_file: FileSlot,
}

/// The whole life of a queue thread, which gets the device by `door` when it is ready; or never, and then it ends.
pub(crate) fn run_worker(plan: WorkerPlan, door: &Receiver<Arc<dyn CharDevice>>) {
    // Declared first, so that it speaks last: everything is closed by then, also after a panic.
    let mut last_words = LastWords {
        reports: plan.reports.clone(),
        on_end: plan.on_end.clone(),
        result: None,
    };
    last_words.result = Some(match plan.prepare() {
        Ok(ready) => {
            last_words.say(Report::Done(Ok(())));
            match door.recv() {
                Ok(source) => ready.open(&*source, &last_words),
                Err(_) => ready.close(),
            }
        }
        Err(error) => {
            last_words.say(Report::Done(Err(error)));
            Ok(())
        }
    });
}

impl Ready {
    /// Serves the device, to its end.
    fn open(mut self, source: &dyn CharDevice, words: &LastWords) -> Result<(), Error> {
        match source.open_queue(self.plan.index, self.plan.depth, &mut self.queue) {
            Ok(port) => {
                let mut worker = self.worker(port);
                // Also if a tag is missing: the others' commands end when the device is stopped, and not before.
                words.say(Report::Done(worker.fetch_all()));
                worker.live()
            }
            Err(error) => {
                words.say(Report::Done(Err(error)));
                self.close()
            }
        }
    }

    fn worker(self, port: Box<dyn QueuePort>) -> Worker {
        let plan = self.plan;
        Worker {
            queue: self.queue,
            lane: self.lane,
            port,
            tags: self.tags,
            wake: plan.wake,
            wake_file: self.wake_file,
            place: plan.place,
            leave: plan.leave,
            gauges: plan.gauges,
            hooks: HookMeter::new(&plan.watch, thread::current().name().unwrap_or("ublk")),
            now: Timestamp::ZERO,
        }
    }

    /// Nothing was served.
    fn close(mut self) -> Result<(), Error> {
        self.plan.place.await_others();
        self.lane.close(&mut self.queue);
        self.tags.free(&mut self.queue);
        Ok(())
    }
}

/// Tells how a thread ended.
struct LastWords {
    reports: Sender<Report>,
    on_end: Waker,
    /// `None` after a panic.
    result: Option<Result<(), Error>>,
}

impl LastWords {
    /// Nobody listens when the server is being dropped, and that is fine.
    fn say(&self, report: Report) {
        let _nobody = self.reports.send(report);
    }
}

impl Drop for LastWords {
    fn drop(&mut self) {
        let panicked = || Err(Error::new(ErrorKind::Panicked, "a queue thread panicked"));
        let result = self.result.take().unwrap_or_else(panicked);
        if let Err(error) = &result {
            tracing::error!(%error, cause = ?std::error::Error::source(error), "queue_failed");
        }
        self.say(Report::Ended(result));
        self.on_end.wake();
    }
}

impl Worker {
    fn live(mut self) -> Result<(), Error> {
        match self.run() {
            Ok(()) if self.tags.are_gone() => self.close(),
            Ok(()) => return self.depart(),
            Err(error) => {
                let now = self.now;
                self.lane.abandon(now);
                self.place.stay();
                return Err(error);
            }
        }
        Ok(())
    }

    /// Asks for the first request of every tag. Whoever gets `Ok` may start the device.
    fn fetch_all(&mut self) -> Result<(), Error> {
        for tag in 0..self.tags.len() {
            let (buffer, token) = (self.tags.buffer(tag), FrontOp::Tag(tag).token());
            let pushed = self.port.fetch(&mut self.queue, tag, buffer, token);
            pushed.map_err(|errno| not_fetched(tag, errno))?;
        }
        self.queue.submit().map_err(queue_failed)?;
        // The driver refuses at once, if it does: a device that is started without one of its tags would wait for ever.
        let mut fetched = Ok(());
        while let Some(completion) = self.queue.next_completion() {
            if let (FrontOp::Tag(tag), Err(error)) = (FrontOp::of(completion.token), completion.result) {
                self.tags.abort(tag);
                fetched = Err(not_fetched(tag, error.errno()));
            }
        }
        self.watch().and(fetched)
    }
}

impl WorkerPlan {
    fn prepare(self) -> Result<Ready, Error> {
        // Before there is memory, which comes from where the thread runs.
        if let Some(Err(errno)) = self.cpus.as_ref().map(affinity::keep_to) {
            self.place.complain(errno);
        }
        let mut queue = Queue::new(&self.queue)
            .map_err(|error| Error::new(ErrorKind::Queue, "the queue of the thread cannot be made").caused_by(error))?;
        tracing::info!(queue = self.index, made = %queue.info(), "queue_started");
        let wake_file = queue
            .add_file(&self.wake.file())
            .map_err(|errno| Error::new(ErrorKind::Queue, "the waker cannot be registered").caused_by(errno))?;
        let tags = self.tags(&mut queue)?;
        let lane = self.lane(&mut queue)?;
        Ok(Ready {
            queue,
            lane,
            tags,
            wake_file,
            plan: self,
        })
    }

    fn tags(&self, queue: &mut Queue) -> Result<Tags, Error> {
        if !self.zero_copy {
            return Tags::new(self.depth, self.buffer_bytes, queue);
        }
        match queue.filter_of_bytes() {
            Some(filter) => Err(no_zero_copy(&format!("the filter {filter}"))),
            None => Ok(Tags::without_memory(self.depth, self.buffer_bytes)),
        }
    }

    fn lane(&self, queue: &mut Queue) -> Result<Lane, Error> {
        let wake = || Waker::new(Arc::clone(&self.wake) as Arc<dyn Wake>);
        let context = QueueContext {
            index: self.index,
            count: self.count,
            owner: Owner(1),
            depth: self.depth.into(),
            waker: wake(),
            io: queue,
        };
        let device = self.device.open_queue(context);
        let device = device.map_err(|error| {
            let what = format!("queue {} of {:?} cannot be opened", self.index, self.device.name());
            Error::new(ErrorKind::Device, what).caused_by(error)
        })?;
        let intake = Intake::new(&self.managed, self.depth.into(), wake());
        Ok(Lane::new(device, intake, self.depth.into()))
    }
}
