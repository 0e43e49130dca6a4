//! Which manager is current, and which devices it manages.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::device::DeviceIds;
use super::generation::{Binding, Generation};
use super::{Counters, DeviceInfo, Error, ErrorKind, ManagedDevice, Manager, NoManager};

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
}

#[derive(Debug)]
struct State {
    current: Arc<Generation>,
    /// Generations of the past, some of which still have requests on their way.
    past: Vec<Weak<Generation>>,
    devices: Vec<Weak<ManagedDevice>>,
    /// What devices that are gone had counted.
    gone: Counters,
}

/// What a change under the lock leaves to be done after it: dropped bindings stop devices, dropped devices take the lock.
/// Declared before the guard, so that it is dropped after it.
#[derive(Default)]
struct Leftovers {
    devices: Vec<Arc<ManagedDevice>>,
    bindings: Vec<Arc<Binding>>,
    generations: Vec<Arc<Generation>>,
}

impl Registry {
    /// A registry with no devices and manager "none".
    pub fn new() -> Self {
        Self(Arc::new_cyclic(|core| Core {
            state: Mutex::new(State {
                current: Arc::new(Generation::none(Weak::clone(core))),
                past: Vec::new(),
                devices: Vec::new(),
                gone: Counters::default(),
            }),
            ids: Arc::default(),
        }))
    }

    /// Makes `manager` the current one, where there is none.
    pub fn register(&self, manager: Arc<dyn Manager>) -> Result<(), Error> {
        self.0.install(&manager, |current| match current.is_hooked() {
            true => Err(Error::new(ErrorKind::Occupied, &current.name)),
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
            .uninstall(|current| current.is_of(manager))
            .then_some(())
            .ok_or_else(error)
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

    /// Requests that started and have not ended, over all devices.
    pub fn pending_total(&self) -> u64 {
        self.counters().pending()
    }

    /// What passed the hooks so far, over all devices, those that are gone included.
    pub fn counters(&self) -> Counters {
        let mut leftovers = Leftovers::default();
        let state = self.0.lock();
        leftovers.devices = state.devices();
        state.gone + leftovers.devices.iter().map(|device| device.counters()).sum()
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
        permit(&state.current)?;
        state.check_unused(manager, &name, &mut leftovers)?;
        let generation = Arc::new(Generation::new(Arc::clone(manager), name, Arc::downgrade(self)));
        state.switch(&generation, &mut leftovers)?;
        drop(state);
        leftovers.wake_all();
        tracing::info!(manager = generation.name, "manager_registered");
        Ok(())
    }

    /// Goes back to "none" if `which` says so about the current generation.
    fn uninstall(self: &Arc<Self>, which: impl FnOnce(&Generation) -> bool) -> bool {
        let mut leftovers = Leftovers::default();
        let mut state = self.lock();
        if !which(&state.current) {
            return false;
        }
        let none = Arc::new(Generation::none(Arc::downgrade(self)));
        state
            .switch(&none, &mut leftovers)
            .expect("none has no hook that could refuse a device");
        drop(state);
        leftovers.wake_all();
        true
    }

    /// A manager panicked: "none" takes over.
    pub(super) fn fall_back(self: &Arc<Self>, failed: &Arc<Generation>) {
        if self.uninstall(|current| std::ptr::eq(current, &**failed)) {
            tracing::error!(manager = failed.name, "manager_replaced_by_none");
        }
    }

    fn attach(self: &Arc<Self>, info: &Arc<DeviceInfo>) -> Result<Arc<ManagedDevice>, (Error, Arc<Generation>)> {
        let mut state = self.lock();
        let binding = Binding::start(&state.current, info).map_err(|error| (error, Arc::clone(&state.current)))?;
        let device = Arc::new(ManagedDevice::new(Arc::clone(info), binding, Arc::clone(self)));
        state.devices.push(Arc::downgrade(&device));
        Ok(device)
    }

    pub(super) fn detach(&self, device: &ManagedDevice) {
        let state = self.lock();
        let old = device.binding.swap(Binding::detached(device.info()));
        drop(state);
        drop(old);
        device.wake_all();
    }

    /// The last holder of some device let go of it.
    pub(super) fn forget_device(&self, counters: Counters) {
        let mut state = self.lock();
        state.gone = state.gone + counters;
        state.devices.retain(|device| device.strong_count() > 0);
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

    /// One manager must not live through two generations at once: it could not tell their devices apart.
    fn check_unused(&mut self, manager: &Arc<dyn Manager>, name: &str, leftovers: &mut Leftovers) -> Result<(), Error> {
        self.past.retain(|past| past.strong_count() > 0);
        leftovers.generations.extend(self.past.iter().filter_map(Weak::upgrade));
        let mut live = leftovers.generations.iter().chain([&self.current]);
        match live.any(|generation| generation.is_of(manager)) {
            true => Err(Error::new(ErrorKind::InUse, name)),
            false => Ok(()),
        }
    }

    /// Starts every device with `next`, then publishes it to all; if one is refused nothing changes.
    fn switch(&mut self, next: &Arc<Generation>, leftovers: &mut Leftovers) -> Result<(), Error> {
        leftovers.devices = self.devices();
        let devices = leftovers.devices.iter().filter(|device| !device.is_detached());
        for device in devices.clone() {
            leftovers.bindings.push(Binding::start(next, device.info())?);
        }
        for (device, binding) in devices.zip(&mut leftovers.bindings) {
            *binding = device.binding.swap(Arc::clone(binding));
        }
        let old = std::mem::replace(&mut self.current, Arc::clone(next));
        self.past.push(Arc::downgrade(&old));
        leftovers.generations.push(old);
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
