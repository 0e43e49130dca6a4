//! Devices as managers see them.

use std::sync::{Arc, PoisonError};

use super::freed::Sleeper;
use super::generation::Binding;
use super::registry::Core;
use super::{Counters, WaitTimes};
use crate::shim::{self, ArcSwap, Mutex, MutexGuard};

/// A small number that tells devices of one registry apart. Numbers are dense, and used again only when every manager
/// that saw the device got its `dev_stop`, so that a manager may index a table by them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceId(pub u32);

/// What hooks learn about a device.
#[derive(Debug)]
pub struct DeviceInfo {
    id: DeviceId,
    name: String,
    ids: Arc<DeviceIds>,
}

impl DeviceInfo {
    pub(super) fn new(name: &str, ids: &Arc<DeviceIds>) -> Self {
        Self {
            id: ids.take(),
            name: name.to_owned(),
            ids: Arc::clone(ids),
        }
    }

    /// Its number.
    pub fn id(&self) -> DeviceId {
        self.id
    }

    /// Its name, for people; not necessarily unique.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for DeviceInfo {
    fn drop(&mut self) {
        self.ids.give_back(self.id);
    }
}

/// The numbers that are free. Lock order: innermost, held for these few lines only.
#[derive(Debug, Default)]
pub(super) struct DeviceIds(Mutex<FreeIds>);

#[derive(Debug, Default)]
struct FreeIds {
    next: u32,
    returned: Vec<DeviceId>,
}

impl DeviceIds {
    fn take(&self) -> DeviceId {
        let mut ids = self.lock();
        ids.returned.pop().unwrap_or_else(|| {
            ids.next += 1;
            DeviceId(ids.next - 1)
        })
    }

    fn give_back(&self, id: DeviceId) {
        self.lock().returned.push(id);
    }

    fn lock(&self) -> MutexGuard<'_, FreeIds> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A device attached to a registry. Intakes hold it; when the last holder drops it, it is detached.
#[derive(Debug)]
pub struct ManagedDevice {
    info: Arc<DeviceInfo>,
    /// Which manager it is started with. Intakes read it once a pass.
    pub(super) binding: Arc<ArcSwap<Binding>>,
    /// Lock order: inside the registry's lock, outside none.
    queues: Mutex<Queues>,
    registry: Arc<Core>,
}

/// Its intakes.
#[derive(Debug, Default)]
struct Queues {
    open: Vec<shim::Arc<Sleeper>>,
    opened: u32,
}

impl ManagedDevice {
    pub(super) fn new(info: Arc<DeviceInfo>, binding: shim::Arc<Binding>, registry: Arc<Core>) -> Self {
        registry.ledger.attach(info.id());
        Self {
            info,
            binding: Arc::new(ArcSwap::new(binding)),
            queues: Mutex::default(),
            registry,
        }
    }

    /// What managers know about it.
    pub fn info(&self) -> &Arc<DeviceInfo> {
        &self.info
    }

    /// Requests that started and have not ended, over all its queues.
    pub fn pending(&self) -> u64 {
        self.counters().pending()
    }

    /// What passed the hooks so far, over all its queues.
    pub fn counters(&self) -> Counters {
        self.registry.ledger.device(self.info.id()).counters
    }

    /// How long requests waited for their grants so far, over all its queues.
    pub fn wait_times(&self) -> WaitTimes {
        self.registry.ledger.device(self.info.id()).wait_times
    }

    /// Ends it early: its intakes are woken, grant nothing more and hand what they hold back from
    /// [`Intake::close`](super::Intake::close). Its manager gets `dev_stop` after the last free.
    pub fn detach(&self) {
        self.registry.detach(self);
    }

    pub(super) fn is_detached(&self) -> bool {
        self.binding.load().last
    }

    /// Makes every intake run a pass.
    pub(super) fn wake_all(&self) {
        for sleeper in &self.lock().open {
            sleeper.wake();
        }
    }

    /// Adds an intake; says its number.
    pub(super) fn open_queue(&self, sleeper: &shim::Arc<Sleeper>) -> u32 {
        let mut queues = self.lock();
        queues.open.push(shim::Arc::clone(sleeper));
        queues.opened += 1;
        queues.opened
    }

    pub(super) fn close_queue(&self, sleeper: &shim::Arc<Sleeper>) {
        self.lock().open.retain(|open| !shim::Arc::ptr_eq(open, sleeper));
    }

    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ManagedDevice {
    fn drop(&mut self) {
        self.registry.forget_device(self.info.id());
    }
}
