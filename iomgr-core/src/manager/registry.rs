//! Which manager is current, and which devices it manages.

use std::sync::{Arc, PoisonError, Weak};

use super::device::DeviceIds;
use super::generation::{Binding, Generation};
use super::ledger::{GenerationStats, Ledger};
use super::{Counters, DeviceId, DeviceInfo, Error, ErrorKind, ManagedDevice, Manager, NoManager, WaitTimes};
use crate::shim::{self, Mutex, MutexGuard, Ordering};

/// Most characters of a manager's name.
pub const NAME_MAX: usize = 15;

/// The current manager and the devices under it. A handle: clones are the same registry.
#[derive(Clone, Debug)]
pub struct Registry(Arc<Core>);

/// What the handles share.
///
/// Lock order: `state`, then a device's queues, then a generation's sleepers. `dev_start` runs under `state`; every other
/// hook, wakers, and whatever a manager does when it is dropped run under no lock (see [`Leftovers`]).
#[derive(Debug)]
pub(super) struct Core {
    state: Mutex<State>,
    ids: Arc<DeviceIds>,
    pub(super) ledger: Arc<Ledger>,
}

#[derive(Debug)]
struct State {
    current: shim::Arc<Generation>,
    devices: Vec<Weak<ManagedDevice>>,
    /// No manager is taken any more.
    is_closed: bool,
}

/// What a change under the lock leaves to be done after it: dropped bindings stop devices, dropped devices take the lock.
/// Declared before the guard, so that it is dropped after it.
#[derive(Default)]
struct Leftovers {
    devices: Vec<Arc<ManagedDevice>>,
    bindings: Vec<shim::Arc<Binding>>,
    old: Option<shim::Arc<Generation>>,
}

impl Registry {
    /// A registry with no devices and manager "none".
    pub fn new() -> Self {
        let ledger = Arc::new(Ledger::default());
        Self(Arc::new_cyclic(|core| {
            let current = shim::Arc::new(Generation::none(1, Weak::clone(core), &ledger));
            current.begin();
            let state = State {
                current,
                devices: Vec::new(),
                is_closed: false,
            };
            Core {
                state: Mutex::new(state),
                ids: Arc::default(),
                ledger,
            }
        }))
    }

    /// Makes `manager` the current one, where there is none.
    pub fn register(&self, manager: Arc<dyn Manager>) -> Result<(), Error> {
        self.0.install(&manager, |current| match current.is_hooked() {
            true => Err(Error::new(ErrorKind::Occupied, current.name())),
            false => Ok(()),
        })
    }

    /// Makes `manager` the current one, whatever was before.
    ///
    /// A manager that was replaced can come back only when the last request that it had admitted has ended
    /// ([`ErrorKind::InUse`] until then); another instance of the same policy can at once.
    pub fn replace(&self, manager: Arc<dyn Manager>) -> Result<(), Error> {
        self.0.install(&manager, |_| Ok(()))
    }

    /// Goes back to "none". Refused if `manager` is not the very one that is current.
    pub fn unregister(&self, manager: &Arc<dyn Manager>) -> Result<(), Error> {
        let error = || Error::new(ErrorKind::NotCurrent, manager.name());
        self.0
            .uninstall(|state| state.current.is_of(manager))
            .then_some(())
            .ok_or_else(error)
    }

    /// Goes back to "none", for good: when a server ends there is nothing left to share out, and nothing must wait for a manager
    /// that comes at that moment. From now on managers are refused ([`ErrorKind::Closed`]). Fine if it is closed.
    pub fn close(&self) {
        self.0.uninstall(|state| {
            state.is_closed = true;
            state.current.is_hooked()
        });
    }

    /// The current manager.
    pub fn current(&self) -> Arc<dyn Manager> {
        Arc::clone(&self.0.lock().current.manager)
    }

    /// Has every request that waits judged anew: the current manager has other parameters than before.
    pub fn rejudge(&self) {
        let mut leftovers = Leftovers::default();
        let state = self.0.lock();
        leftovers.devices = state.devices();
        // Release: who sees it sees the parameters. An intake that misses it here is woken below, and looks again.
        state.current.revision.fetch_add(1, Ordering::Release);
        drop(state);
        leftovers.wake_all();
    }

    /// Starts a device with the current manager, which may refuse it.
    pub fn attach(&self, name: &str) -> Result<Arc<ManagedDevice>, Error> {
        let info = Arc::new(DeviceInfo::new(name, &self.0.ids));
        loop {
            match self.0.attach(&info) {
                // It is "none" now.
                Err((error, generation)) if error.kind() == ErrorKind::Panicked => self.0.fall_back(&generation),
                other => return other.map_err(|(error, _)| error),
            }
        }
    }

    /// The devices that are attached, in the order in which they came.
    pub fn devices(&self) -> Vec<Arc<ManagedDevice>> {
        let mut devices = self.0.lock().devices();
        devices.retain(|device| !device.is_detached());
        devices
    }

    /// Requests that started and have not ended, over all devices.
    pub fn pending_total(&self) -> u64 {
        self.counters().pending()
    }

    /// What passed the hooks so far, over all devices, those that are gone included.
    pub fn counters(&self) -> Counters {
        self.0.ledger.total().counters
    }

    /// How long requests waited for their grants so far, over all devices, those that are gone included.
    pub fn wait_times(&self) -> WaitTimes {
        self.0.ledger.total().wait_times
    }

    /// What passed the hooks of each generation, the oldest first: the current one, and those before it that still have
    /// requests on their way or whose end some queue has not noticed yet.
    pub fn generations(&self) -> Vec<GenerationStats> {
        let state = self.0.lock();
        self.0.ledger.generations(state.current.reign.number)
    }
}

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

impl Core {
    fn install(
        self: &Arc<Self>,
        manager: &Arc<dyn Manager>,
        permit: impl FnOnce(&Generation) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let name = manager.name().to_owned();
        check_name(&name)?;
        let mut leftovers = Leftovers::default();
        let mut state = self.lock();
        if state.is_closed {
            return Err(Error::new(ErrorKind::Closed, &name));
        }
        permit(&state.current)?;
        if self.ledger.has_reign_of(manager) {
            return Err(Error::new(ErrorKind::InUse, &name));
        }
        let (number, core) = (state.next_number(), Arc::downgrade(self));
        let generation = shim::Arc::new(Generation::new(number, Arc::clone(manager), name, core, &self.ledger));
        state.switch(&generation, &mut leftovers)?;
        drop(state);
        leftovers.wake_all();
        tracing::info!(manager = generation.name(), number, "manager_registered");
        Ok(())
    }

    /// Goes back to "none" if `which` says so.
    fn uninstall(self: &Arc<Self>, which: impl FnOnce(&mut State) -> bool) -> bool {
        let mut leftovers = Leftovers::default();
        let mut state = self.lock();
        if !which(&mut state) {
            return false;
        }
        let number = state.next_number();
        let none = shim::Arc::new(Generation::none(number, Arc::downgrade(self), &self.ledger));
        state
            .switch(&none, &mut leftovers)
            .expect("none has no hook that could refuse a device");
        drop(state);
        leftovers.wake_all();
        true
    }

    /// A manager panicked: "none" takes over.
    pub(super) fn fall_back(self: &Arc<Self>, failed: &shim::Arc<Generation>) {
        if self.uninstall(|state| std::ptr::eq(&*state.current, &**failed)) {
            tracing::error!(manager = failed.name(), "manager_replaced_by_none");
        }
    }

    fn attach(self: &Arc<Self>, info: &Arc<DeviceInfo>) -> Result<Arc<ManagedDevice>, (Error, shim::Arc<Generation>)> {
        let mut state = self.lock();
        let binding =
            Binding::start(&state.current, info).map_err(|error| (error, shim::Arc::clone(&state.current)))?;
        let device = Arc::new(ManagedDevice::new(Arc::clone(info), binding, Arc::clone(self)));
        state.devices.push(Arc::downgrade(&device));
        Ok(device)
    }

    pub(super) fn detach(&self, device: &ManagedDevice) {
        let state = self.lock();
        let old = device.binding.swap(Binding::detached(device.info(), &self.ledger));
        drop(state);
        drop(old);
        device.wake_all();
    }

    /// The last holder of a device let go of it.
    pub(super) fn forget_device(&self, device: DeviceId) {
        self.ledger.forget(device);
        self.lock().devices.retain(|device| device.strong_count() > 0);
    }

    /// No step under this lock leaves the state half changed if `dev_start` panics, so poison means nothing.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn devices(&self) -> Vec<Arc<ManagedDevice>> {
        self.devices.iter().filter_map(Weak::upgrade).collect()
    }

    fn next_number(&self) -> u64 {
        self.current.reign.number + 1
    }

    /// Starts every device with `next`, then publishes it to all; if one is refused nothing changes.
    fn switch(&mut self, next: &shim::Arc<Generation>, leftovers: &mut Leftovers) -> Result<(), Error> {
        leftovers.devices = self.devices();
        let devices = leftovers.devices.iter().filter(|device| !device.is_detached());
        for device in devices.clone() {
            leftovers.bindings.push(Binding::start(next, device.info())?);
        }
        // First: who sees the binding opens a page.
        next.begin();
        for (device, binding) in devices.zip(&mut leftovers.bindings) {
            *binding = device.binding.swap(shim::Arc::clone(binding));
        }
        leftovers.old = Some(std::mem::replace(&mut self.current, shim::Arc::clone(next)));
        Ok(())
    }
}

impl Leftovers {
    fn wake_all(&self) {
        for device in &self.devices {
            device.wake_all();
        }
    }
}

fn check_name(name: &str) -> Result<(), Error> {
    let good = (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic());
    match good && name != NoManager::NAME {
        true => Ok(()),
        false => Err(Error::new(ErrorKind::BadName, name)),
    }
}
