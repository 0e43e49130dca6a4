//! The machine: decides what becomes of the regions of requests. It does no I/O and has no memory, thread or clock.
//!
//! ```text
//!  start ──► waits for memory ──► waits for a write ──► ready ──► at its device ──────► over
//!                   (quota)           (holds)         poll_submit      │   handle_completion
//!                                                                      │ cancel
//!                                                                      ▼
//!                                                                   orphan ───────────► answered, late
//! ```
//!
//! Its owner hands out what [`Machine::poll_submit`] and [`Machine::poll_cancel`] say, tells it what devices answered and what
//! time it is, and passes on what [`Machine::poll_event`] says. Cancelling only changes states and queues work for the
//! owner, so that any thread may do it, behind the mutex that the owner keeps the machine in.
//!
//! # Contract
//! - Each region of a request yields one event with its end, and at most one TIMEOUT before it.
//! - A leg is the I/O of one region at its device. Its number is the tag there, and stays taken until the device has
//!   answered, whatever has become of the region meanwhile.
//! - No two writes that devices have at the same time overlap, orphans included: a later one waits, in order. Writes of
//!   which one is still waiting for memory have no order.
//! - What a request uses stays its own until all its legs are answered, its events are taken and its handles released.
//! - Nothing allocates after [`Machine::new`], but for [`Machine::add_cells`].
//!
//! # Cancellation
//! A cancelled region is over at once. What its device has of it becomes an orphan: it keeps its memory and, if it writes, its
//! hold on the sectors until the device answers or is replaced. Calls that come too late, or name what is not there, do nothing.

mod cancel;
mod check;
mod choice;
mod complete;
mod device;
mod dump;
mod events;
mod holds;
mod leg;
mod quota;
mod request;
mod self_check;
mod start;
mod submit;
mod time;

use std::time::Duration;

use iomgr_core::{Operation, RequestFlags, SectorCount, SectorRange};

pub use self::complete::Completed;
pub use self::device::{DeviceConfig, Generation};
pub use self::dump::Dump;
pub use self::events::{Event, Late, RegionEvent};
pub use self::leg::LegId;
pub use self::quota::CellId;
pub use self::request::RequestId;
pub use self::submit::{Submission, ToCancel};

use self::device::Device;
use self::leg::Leg;
use self::quota::Cells;
use self::request::Request;
use crate::slots::{Links, List, Slots};
use crate::{Counters, DeviceIndex, Error, ErrorKind, IoFlags, Occupancy, REGIONS_MAX, Region, Wheel};

/// What a machine is made for.
#[derive(Clone, Debug)]
pub struct MachineConfig {
    /// Requests that are not forgotten, at most.
    pub requests: u32,
    /// Regions of them, at most: the depth that devices are opened with.
    pub legs: u32,
    /// The devices that regions name.
    pub devices: Vec<DeviceConfig>,
    /// Requests with bounce memory on one device, at most, orphans included; so many always find memory, whatever other devices do.
    pub min_ios: u32,
    /// Orphans of a device with which it is degraded.
    pub orphans_max: u32,
    /// The longest region that is read or written.
    pub max_size: SectorCount,
}

/// Whose memory a request uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MemoryKind {
    /// It needs none.
    None,
    /// The machine's cells: the caller's memory is copied from and to.
    Bounce,
    /// The caller's own, which devices use directly.
    Lent {
        /// May devices keep it when the request is over? Then it can be cancelled, and the memory comes back by an event.
        cancellable: bool,
    },
}

/// A request: one operation on one or several regions.
#[derive(Clone, Copy, Debug)]
pub struct Io<'a> {
    /// What to do.
    pub op: Operation,
    /// How devices are to do it.
    pub request_flags: RequestFlags,
    /// Where; one to 64.
    pub regions: &'a [Region],
    /// A read of several regions of the same content: the first that is read is enough. They are tried in order.
    pub choice: bool,
    /// When to tell that a region still runs; counted from now, for a candidate of a choice from its turn.
    pub timeout: Option<Duration>,
    /// How to run it.
    pub flags: IoFlags,
    /// Whose memory.
    pub memory: MemoryKind,
}

/// See the module.
#[derive(Debug)]
pub struct Machine {
    min_ios: u32,
    orphans_max: u32,
    max_size: SectorCount,
    devices: Vec<Device>,
    requests: Slots<Request>,
    legs: Slots<Leg>,
    /// The leg of each region: [`REGIONS_MAX`] entries for each request.
    legs_of: Vec<u32>,
    /// Of `ready`, `cancels`, and the lists of devices.
    leg_links: Links,
    /// Legs to submit.
    ready: List,
    /// Orphans whose device is to be told.
    cancels: List,
    cells: Cells,
    /// Requests that have bounce memory at devices that were replaced, for each such device.
    strays: u32,
    /// Of `eventful`.
    event_links: Links,
    /// Requests with something to tell.
    eventful: List,
    /// A device may have something to tell.
    is_device_news: bool,
    wheel: Wheel,
    counters: Counters,
}

impl Machine {
    /// Makes a machine; all that it will ever need is allocated here.
    pub fn new(config: MachineConfig) -> Result<Self, Error> {
        let cells = check::config(&config)?;
        let MachineConfig { requests, legs, .. } = config;
        let device = |config| Device::new(config, legs);
        Ok(Self {
            min_ios: config.min_ios,
            orphans_max: config.orphans_max,
            max_size: config.max_size,
            devices: config.devices.into_iter().map(device).collect(),
            requests: Slots::new(requests, Request::VACANT),
            legs: Slots::new(legs, Leg::vacant(SectorRange::default())),
            legs_of: vec![0; requests as usize * REGIONS_MAX],
            leg_links: Links::new(legs),
            ready: List::EMPTY,
            cancels: List::EMPTY,
            cells: Cells::new(cells),
            strays: 0,
            event_links: Links::new(requests),
            eventful: List::EMPTY,
            is_device_news: false,
            wheel: Wheel::new(requests),
            counters: Counters::default(),
        })
    }

    /// How many cells of bounce memory there are: names are below it.
    pub fn cells(&self) -> u32 {
        self.cells.capacity()
    }

    /// What was counted.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// How much is taken. Looks at everything that is.
    pub fn occupancy(&self) -> Occupancy {
        let (cells_used, cells_orphaned) = self.cells_taken();
        let count = |is: fn(&Leg) -> bool| self.taken_legs().filter(|&leg| is(&self.legs[leg])).count();
        let small = |count| u32::try_from(count).expect("slots are numbered by 32 bits");
        Occupancy {
            requests: small(self.requests.used()),
            running: self
                .taken_requests()
                .map(|index| self.requests[index].running.count_ones())
                .sum(),
            orphans: small(count(Leg::is_orphan)),
            cells_free: self.cells.free(),
            cells_used,
            cells_orphaned,
        }
    }

    fn device(&self, device: DeviceIndex) -> Result<&Device, Error> {
        let none = || Error::new(ErrorKind::Unknown, "no device has this number");
        self.devices.get(usize::from(device.0)).ok_or_else(none)
    }
}
