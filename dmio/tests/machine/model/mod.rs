//! What a machine must do, said as simply as possible: lists that are searched from end to end, and nothing counted ahead.
//!
//! The model sees each call, does the same in its own way, and compares what the machine says: which requests it takes, what it
//! submits and gives up, in which order, what it tells, and what it counts.

mod calls;
mod choice;
mod ends;
mod events;
mod rules;

use std::time::Duration;

use dmio::{
    Counters, DeviceConfig, DeviceIndex, Generation, IoFlags, LegId, MachineConfig, MemoryKind, Region, RegionState,
    RequestId,
};
use iomgr_core::{Errno, Operation, Timestamp};

/// A region: the place of its request in the list of all there ever were, and its own place there.
pub(crate) type Key = (usize, usize);

/// Where the leg of a region is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Idle,
    Waiting,
    Held,
    Ready,
    Parked,
    AtDevice,
    Orphan,
    Gone,
}

#[derive(Clone, Debug)]
pub(crate) struct Part {
    region: Region,
    place: Place,
    leg: Option<LegId>,
    generation: Generation,
    state: Option<RegionState>,
    is_timed_out: bool,
    /// When it ended, and when its time was up.
    ended: Timestamp,
    timed_out: Timestamp,
    is_detached: bool,
    is_indeterminate: bool,
    /// Its request's bytes are in memory that it shares.
    is_filled: bool,
    answer: Option<(Timestamp, Result<(), Errno>)>,
}

#[derive(Clone, Debug)]
pub(crate) struct Request {
    id: RequestId,
    op: Operation,
    choice: bool,
    timeout: Option<Duration>,
    flags: IoFlags,
    memory: MemoryKind,
    parts: Vec<Part>,
    /// The next candidate.
    next: usize,
    handles: u32,
    /// The last end was told while orphans had the memory.
    owes_memory: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Device {
    config: DeviceConfig,
    generation: Generation,
    is_fenced: bool,
    is_busy: bool,
    told_degraded: bool,
}

/// What is to be told of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    Timeout(usize),
    End(usize),
    Late(usize),
    MemoryFree,
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    config: MachineConfig,
    devices: Vec<Device>,
    /// All that there ever were.
    requests: Vec<Request>,
    /// Legs that wait for memory, in order.
    waiting: Vec<Key>,
    /// Writes that wait for others, in order.
    held: Vec<Key>,
    ready: Vec<Key>,
    parked: Vec<Key>,
    cancels: Vec<Key>,
    /// Requests, and the ticks in which their time is up, in the order in which that was set.
    armed: Vec<(u64, usize)>,
    news: Vec<(usize, News)>,
    counters: Counters,
}

impl Model {
    pub(crate) fn new(config: &MachineConfig) -> Self {
        let device = |config: &DeviceConfig| Device {
            config: *config,
            generation: Generation(0),
            is_fenced: false,
            is_busy: false,
            told_degraded: false,
        };
        Self {
            devices: config.devices.iter().map(device).collect(),
            config: config.clone(),
            requests: Vec::new(),
            waiting: Vec::new(),
            held: Vec::new(),
            ready: Vec::new(),
            parked: Vec::new(),
            cancels: Vec::new(),
            armed: Vec::new(),
            news: Vec::new(),
            counters: Counters::default(),
        }
    }

    fn part(&self, (request, part): Key) -> &Part {
        &self.requests[request].parts[part]
    }

    fn part_mut(&mut self, (request, part): Key) -> &mut Part {
        &mut self.requests[request].parts[part]
    }

    fn device(&self, device: DeviceIndex) -> &Device {
        &self.devices[usize::from(device.0)]
    }

    fn device_mut(&mut self, device: DeviceIndex) -> &mut Device {
        &mut self.devices[usize::from(device.0)]
    }

    fn device_of(&self, key: Key) -> DeviceIndex {
        self.part(key).region.device
    }

    /// All regions of requests that are not forgotten.
    fn keys(&self) -> impl Iterator<Item = Key> {
        let remembered = (0..self.requests.len()).filter(|&request| !self.is_forgotten(request));
        remembered.flat_map(|request| self.keys_of(request))
    }

    /// Those that wait first, from the last one on.
    fn keys_on(&self, device: DeviceIndex) -> Vec<Key> {
        let here = |&key: &Key| self.device_of(key) == device;
        let waiting = self.waiting.iter().rev().copied();
        let others = self.keys().filter(|key| !self.waiting.contains(key));
        waiting.chain(others).filter(here).collect()
    }

    fn keys_of(&self, request: usize) -> impl Iterator<Item = Key> + use<> {
        (0..self.requests[request].parts.len()).map(move |part| (request, part))
    }

    fn find(&self, id: RequestId) -> Option<usize> {
        let found = self.requests.iter().position(|request| request.id == id)?;
        (!self.is_forgotten(found)).then_some(found)
    }

    /// Nobody has a handle, nothing runs, no device has any of it, and all was told.
    fn is_forgotten(&self, request: usize) -> bool {
        let is_told = self.news.iter().all(|(about, _)| *about != request);
        let Request {
            handles,
            owes_memory,
            parts,
            ..
        } = &self.requests[request];
        let is_gone = parts.iter().all(|part| part.place == Place::Gone);
        *handles == 0 && !owes_memory && is_gone && is_told
    }
}
