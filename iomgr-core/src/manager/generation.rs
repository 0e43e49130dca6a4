//! One reign of a manager, and its hold on one device.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};

use super::freed::Freed;
use super::ledger::{Account, Ledger, Reign};
use super::registry::Core;
use super::{DeviceInfo, Error, ErrorKind, Manager, NoManager};
use crate::shim::{self, AtomicBool, AtomicU32, Ordering};

/// The number of what devices are under that have no manager any more. Nothing is granted under it.
const NO_REIGN: u64 = 0;

/// A manager from its registration until the last request that it admitted has ended.
#[derive(Debug)]
pub(super) struct Generation {
    pub(super) manager: Arc<dyn Manager>,
    pub(super) reign: Arc<Reign>,
    /// False for "none": nobody calls its hooks.
    hooked: bool,
    /// It panicked; no hook is called again.
    failed: AtomicBool,
    pub(super) freed: Freed,
    /// Moves when the manager would judge otherwise than before; intakes look at it once a pass.
    pub(super) revision: AtomicU32,
    registry: Weak<Core>,
    ledger: Arc<Ledger>,
}

impl Generation {
    pub(super) fn new(
        number: u64,
        manager: Arc<dyn Manager>,
        name: String,
        registry: Weak<Core>,
        ledger: &Arc<Ledger>,
    ) -> Self {
        Self {
            reign: Reign::new(number, name, &manager),
            manager,
            hooked: true,
            failed: AtomicBool::new(false),
            freed: Freed::new(),
            revision: AtomicU32::new(0),
            registry,
            ledger: Arc::clone(ledger),
        }
    }

    pub(super) fn none(number: u64, registry: Weak<Core>, ledger: &Arc<Ledger>) -> Self {
        let mut none = Self::new(
            number,
            Arc::new(NoManager),
            NoManager::NAME.to_owned(),
            registry,
            ledger,
        );
        none.hooked = false;
        none
    }

    /// The manager's name.
    pub(super) fn name(&self) -> &str {
        &self.reign.name
    }

    /// It is about to be published.
    pub(super) fn begin(&self) {
        self.ledger.begin(&self.reign);
    }

    /// Are there hooks to call?
    pub(super) fn is_hooked(&self) -> bool {
        self.hooked
    }

    /// Is it the reign of this very manager?
    pub(super) fn is_of(&self, manager: &Arc<dyn Manager>) -> bool {
        std::ptr::addr_eq(Arc::as_ptr(&self.manager), Arc::as_ptr(manager))
    }

    /// Calls a hook; `None` if the manager panics.
    fn call<R>(&self, hook: &str, device: &DeviceInfo, f: impl FnOnce(&dyn Manager, &DeviceInfo) -> R) -> Option<R> {
        catch_unwind(AssertUnwindSafe(|| f(&*self.manager, device)))
            .inspect_err(|panic| self.fail(hook, device, &**panic))
            .ok()
    }

    #[cold]
    fn fail(&self, hook: &str, device: &DeviceInfo, panic: &(dyn Any + Send)) {
        let text = panic_text(panic);
        tracing::error!(
            manager = self.name(),
            hook,
            device = device.name(),
            panic = text,
            "manager_panicked"
        );
        self.failed.store(true, Ordering::Relaxed);
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        self.ledger.end(&self.reign);
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no text)")
}

/// A device that was started with a manager. Whoever may still call a hook holds it; the last one to let go stops the
/// device with that manager.
#[derive(Debug)]
pub(super) struct Binding {
    pub(super) generation: shim::Arc<Generation>,
    device: Arc<DeviceInfo>,
    /// No manager follows: the device is being detached.
    pub(super) last: bool,
}

impl Binding {
    /// Starts the device with the manager. On failure the manager owes nothing for it.
    pub(super) fn start(
        generation: &shim::Arc<Generation>,
        device: &Arc<DeviceInfo>,
    ) -> Result<shim::Arc<Self>, Error> {
        if generation.hooked {
            let answer = generation.call("dev_start", device, |manager, device| manager.dev_start(device));
            let failure = |kind, reason| Error::new(kind, generation.name()).with_device(device.name(), reason);
            answer
                .ok_or_else(|| failure(ErrorKind::Panicked, None))?
                .map_err(|reason| failure(ErrorKind::Refused, Some(reason)))?;
        }
        Ok(shim::Arc::new(Self {
            generation: shim::Arc::clone(generation),
            device: Arc::clone(device),
            last: false,
        }))
    }

    /// The device without a manager, for ever.
    pub(super) fn detached(device: &Arc<DeviceInfo>, ledger: &Arc<Ledger>) -> shim::Arc<Self> {
        let generation = shim::Arc::new(Generation::none(NO_REIGN, Weak::new(), ledger));
        shim::Arc::new(Self {
            generation,
            device: Arc::clone(device),
            last: true,
        })
    }

    /// Opens the page on which an intake of the device counts what it does under this manager.
    pub(super) fn account(&self) -> Account {
        let Generation { ledger, reign, .. } = &*self.generation;
        ledger.open(self.device.id(), reign)
    }

    /// Calls a hook. `None` if the manager panicked before; if it panics now it is also replaced by "none".
    pub(super) fn call<R>(&self, hook: &str, f: impl FnOnce(&dyn Manager, &DeviceInfo) -> R) -> Option<R> {
        if self.generation.failed.load(Ordering::Relaxed) {
            return None;
        }
        let answer = self.generation.call(hook, &self.device, f);
        if answer.is_none() {
            self.fall_back();
        }
        answer
    }

    #[cold]
    fn fall_back(&self) {
        if let Some(registry) = self.generation.registry.upgrade() {
            registry.fall_back(&self.generation);
        }
    }
}

impl Drop for Binding {
    fn drop(&mut self) {
        if self.generation.hooked {
            self.call("dev_stop", |manager, device| manager.dev_stop(device));
        }
    }
}
