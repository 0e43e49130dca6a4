//! How a queue thread comes to be, and what is left when it ends.

use std::sync::Arc;
use std::thread;

use crossbeam_channel::Sender;
use iomgr_core::manager::{HookMeter, HookWatch, Intake, ManagedDevice};
use iomgr_core::{Device, Lane, OpQueue, Owner, QueueContext, Timestamp, Wake, Waker};
use rustix::thread::CpuSet;
use tqueue::{EventWake, Queue};

use super::tags::{FrontOp, Tags};
use super::{Gauges, Leave, Place, Report, Worker, no_room, not_fetched, queue_failed};
use crate::config::no_zero_copy;
use crate::driver::CharDevice;
use crate::{Error, ErrorKind, affinity};

/// What a queue thread is made from, on its thread.
#[derive(Debug)]
pub(crate) struct WorkerPlan {
    pub(crate) device: Arc<dyn Device>,
    pub(crate) managed: Arc<ManagedDevice>,
    pub(crate) source: Arc<dyn CharDevice>,
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

/// The whole life of a queue thread.
pub(crate) fn run_worker(plan: WorkerPlan) {
    // Declared first, so that it speaks last: everything is closed by then, also after a panic.
    let mut last_words = LastWords {
        reports: plan.reports.clone(),
        on_end: plan.on_end.clone(),
        result: None,
    };
    last_words.result = Some(match plan.start() {
        Ok(mut worker) => {
            // Also if a tag is missing: the others' commands end when the device is stopped, and not before.
            last_words.say(Report::Started(worker.fetch_all()));
            worker.live()
        }
        Err(error) => {
            last_words.say(Report::Started(Err(error)));
            Ok(())
        }
    });
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
            pushed.map_err(no_room)?;
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
    fn start(self) -> Result<Worker, Error> {
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
        let port = self.source.open_queue(self.index, self.depth, &mut queue)?;
        let lane = self.lane(&mut queue)?;
        Ok(Worker {
            queue,
            lane,
            port,
            tags,
            wake: self.wake,
            wake_file,
            place: self.place,
            leave: self.leave,
            gauges: self.gauges,
            hooks: HookMeter::new(&self.watch, thread::current().name().unwrap_or("ublk")),
            now: Timestamp::ZERO,
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
