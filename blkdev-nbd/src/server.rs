//! The server as its owner sees it: started, watched, stopped.

mod attach;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, unbounded};
use tqueue::{EventWake, Watchdog};

use crate::config::ServerConfig;
use crate::export::ExportTable;
use crate::roster::Roster;
use crate::worker::control::{Control, Handle, Report};
use crate::worker::{WorkerPlan, run_worker};
use crate::{ConnectionStats, Error, ErrorKind, ServerStats};

/// A running server. Dropping it stops it.
///
/// # Errors
/// A failed worker makes the others stop as well; [`Server::failed`] says so while it runs, [`Server::stop`] what it was.
#[derive(Debug)]
pub struct Server {
    workers: Vec<WorkerState>,
    reports: Receiver<(u16, Report)>,
    roster: Mutex<Roster>,
    watchdog: Arc<Watchdog>,
}

#[derive(Debug)]
struct WorkerState {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
    life: Life,
}

/// How far a worker is, as it reported. The order is that of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Life {
    Starting,
    /// It is up, or it failed to come up and is about to end.
    Serving,
    Drained,
    Ended,
}

impl Server {
    /// Starts the threads, opens every device's queue on each of them (all of the first thread's before the others'), and
    /// serves.
    pub fn start(mut config: ServerConfig) -> Result<Self, Error> {
        config.check()?;
        let (reports_in, reports) = unbounded();
        let watchdog = config.watchdog.clone().map_or_else(Watchdog::start, Ok);
        let watchdog = watchdog.map_err(|error| Error::new(ErrorKind::Os, "thread").caused_by(error))?;
        let mut roster = Roster::new(config.exports_max(), config.payload_max());
        for export in std::mem::take(&mut config.exports) {
            let listed = roster.admit(export)?;
            roster.serve(listed.id);
        }
        let plans = plan(config, &roster.table(), &reports_in, &watchdog)?;
        let mut server = Self {
            workers: Vec::with_capacity(plans.len()),
            reports,
            roster: Mutex::new(roster),
            watchdog,
        };
        for (handle, plan) in plans {
            server.start_worker(handle, plan)?;
        }
        Ok(server)
    }

    /// Lets no client in any more and takes no commands; lets what is on its way end and be answered, as long as clients
    /// take their replies in time ([`stop_timeout`](crate::ConnectionLimits::stop_timeout)); closes connections, then the
    /// device queues, those of the first thread last. A TCP client with commands on their way is told that nothing follows, and
    /// has the same time to close its side. What a manager still holds then is given up.
    pub fn stop(mut self) -> Result<(), Error> {
        self.shut_down()
    }

    /// Begins to [stop](Self::stop), and returns at once: an attach or a detach that is under way ends no later than that.
    pub fn begin_stop(&self) {
        self.say(0, || Control::Stop);
    }

    /// What it is doing.
    pub fn stats(&self) -> ServerStats {
        let hooks = self.watchdog.watch().counts();
        let mut stats = ServerStats {
            slow_passes_total: hooks.slow_passes,
            stuck_passes_total: hooks.stuck_passes,
            ..ServerStats::default()
        };
        for WorkerState { handle, .. } in &self.workers {
            stats.connections += handle.gauges.connections.load(Ordering::Relaxed);
            stats.connections_total += handle.gauges.accepted.load(Ordering::Relaxed);
            stats.in_flight += handle.gauges.in_flight.load(Ordering::Relaxed);
            stats.requests_total += handle.gauges.requests.load(Ordering::Relaxed);
            stats.stuck_ops_total += handle.gauges.stuck_ops.load(Ordering::Relaxed);
        }
        stats
    }

    /// What each connection is doing and has done, the oldest first. Each thread is asked and answers after its pass.
    pub fn connections(&self) -> Vec<ConnectionStats> {
        let (answer, answers) = unbounded();
        self.say(0, || Control::Connections(answer.clone()));
        drop(answer);
        // A worker that ends drops what it was asked, and with it its end of the channel.
        let mut connections: Vec<_> = answers.iter().flatten().collect();
        connections.sort_by_key(|connection: &ConnectionStats| connection.id);
        connections
    }

    /// Has a thread ended although nobody stopped the server? The others stop then too; call [`stop`](Self::stop).
    pub fn failed(&self) -> bool {
        let is_over = |worker: &WorkerState| worker.thread.as_ref().is_some_and(JoinHandle::is_finished);
        self.workers.iter().any(is_over)
    }

    /// Starts a worker and waits until it is up.
    fn start_worker(&mut self, handle: Handle, plan: WorkerPlan) -> Result<(), Error> {
        let name = format!("nbd-{}", plan.index);
        let thread = thread::Builder::new().name(name).spawn(|| run_worker(plan));
        let thread = Some(thread.map_err(|error| Error::new(ErrorKind::Os, "thread").caused_by(error))?);
        self.workers.push(WorkerState {
            handle,
            thread,
            life: Life::Starting,
        });
        self.reach(self.workers.len() - 1, Life::Serving)
    }

    fn shut_down(&mut self) -> Result<(), Error> {
        self.say(0, || Control::Stop);
        let drained = self.reach(0, Life::Drained);
        self.say(1, || Control::Close);
        let others = self.reach(1, Life::Ended);
        self.say(0, || Control::Close);
        let first = self.reach(0, Life::Ended);
        for worker in self.workers.drain(..) {
            // If it panicked, its last words said so.
            let _panic = worker.thread.map(JoinHandle::join);
        }
        drained.and(others).and(first)
    }

    /// Says something to the workers from that number on.
    fn say(&self, from: usize, what: impl Fn() -> Control) {
        self.workers
            .iter()
            .skip(from)
            .for_each(|worker| worker.handle.say(what()));
    }

    /// Takes reports until the workers from that number on are so far. The first failure is what is told.
    fn reach(&mut self, from: usize, life: Life) -> Result<(), Error> {
        let mut outcome = Ok(());
        while self.workers.iter().skip(from).any(|worker| worker.life < life) {
            let (index, report) = self.reports.recv().map_err(|_| gone())?;
            let (life, result) = match report {
                Report::Started(result) => (Life::Serving, result),
                Report::Drained => (Life::Drained, Ok(())),
                Report::Ended(result) => (Life::Ended, result),
            };
            self.workers[usize::from(index)].life = life;
            outcome = outcome.and(result);
        }
        outcome
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !self.workers.is_empty()
            && let Err(error) = self.shut_down()
        {
            tracing::error!(%error, "server_stop_failed");
        }
    }
}

/// What each worker is made from, and how to reach it.
fn plan(
    config: ServerConfig,
    exports: &Arc<ExportTable>,
    reports: &Sender<(u16, Report)>,
    watchdog: &Watchdog,
) -> Result<Vec<(Handle, WorkerPlan)>, Error> {
    let (queue, memory) = (config.queue_config(), config.memory_sizes());
    let connections = config.connections_per_thread();
    let handles: Result<Vec<_>, _> = (0..config.threads).map(|_| handle()).collect();
    let (handles, ends): (Vec<_>, Vec<_>) = handles?.into_iter().unzip();
    let mut listeners = config.listeners;
    let plan = |(index, (wake, control))| WorkerPlan {
        index,
        peers: handles.clone(),
        wake,
        control,
        reports: reports.clone(),
        exports: Arc::clone(exports),
        listeners: std::mem::take(&mut listeners),
        queue: queue.clone(),
        memory,
        depth: config.depth,
        connections,
        limits: config.limits.clone(),
        on_failure: config.on_failure.clone(),
        watch: Arc::clone(watchdog.watch()),
    };
    let plans = (0..config.threads).zip(ends).map(plan);
    Ok(handles.iter().cloned().zip(plans).collect())
}

type WorkerEnd = (Arc<EventWake>, Receiver<Control>);

fn handle() -> Result<(Handle, WorkerEnd), Error> {
    let wake = EventWake::new().map_err(|error| Error::new(ErrorKind::Os, "eventfd").caused_by(error))?;
    let (say, control) = unbounded();
    Ok((Handle::new(say, Arc::clone(&wake)), (wake, control)))
}

fn gone() -> Error {
    Error::new(ErrorKind::Panicked, "a worker ended without a word")
}
