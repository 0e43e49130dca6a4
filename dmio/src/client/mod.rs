//! The client: a runner with a queue of ops of its own, on one thread.
//!
//! ```text
//!  io ──► runner ──► devices ──► queue of ops ──► kernel
//!                                    │
//!  notify ◄── events ◄── runner ◄────┘ poll: submit and wait, reap, work, tell
//! ```
//!
//! # Contract
//! - What [`Client::io`] has taken goes to the kernel in the next [`Client::poll`], which also tells what has happened; nothing happens
//!   in between. A synchronous call, and whatever else waits, polls.
//! - [`Handle`] and [`Remote`] are for any thread: a client that sleeps wakes up.
//! - A request's memory comes back with its last notification; without anybody to be notified, pool memory goes back to the pool, and
//!   other memory is dropped.
//!
//! # Cancellation
//! See [`Handle::cancel`] and [`Client::cancel_device`]. Dropping a client cancels what runs, waits a short time
//! ([`ClientConfig::drain_max`]) for what devices have, and leaves them their memory if that does not end.

mod config;
mod deliver;
mod end;
mod lend;
mod poll;
mod pool;
mod request;
mod sync;

use std::rc::Rc;
use std::sync::Arc;

use iomgr_core::{Device, Pass, Waker};
use tqueue::Queue;

pub use self::config::ClientConfig;
pub use self::end::NotDestroyed;
pub use self::request::{IoRequest, Refused};
pub use self::sync::{Outcome, States};

use self::deliver::Entry;
use self::lend::Lender;
use self::poll::Waking;
use self::sync::Awaited;
use crate::{Counters, DeviceIndex, Error, Handle, IoFlags, Notify, Occupancy, Remote, RequestId, Runner, Watch};

/// See the module.
#[derive(Debug)]
pub struct Client {
    // Drop order: the device queues go before the queue of ops that they use.
    runner: Option<Runner<Entry>>,
    lender: Lender,
    queue: Queue,
    waking: Option<Waking>,
    watch: Option<Watcher>,
    /// Somebody is being notified.
    is_notifying: bool,
    /// The request of a synchronous call.
    awaited: Option<Awaited>,
}

/// Who hears of devices.
struct Watcher(Rc<dyn Watch>);

impl std::fmt::Debug for Watcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watcher")
    }
}

impl Client {
    /// Makes a client; everything that it will ever need is allocated here.
    pub fn new(config: ClientConfig) -> Result<Self, Error> {
        let mut queue = Queue::new(&config.queue()?).map_err(|error| poll::queue_failed().because(error))?;
        let waking = Waking::new(&mut queue)?;
        let waker = waking.as_ref().map_or_else(Waker::none, Waking::waker);
        let runner = config.runner(waker, waking.is_none());
        Ok(Self {
            runner: Some(config.open(runner, &mut queue)?),
            lender: Lender::new(config.requests, config.list_max, config.lent),
            queue,
            waking,
            watch: None,
            is_notifying: false,
            awaited: None,
        })
    }

    /// Starts a request. Its regions end by themselves, whatever becomes of the handle; `notify` hears of each.
    pub fn io(&mut self, request: IoRequest<'_>, notify: Option<Rc<dyn Notify>>) -> Result<Handle, Refused> {
        let request = self.start(request, notify)?;
        Ok(self.handle(request))
    }

    /// The same without a handle, for less: by the name, which notifications have as well, nothing can be asked or given up.
    pub fn start(&mut self, request: IoRequest<'_>, notify: Option<Rc<dyn Notify>>) -> Result<RequestId, Refused> {
        if request.flags.contains(IoFlags::SYNC) {
            let error = Error::invalid("a synchronous request is for `io_sync`");
            let memory = request.memory;
            return Err(Refused { error, memory });
        }
        self.launch(request, notify)
    }

    /// Has `watch` hear what devices come to, or nobody.
    pub fn set_watch(&mut self, watch: Option<Rc<dyn Watch>>) {
        self.watch = watch.map(Watcher);
    }

    /// Gives up all regions on a device: see [`Remote::cancel_device`].
    pub fn cancel_device(&mut self, device: DeviceIndex, fence: bool) -> Result<u32, Error> {
        self.runner().shared().cancel_device(device, fence)
    }

    /// Refuses all that is new at a device: see [`Remote::fence`].
    pub fn fence(&mut self, device: DeviceIndex) -> Result<(), Error> {
        self.runner().shared().fence(device)
    }

    /// The reverse.
    pub fn unfence(&mut self, device: DeviceIndex) -> Result<(), Error> {
        self.runner().shared().unfence(device)
    }

    /// Puts another device in the place of one: all that goes on there is given up, and the new one is neither fenced nor degraded, nor
    /// does it wait for what the old one may still be writing. Bounce memory that the old one keeps is taken from the pool for
    /// the new one: where there is not enough, the device is not replaced (`Memory`). See to it that the old one cannot write to the
    /// new one.
    pub fn replace(&mut self, device: DeviceIndex, with: &Arc<dyn Device>) -> Result<(), Error> {
        let now = self.queue.now();
        let waker = self.waking.as_ref().map_or_else(Waker::none, Waking::waker);
        let pass = &mut Pass {
            now,
            io: &mut self.queue,
        };
        let runner = self.runner.as_mut().expect("it is taken when the client ends");
        runner.replace(pass, device, with, waker)
    }

    /// For other threads.
    pub fn remote(&self) -> Remote {
        self.runner().remote()
    }

    /// What was counted.
    pub fn counters(&self) -> Counters {
        self.runner().counters()
    }

    /// How much is taken.
    pub fn occupancy(&mut self) -> Occupancy {
        self.runner_mut().occupancy()
    }

    /// A readable picture of all that is under way, and of the queue below.
    pub fn dump(&self) -> String {
        format!("{}{}", self.remote().dump(), self.queue.dump())
    }

    /// What the queue of ops has counted.
    pub fn queue_counters(&self) -> tqueue::Counters {
        self.queue.counters()
    }

    /// How the queue of ops runs them.
    pub fn queue_info(&self) -> tqueue::QueueInfo {
        self.queue.info()
    }

    fn runner(&self) -> &Runner<Entry> {
        self.runner.as_ref().expect("it is taken when the client ends")
    }

    fn runner_mut(&mut self) -> &mut Runner<Entry> {
        self.runner.as_mut().expect("it is taken when the client ends")
    }
}
