//! The queue threads of a device, as its owner sees them: started one after the other, heard, waited for.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};

use crossbeam_channel::Receiver;

use super::ServerStats;
use crate::queue::{Gauges, Report, WorkerPlan, run_worker};
use crate::{Error, ErrorKind};

/// The threads that were started.
#[derive(Debug)]
pub(super) struct Threads {
    threads: Vec<JoinHandle<()>>,
    gauges: Vec<Arc<Gauges>>,
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
            reports,
            ended: 0,
            failure: None,
            has_failed: false,
        }
    }

    /// Starts one, and waits until every tag of its queue is fetched.
    pub(super) fn start(&mut self, name: String, plan: WorkerPlan) -> Result<(), Error> {
        let gauges = Arc::clone(&plan.gauges);
        let thread = thread::Builder::new().name(name).spawn(|| run_worker(plan));
        let thread = thread.map_err(|error| Error::new(ErrorKind::Os, "thread").caused_by(error))?;
        self.threads.push(thread);
        self.gauges.push(gauges);
        while !self.has_failed {
            match self.reports.recv() {
                Ok(Report::Started(result)) => return result,
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

    /// Waits until all have ended. If one has failed it waits no longer: the others go on until the process ends.
    pub(super) fn join(&mut self) -> Result<(), Error> {
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
