//! What is said to workers, and what they say.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};
use iomgr_core::Wake;
use tqueue::EventWake;

use crate::export::{ExportTable, Listed};
use crate::listener::Client;
use crate::{ConnectionStats, Error};

/// Said to a worker.
#[derive(Debug)]
pub(crate) enum Control {
    /// Serve this client.
    Connection(Arrival),
    /// Say what the connections are doing.
    Connections(Sender<Vec<ConnectionStats>>),
    /// Open the queue of an export.
    Open(Listed, Answer),
    /// Clients choose from these exports from now on.
    Publish(Arc<ExportTable>, Answer),
    /// Take no commands on a lane any more; let what is on its way there end, and the clients go.
    Leave(Leave, Answer),
    /// Close a lane that every thread has left.
    CloseLane(usize, Answer),
    /// Take no clients and no commands any more; let what is on its way end.
    Stop,
    /// As `Stop`, because another worker has failed: requests that wait for that one are given up after the same time.
    Fail,
    /// Close the devices and end. Comes after [`Report::Drained`].
    Close,
}

/// What is left.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leave {
    pub(crate) lane: usize,
    /// How long clients may take to take their replies.
    pub(crate) timeout: Duration,
}

/// Where a worker says that it has done what it was told. Dropped without a word, the worker is gone.
#[derive(Clone, Debug)]
pub(crate) struct Answer(Sender<Result<(), Error>>);

impl Answer {
    /// A way to answer, and where the answers come.
    pub(crate) fn channel() -> (Self, Receiver<Result<(), Error>>) {
        let (sender, answers) = unbounded();
        (Self(sender), answers)
    }

    /// Whoever asked may have gone, and that is fine.
    pub(crate) fn give(&self, result: Result<(), Error>) {
        let _nobody = self.0.send(result);
    }
}

/// A client that was let in, and the number that it got.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) client: Client,
    pub(crate) serial: u64,
}

/// Said by worker number so-and-so.
#[derive(Debug)]
pub(crate) enum Report {
    /// Its queue is there and its devices are open; or why not, and it has ended.
    Started(Result<(), Error>),
    /// After [`Control::Stop`]: its connections are closed, its requests have ended.
    Drained,
    /// It has ended.
    Ended(Result<(), Error>),
}

/// The other side of a worker, for the server and for the worker that accepts.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    control: Sender<Control>,
    wake: Arc<EventWake>,
    pub(crate) gauges: Arc<Gauges>,
}

impl Handle {
    pub(crate) fn new(control: Sender<Control>, wake: Arc<EventWake>) -> Self {
        let gauges = Arc::default();
        Self { control, wake, gauges }
    }

    /// Says something. A worker that has ended does not listen, and that is fine.
    pub(crate) fn say(&self, control: Control) {
        let _ended = self.control.send(control);
        self.wake.wake();
    }
}

/// What a worker shows of itself, once a pass.
#[derive(Debug, Default)]
pub(crate) struct Gauges {
    /// Connections dealt to it and not over. The one who deals adds, the worker takes away.
    pub(crate) connections: AtomicU32,
    /// Commands taken whose requests have not ended.
    pub(crate) in_flight: AtomicU32,
    /// Requests that ended.
    pub(crate) requests: AtomicU64,
    /// Connections so far.
    pub(crate) accepted: AtomicU64,
    /// Operations that the kernel kept for too long.
    pub(crate) stuck_ops: AtomicU64,
}

impl Gauges {
    pub(crate) fn load(&self) -> u32 {
        self.connections.load(Ordering::Relaxed)
    }
}
