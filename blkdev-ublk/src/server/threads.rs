//! The queue threads of a device, as its owner sees them: made ready and given the device one after the other, heard, waited for.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::ServerStats;
use crate::driver::CharDevice;
use crate::queue::{Gauges, Report, WorkerPlan, run_worker};
use crate::{Error, ErrorKind};

/// The threads that were started.
#[derive(Debug)]
pub(super) struct Threads {
    threads: Vec<JoinHandle<()>>,
    gauges: Vec<Arc<Gauges>>,
    /// Those that are ready wait here for the device; one whose door goes away ends.
    doors: Vec<Sender<Arc<dyn CharDevice>>>,
    reports: Receiver<Report>,
    /// How many have ended.
    ended: usize,
    /// Why the first of those failed that did.
    failure: Option<Error>,
    has_failed: bool,
}

impl Threads {
    /// None so far; they will say how they are by `reports`.
    pub(super) fn new(reports: Receiver<Report>) -> Self {
        Self {
            threads: Vec::new(),
            gauges: Vec::new(),
            doors: Vec::new(),
            reports,
            ended: 0,
            failure: None,
            has_failed: false,
        }
    }

    /// Starts one, and waits until it has all it needs but the device.
    pub(super) fn prepare(&mut self, name: String, plan: WorkerPlan) -> Result<(), Error> {
        let gauges = Arc::clone(&plan.gauges);
        let (door, device) = bounded(1);
        let thread = thread::Builder::new()
            .name(name)
            .spawn(move || run_worker(plan, &device));
        let thread = thread.map_err(|error| Error::new(ErrorKind::Os, "thread").caused_by(error))?;
        self.threads.push(thread);
        self.gauges.push(gauges);
        self.doors.push(door);
        self.await_step()
    }

    /// Gives the device to all of them, one after the other, each when every tag of the one before is fetched.
    pub(super) fn open(&mut self, source: &Arc<dyn CharDevice>) -> Result<(), Error> {
        for door in mem::take(&mut self.doors) {
            // Of a thread that is not there any more, the reports tell.
            let _gone = door.send(Arc::clone(source));
            self.await_step()?;
        }
        Ok(())
    }

    fn await_step(&mut self) -> Result<(), Error> {
        while !self.has_failed {
            match self.reports.recv() {
                Ok(Report::Done(result)) => return result,
                Ok(Report::Ended(result)) => self.hear(result),
                Err(_) => self.hear(Err(silent())),
            }
        }
        Err(self.take_failure())
    }

    /// Has one of them said its last word?
    pub(super) fn has_any_ended(&mut self) -> bool {
        while let Ok(report) = self.reports.try_recv() {
            self.take(report);
        }
        self.ended > 0
    }

    /// Waits until all have ended; those that have no device yet do so now. If one has failed it waits no longer: the others go
    /// on until the process ends.
    pub(super) fn join(&mut self) -> Result<(), Error> {
        self.doors.clear();
        while !self.has_failed && self.ended < self.gauges.len() {
            match self.reports.recv() {
                Ok(report) => self.take(report),
                Err(_) => self.hear(Err(silent())),
            }
        }
        if self.has_failed {
            return Err(self.take_failure());
        }
        for thread in self.threads.drain(..) {
            // It has said its last words: that it ended well.
            let _panic = thread.join();
        }
        Ok(())
    }

    /// What all of them have done.
    pub(super) fn stats(&self) -> ServerStats {
        let mut stats = ServerStats::default();
        for gauges in &self.gauges {
            stats.in_flight += gauges.in_flight.load(Ordering::Relaxed);
            stats.requests_total += gauges.requests.load(Ordering::Relaxed);
            stats.enters_total += gauges.enters.load(Ordering::Relaxed);
            stats.sqes_total += gauges.sqes.load(Ordering::Relaxed);
            stats.merges_total += gauges.merges.load(Ordering::Relaxed);
        }
        stats
    }

    fn take(&mut self, report: Report) {
        if let Report::Ended(result) = report {
            self.hear(result);
        }
    }

    fn hear(&mut self, ended: Result<(), Error>) {
        self.ended += 1;
        if let Err(error) = ended {
            self.has_failed = true;
            self.failure.get_or_insert(error);
        }
    }

    fn take_failure(&mut self) -> Error {
        self.failure.take().unwrap_or_else(silent)
    }
}

fn silent() -> Error {
    Error::new(ErrorKind::Panicked, "a queue thread ended without a word")
}
