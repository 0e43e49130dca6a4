//! How a worker comes to be, and what is left when it ends.

use std::sync::Arc;
use std::thread;

use crossbeam_channel::{Receiver, Sender};
use iomgr_core::manager::{HookMeter, HookWatch};
use iomgr_core::{OpQueue, Waker};
use tqueue::{EventWake, Queue};

use super::conn::Kit;
use super::conns::Conns;
use super::control::{Control, Handle, Report};
use super::core::Core;
use super::door::Door;
use super::lanes::{Lanes, Opener};
use super::memory::Memory;
use super::patience::Patience;
use super::{Stage, Worker, queue_error};
use crate::config::MemorySizes;
use crate::export::ExportTable;
use crate::{ConnectionLimits, Error, ErrorKind, Listener};

/// What a worker is made from, on its thread.
#[derive(Debug)]
pub(crate) struct WorkerPlan {
    pub(crate) index: u16,
    /// All workers, this one included.
    pub(crate) peers: Vec<Handle>,
    pub(crate) wake: Arc<EventWake>,
    pub(crate) control: Receiver<Control>,
    pub(crate) reports: Sender<(u16, Report)>,
    pub(crate) exports: Arc<ExportTable>,
    /// For the first worker.
    pub(crate) listeners: Vec<Listener>,
    pub(crate) queue: tqueue::Config,
    pub(crate) memory: MemorySizes,
    pub(crate) depth: u32,
    pub(crate) connections: u32,
    pub(crate) limits: ConnectionLimits,
    pub(crate) on_failure: Waker,
    pub(crate) watch: Arc<HookWatch>,
}

/// The whole life of a worker's thread.
pub(crate) fn run_worker(plan: WorkerPlan) {
    // Declared first, so that it speaks last: the queue is gone by then, also after a panic.
    let mut last_words = LastWords {
        index: plan.index,
        reports: plan.reports.clone(),
        peers: plan.peers.clone(),
        on_failure: plan.on_failure.clone(),
        result: None,
    };
    last_words.result = Some(match plan.start() {
        Ok(worker) => {
            worker.report(Report::Started(Ok(())));
            worker.live()
        }
        Err(error) => {
            let _nobody = last_words.reports.send((last_words.index, Report::Started(Err(error))));
            Ok(())
        }
    });
}

impl Worker {
    fn live(mut self) -> Result<(), Error> {
        let result = self.run();
        match result {
            Ok(()) => self.close(),
            Err(_) => self.abandon(),
        }
        result
    }
}

/// Tells the server how a worker ended, and the other workers to stop if it did not end well.
struct LastWords {
    index: u16,
    reports: Sender<(u16, Report)>,
    peers: Vec<Handle>,
    on_failure: Waker,
    /// `None` after a panic.
    result: Option<Result<(), Error>>,
}

impl Drop for LastWords {
    fn drop(&mut self) {
        let panicked = || Err(Error::new(ErrorKind::Panicked, format!("worker {}", self.index)));
        let result = self.result.take().unwrap_or_else(panicked);
        if let Err(error) = &result {
            tracing::error!(worker = self.index, %error, "worker_failed");
            self.peers.iter().for_each(|peer| peer.say(Control::Fail));
            self.on_failure.wake();
        }
        let _nobody = self.reports.send((self.index, Report::Ended(result)));
    }
}

impl WorkerPlan {
    fn start(self) -> Result<Worker, Error> {
        let mut queue = Queue::new(&self.queue).map_err(queue_error("worker"))?;
        tracing::info!(worker = self.index, queue = %queue.info(), "worker_started");
        let wake_file = queue.add_file(&self.wake.file()).map_err(queue_error("waker"))?;
        let (conns, memory) = self.places(&mut queue)?;
        let lanes = self.lanes(&mut queue)?;
        let limit = self.limits.connections;
        let gauges = Arc::clone(&self.peers[usize::from(self.index)].gauges);
        let door = Door::new(self.listeners, self.peers, limit, &mut queue).map_err(queue_error("listener"))?;
        let core = Core {
            lanes,
            queue,
            memory,
            exports: self.exports,
            now: tqueue::monotonic_now(),
            hooks: HookMeter::new(&self.watch, thread::current().name().unwrap_or("nbd")),
            in_flight_max: self.limits.in_flight,
            paused: 0,
        };
        Ok(Worker {
            core,
            conns,
            door,
            partings: Vec::new(),
            wake: self.wake,
            wake_file,
            control: self.control,
            reports: self.reports,
            gauges,
            index: self.index,
            stage: Stage::Serving,
            stop_timeout: self.limits.stop_timeout,
            patience: Patience::new(&self.limits),
            tick_at: None,
            is_resuming: false,
            peer_failed: false,
        })
    }

    /// All buffers of all connections, leased now: they lie side by side, and no payload has to fit between them later.
    fn places(&self, queue: &mut Queue) -> Result<(Conns, Memory), Error> {
        // Equal sizes one after the other fill the room that was made for them.
        let memory = Memory::new(queue, &self.memory, self.connections);
        let kits = Kit::all(queue, self.connections, self.limits.in_flight);
        let places = memory.zip(kits).map(|(memory, kits)| (Conns::new(kits), memory));
        places.ok_or_else(|| {
            Error::new(
                ErrorKind::Config,
                "the arena has no room for the buffers of the connections",
            )
        })
    }

    /// Opens this thread's queue of every device. If one fails, those before it are closed again.
    fn lanes(&self, queue: &mut Queue) -> Result<Lanes, Error> {
        let mut lanes = Lanes::new(Opener {
            thread: self.index,
            threads: u16::try_from(self.peers.len()).expect("a server has at most 64 threads"),
            depth: self.depth,
            connections: self.connections as usize,
            wake: Arc::clone(&self.wake),
        });
        let opened = self.exports.iter().try_for_each(|listed| lanes.open(listed, queue));
        match opened {
            Ok(()) => Ok(lanes),
            Err(error) => {
                lanes.close_all(queue);
                Err(error)
            }
        }
    }
}
