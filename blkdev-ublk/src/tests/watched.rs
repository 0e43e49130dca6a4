//! A device that writes down how its queues are opened and closed.

use std::error::Error;
use std::sync::{Arc, Mutex};

use iomgr_core::{
    Busy, CancelOutcome, Device, DeviceQueue, Done, Limits, OpDone, OpQueue, Pass, QueueContext, Request, Tag,
    Timestamp,
};
use rustix::thread::{CpuSet, sched_getaffinity};

/// Another device, watched.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) device: Arc<dyn Device>,
    pub(super) seen: Arc<Seen>,
    pub(super) before_close: BeforeClose,
}

/// What was seen, in order.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) opened: Mutex<Vec<Opened>>,
    pub(super) closed: Mutex<Vec<u16>>,
}

/// How a queue was opened.
#[derive(Clone, Debug)]
pub(super) struct Opened {
    pub(super) index: u16,
    pub(super) count: u16,
    /// Where its thread may run.
    pub(super) cpus: CpuSet,
}

/// What happens on a queue's thread before the queue is closed.
#[derive(Clone)]
pub(super) struct BeforeClose(pub(super) Arc<dyn Fn(u16) + Send + Sync>);

impl std::fmt::Debug for BeforeClose {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BeforeClose")
    }
}

impl Device for Watched {
    fn name(&self) -> &str {
        self.device.name()
    }

    fn limits(&self) -> Limits {
        self.device.limits()
    }

    fn open_queue(&self, cx: QueueContext<'_>) -> Result<Box<dyn DeviceQueue>, Box<dyn Error + Send + Sync>> {
        let (index, count) = (cx.index, cx.count);
        let queue = self.device.open_queue(cx)?;
        let cpus = sched_getaffinity(None).unwrap();
        self.seen.opened.lock().unwrap().push(Opened { index, count, cpus });
        Ok(Box::new(WatchedQueue {
            queue,
            index,
            seen: Arc::clone(&self.seen),
            before_close: self.before_close.clone(),
        }))
    }
}

#[derive(Debug)]
struct WatchedQueue {
    queue: Box<dyn DeviceQueue>,
    index: u16,
    seen: Arc<Seen>,
    before_close: BeforeClose,
}

impl DeviceQueue for WatchedQueue {
    fn submit(&mut self, pass: &mut Pass<'_>, request: Request) -> Result<(), Busy> {
        self.queue.submit(pass, request)
    }

    fn op_done(&mut self, pass: &mut Pass<'_>, done: OpDone) {
        self.queue.op_done(pass, done);
    }

    fn kick(&mut self, pass: &mut Pass<'_>) {
        self.queue.kick(pass);
    }

    fn wake_at(&self) -> Option<Timestamp> {
        self.queue.wake_at()
    }

    fn poll_done(&mut self) -> Option<Done> {
        self.queue.poll_done()
    }

    fn busy(&self) -> bool {
        self.queue.busy()
    }

    fn cancel(&mut self, pass: &mut Pass<'_>, tag: Tag) -> CancelOutcome {
        self.queue.cancel(pass, tag)
    }

    fn is_idle(&self) -> bool {
        self.queue.is_idle()
    }

    fn close(self: Box<Self>, io: &mut dyn OpQueue) {
        (self.before_close.0)(self.index);
        self.queue.close(io);
        self.seen.closed.lock().unwrap().push(self.index);
    }
}
