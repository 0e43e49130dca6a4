//! The machine at work: with devices' queues on somebody's thread, and with the memory that goes there.
//!
//! ```text
//!  start ─► machine ─► legs ─► device queues ─► ops of the thread's queue
//!                        │           │
//!  next_event ◄─ machine ◄─ answers ◄┴──── op_done
//! ```
//!
//! It owns no thread and no queue of ops: whoever owns both calls [`Runner::op_done`] for each completion that is
//! [one of its own](Runner::owns), and [`Runner::work`] once in each pass of its loop and before it sleeps; then it takes events until
//! there are none. A [`Client`](crate::Client) is such a loop; a device that is made of others sits on its frontend's.
//!
//! # Contract
//! - A request's payload is used from `start` until the event says that the memory is free; what came with it, and with which value, is
//!   to be taken then ([`Runner::finish`]).
//! - Of a list of memory each part is a request at its device: whole logical blocks. They end as one.
//! - Nothing allocates after [`Runner::new`], but for [`Runner::replace`].

mod answers;
mod bounce;
mod desk;
mod events;
mod lists;
mod payload;
mod places;
mod submit;

use std::ops::Range;
use std::sync::Arc;

use iomgr_core::{Device, Lease, OpDone, OpQueue, Owner, Pass, SectorCount, Timestamp, Waker};

pub use self::payload::Payload;
pub use self::places::PlaceInfo;

use self::desk::Desk;
use self::events::Events;
use self::payload::Slot;
use crate::core::{Clock, Core, Shared};
use crate::{
    Counters, DeviceConfig, DeviceIndex, Error, ErrorKind, Event, Handle, Io, Machine, MachineConfig, Occupancy,
    Remote, RequestId,
};

/// Most parts of lists at devices.
const PARTS_MAX: u32 = 1 << 16;
/// Most parts of a list.
const LIST_MAX: u32 = 64;

/// How large a runner is.
#[derive(Clone, Debug)]
pub struct RunnerConfig {
    /// Requests that are not forgotten, at most.
    pub requests: u32,
    /// Regions of them, at most.
    pub regions: u32,
    /// Requests with bounce memory on one device that always make progress.
    pub min_ios: u32,
    /// Orphans with which a device is degraded.
    pub orphans_max: u32,
    /// The longest region that is read or written.
    pub max_size: SectorCount,
    /// Parts of lists that are at devices at the same time, one for each region that they serve; 65536 at most.
    pub parts: u32,
    /// Parts of a list, 64 at most.
    pub list_max: u32,
    /// Owners of ops that device queues may stamp on theirs: one for each device, and one for each that was replaced and still
    /// owes answers.
    pub owners: Range<u16>,
    /// Whose time it is.
    pub clock: Clock,
    /// Wakes the thread.
    pub waker: Waker,
}

impl RunnerConfig {
    /// What the machine does not check.
    fn check(&self) -> Result<(), Error> {
        for (name, number, most) in [("parts", self.parts, PARTS_MAX), ("list_max", self.list_max, LIST_MAX)] {
            if number > most {
                let what = format!("{name}: {number} is out of range; give {most} at most");
                return Err(Error::new(ErrorKind::Config, what));
            }
        }
        Ok(())
    }
}

/// See the module. `T` is what the user wants back with a request's end.
#[derive(Debug)]
pub struct Runner<T> {
    shared: Arc<Shared>,
    desk: Desk,
    /// By request.
    slots: Box<[Slot<T>]>,
    events: Events,
    /// When to work although nothing has happened.
    wake_at: Option<Timestamp>,
}

impl<T> Runner<T> {
    /// Opens a queue of each device. Bounce memory is leased by `lease`, a cell of the given length at a time. Where anything fails,
    /// nothing is left behind in the queue of ops.
    pub fn new(
        config: RunnerConfig,
        devices: &[Arc<dyn Device>],
        io: &mut dyn OpQueue,
        lease: impl FnMut(&mut dyn OpQueue, u32) -> Option<Lease>,
    ) -> Result<Self, Error> {
        config.check()?;
        let limits = devices.iter().map(|device| DeviceConfig::of(&**device)).collect();
        let machine = Machine::new(MachineConfig {
            requests: config.requests,
            legs: config.regions,
            devices: limits,
            min_ios: config.min_ios,
            orphans_max: config.orphans_max,
            max_size: config.max_size,
        })?;
        let cells = bounce::lease_cells(machine.cells(), config.max_size, io, lease)?;
        let core = Core {
            machine,
            clock: config.clock,
            now: Timestamp::ZERO,
            is_watched: false,
        };
        let requests = config.requests as usize;
        Ok(Self {
            slots: (0..requests).map(|_| Slot::new(config.list_max)).collect(),
            events: Events::new(requests),
            wake_at: None,
            shared: Arc::new(Shared::new(core, config.waker.clone())),
            desk: Desk::new(&config, devices, cells, io)?,
        })
    }

    /// Is the op one of its device queues'?
    pub fn owns(&self, owner: Owner) -> bool {
        self.desk.places.owns(owner)
    }

    /// Takes the completion of an op of its own.
    pub fn op_done(&mut self, pass: &mut Pass<'_>, done: OpDone) {
        self.desk.places.op_done(pass, done);
    }

    /// Lets all device queues look for news from other threads. When the thread was woken.
    pub fn kick(&mut self, pass: &mut Pass<'_>) {
        self.desk.places.kick(pass, |_| true);
    }

    /// One pass: what devices have answered, whose time is up, what is to be given up and submitted. The mutex is taken once.
    pub fn work(&mut self, pass: &mut Pass<'_>) {
        let now = pass.now;
        self.desk.places.kick(pass, |at| at <= now);
        let Self {
            shared,
            desk,
            slots,
            events,
            wake_at,
        } = self;
        shared.own(|core| {
            core.now = now;
            events.settle(&mut core.machine);
            desk.work(&mut core.machine, pass, slots);
            events.fetch(&mut core.machine);
            *wake_at = core.machine.poll_timeout();
        });
        self.desk.places.bury(pass.io);
    }

    /// When to [`work`](Self::work) although nothing has happened: now, if there are events.
    pub fn wake_at(&self) -> Option<Timestamp> {
        let now = (!self.events.is_empty()).then_some(Timestamp::ZERO);
        let devices = self.desk.places.wake_at();
        now.into_iter().chain(self.wake_at).chain(devices).min()
    }

    /// The next thing to tell, until there is none. After an event that says that memory is free, [`finish`](Self::finish) the request.
    pub fn next_event(&mut self) -> Option<Event> {
        if let Some(event) = self.events.next() {
            return Some(event);
        }
        if self.events.are_all() {
            return None;
        }
        let Self { shared, events, .. } = self;
        shared.own(|core| {
            events.settle(&mut core.machine);
            events.fetch(&mut core.machine);
        });
        self.events.next()
    }

    /// What came with a request that is not over, or was not finished.
    pub fn value(&self, request: RequestId) -> Option<&T> {
        self.slots[request.index()].value.as_ref()
    }

    /// Likewise, to change.
    pub fn value_mut(&mut self, request: RequestId) -> Option<&mut T> {
        self.slots[request.index()].value.as_mut()
    }

    /// Gives back what came with a request, after the event that its memory is free. Its slot is free afterwards, if no handles are left.
    pub fn finish(&mut self, request: RequestId) -> (Payload<'static>, Option<T>) {
        let Slot {
            payload, value, parts, ..
        } = &mut self.slots[request.index()];
        self.desk.lists.unreserve(std::mem::take(parts));
        let ended = (std::mem::take(payload), value.take());
        self.events.finished(request);
        ended
    }

    /// Starts a request, whose name is good until it is finished, and longer with a [handle](Self::handle); it is submitted in the
    /// next [`work`](Self::work). Refused, it leaves no trace.
    pub fn start(
        &mut self,
        now: Timestamp,
        io: &Io<'_>,
        payload: Payload<'_>,
        value: T,
    ) -> Result<RequestId, (Error, Payload<'static>, T)> {
        let io = Io {
            memory: payload.kind(),
            ..*io
        };
        let started = self
            .desk
            .check(&io, &payload)
            .and_then(|parts| Ok((self.admit(now, &io)?, parts)));
        match started {
            Ok((id, parts)) => {
                self.desk.lists.reserve(parts);
                self.slots[id.index()].fill(&io, payload, value, parts);
                self.events.expect();
                Ok(id)
            }
            Err(error) => Err((error, payload.kept(), value)),
        }
    }

    /// Starts a request in the machine. The handle is our own: until it is finished, nobody else gets its slot.
    fn admit(&mut self, now: Timestamp, io: &Io<'_>) -> Result<RequestId, Error> {
        let Self { shared, events, .. } = self;
        shared.own(|core| {
            events.settle(&mut core.machine);
            core.machine.start(now, io)
        })
    }

    /// A handle of a request that was not finished.
    pub fn handle(&self, request: RequestId) -> Result<Handle, Error> {
        self.shared.own(|core| core.machine.acquire(request))?;
        Ok(Handle::new(Arc::clone(&self.shared), request))
    }

    /// Gives up the regions of a request: see [`Machine::cancel`].
    pub fn cancel(&mut self, request: RequestId) -> Result<u32, Error> {
        self.shared.cancel(request)
    }

    /// For other threads.
    pub fn remote(&self) -> Remote {
        Remote::new(Arc::clone(&self.shared))
    }

    /// Puts another device in the place of one: see [`Machine::replace`]. The old one's queue is closed when it has answered for all;
    /// bounce memory that it keeps until then is leased anew, from the queue of ops, for the new one.
    pub fn replace(
        &mut self,
        pass: &mut Pass<'_>,
        device: DeviceIndex,
        with: &Arc<dyn Device>,
        waker: Waker,
    ) -> Result<(), Error> {
        let Self { shared, desk, .. } = self;
        let next = desk.places.open(pass.io, with, waker)?;
        let replaced = shared.own(|core| {
            let missing = core.machine.cells_missing(device)?;
            desk.cells.grow(missing, pass.io)?;
            core.machine.add_cells(missing);
            core.machine.replace(pass.now, device, DeviceConfig::of(&**with))
        });
        match replaced {
            Ok(generation) => {
                desk.replace(device, generation, next);
                tracing::warn!(device = device.0, generation = generation.0, "device_replaced");
                Ok(())
            }
            Err(error) => {
                desk.places.discard(next, pass.io);
                Err(error)
            }
        }
    }

    /// The device of a number, as it was opened.
    pub fn place(&self, device: DeviceIndex) -> Option<&PlaceInfo> {
        self.desk.places.info(device)
    }

    /// What was counted.
    pub fn counters(&self) -> Counters {
        self.shared.own(|core| core.machine.counters())
    }

    /// How much is taken. What is over and finished is not.
    pub fn occupancy(&mut self) -> Occupancy {
        let Self { shared, events, .. } = self;
        shared.own(|core| {
            events.settle(&mut core.machine);
            core.machine.occupancy()
        })
    }

    /// Is nothing at any device, and nothing to be told?
    pub fn is_idle(&self) -> bool {
        self.events.is_empty() && self.desk.places.are_idle()
    }

    /// Closes the device queues that are idle; others are left as they are, and so is the memory that their devices work on.
    pub fn close(self, io: &mut dyn OpQueue) {
        let Self { desk, .. } = self;
        desk.close(io);
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl DeviceConfig {
    /// Of a device as it is now.
    pub fn of(device: &dyn Device) -> Self {
        let limits = device.limits();
        Self {
            size: limits.size,
            logical_block_bytes: limits.logical_block_bytes,
            read_only: limits.read_only,
        }
    }
}
