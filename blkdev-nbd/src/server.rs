//! The server as its owner sees it: started, watched, stopped.

use std::ops::RangeBounds;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use tqueue::{EventWake, Watchdog};

use crate::config::ServerConfig;
use crate::export::{Export, ExportTable, Listed};
use crate::roster::Roster;
use crate::worker::control::{Answer, Control, Handle, Leave, Report};
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
    /// Held while workers are told of a change, so that all of them are told of all changes in the same order.
    roster: Mutex<Roster>,
    watchdog: Arc<Watchdog>,
}

/// How long requests in a device may take to end, after the clients' time is over.
const GRACE: Duration = Duration::from_secs(1);
/// A timeout that is longer is no timeout.
const TIMEOUT_MAX: Duration = Duration::from_secs(1 << 30);

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

    /// Serves one more export: every thread opens its queue of the device, the first one before the others. Who connects when
    /// this has returned finds it.
    ///
    /// # Errors
    /// Its name or its device is taken, or there is no room for another export; the device does not open. Nothing is left
    /// of it then.
    pub fn attach(&self, export: Export) -> Result<(), Error> {
        let listed = self.roster().admit(export)?;
        let open = |thread| {
            let told = self.tell(thread..=thread, |answer| Control::Open(listed.clone(), answer));
            told.wait(None)
        };
        let opened = (0..self.workers.len()).try_for_each(open);
        if let Err(error) = opened {
            // A thread that does not close its queue has failed, and the server with it.
            let _failed = self.close_lanes(&listed, None);
            self.roster().remove(listed.id);
            return Err(error);
        }
        let serve = |roster: &mut Roster| {
            roster.serve(listed.id);
            Ok(())
        };
        self.publish(serve)?.1.wait(None)
    }

    /// Ends an export: its clients' commands are taken no more, those that wait for a manager fail at once with `ESHUTDOWN`,
    /// those that the device has end and are answered; then the connections are closed, and the device's queues, those of
    /// the first thread last. Clients that have not taken their replies by `timeout` are cut off. Other exports go on, and a
    /// server without any waits for one.
    ///
    /// # Errors
    /// There is no such export, or somebody attaches or detaches it right now. The device does not end what it has
    /// ([`ErrorKind::Busy`]): no client reaches the export any more, but its queues are open, its name is taken, and it can
    /// be detached again.
    pub fn detach(&self, name: &str, timeout: Duration) -> Result<(), Error> {
        let timeout = timeout.min(TIMEOUT_MAX);
        let (listed, known) = self.publish(|roster| roster.retire(name))?;
        listed.export.managed.detach();
        let lane = listed.lane;
        let left = self.tell(.., |answer| Control::Leave(Leave { lane, timeout }, answer));
        let deadline = Some(Instant::now() + timeout + GRACE);
        let left = known.wait(deadline).and_then(|()| left.wait(deadline));
        let closed = left.and_then(|()| self.close_lanes(&listed, deadline));
        let mut roster = self.roster();
        match closed {
            Ok(()) => roster.remove(listed.id),
            Err(_) => roster.keep(listed.id),
        }
        closed
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

    /// Changes the exports that clients choose from, and tells every thread.
    fn publish<T>(&self, change: impl FnOnce(&mut Roster) -> Result<T, Error>) -> Result<(T, Told), Error> {
        let mut roster = self.roster();
        let changed = change(&mut roster)?;
        let table = roster.table();
        let told = self.tell(.., |answer| Control::Publish(Arc::clone(&table), answer));
        Ok((changed, told))
    }

    /// Closes an export's queues, those of the first thread last: the others need what it has.
    fn close_lanes(&self, listed: &Listed, deadline: Option<Instant>) -> Result<(), Error> {
        let close = |answer| Control::CloseLane(listed.lane, answer);
        self.tell(1.., close).wait(deadline)?;
        self.tell(..1, close).wait(deadline)
    }

    /// Tells these workers to do something.
    fn tell(&self, threads: impl RangeBounds<usize>, what: impl Fn(Answer) -> Control) -> Told {
        let (answer, answers) = Answer::channel();
        let mut told = Told { answers, count: 0 };
        for (_, worker) in self
            .workers
            .iter()
            .enumerate()
            .filter(|(index, _)| threads.contains(index))
        {
            worker.handle.say(what(answer.clone()));
            told.count += 1;
        }
        told
    }

    fn roster(&self) -> MutexGuard<'_, Roster> {
        self.roster.lock().unwrap_or_else(PoisonError::into_inner)
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

/// Workers that were told to do something.
#[must_use = "they may not do it"]
struct Told {
    answers: Receiver<Result<(), Error>>,
    count: usize,
}

impl Told {
    /// Waits until all of them have done it. The first failure is what is told.
    fn wait(self, deadline: Option<Instant>) -> Result<(), Error> {
        let mut outcome = Ok(());
        for _ in 0..self.count {
            outcome = outcome.and(self.next(deadline)?);
        }
        outcome
    }

    fn next(&self, deadline: Option<Instant>) -> Result<Result<(), Error>, Error> {
        let Some(deadline) = deadline else {
            return self.answers.recv().map_err(|_| gone());
        };
        self.answers.recv_deadline(deadline).map_err(|error| match error {
            RecvTimeoutError::Timeout => {
                let what = "requests in its device do not end; detach it again to wait for them";
                Error::new(ErrorKind::Busy, what)
            }
            RecvTimeoutError::Disconnected => gone(),
        })
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
