//! What a policy knows of each device, found by the device's number on the data path.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::manager::DeviceId;

/// A table with a place for each device that is started. To read it takes no lock, and writes to no memory that threads
/// share; a device that is started or stopped replaces it.
#[derive(Debug)]
pub(super) struct Devices<T>(ArcSwap<Table<T>>);

type Table<T> = Vec<Option<Arc<T>>>;

impl<T> Default for Devices<T> {
    fn default() -> Self {
        Self(ArcSwap::default())
    }
}

impl<T> Devices<T> {
    /// A device was started.
    pub(super) fn insert(&self, id: DeviceId, value: T) {
        let value = Arc::new(value);
        self.0.rcu(|table| {
            let mut table = Table::clone(table);
            table.resize(table.len().max(id.0 as usize + 1), None);
            table[id.0 as usize] = Some(Arc::clone(&value));
            table
        });
    }

    /// A device was stopped.
    pub(super) fn remove(&self, id: DeviceId) -> Option<Arc<T>> {
        let old = self.0.rcu(|table| {
            let mut table = Table::clone(table);
            table[id.0 as usize] = None;
            table
        });
        old[id.0 as usize].clone()
    }

    /// Looks at a device that is started: hooks are called for no other.
    #[inline]
    pub(super) fn with<R>(&self, id: DeviceId, look: impl FnOnce(&T) -> R) -> R {
        let table = self.0.load();
        let place = table.get(id.0 as usize).and_then(Option::as_ref);
        look(place.expect("a device is started before any other hook is called for it"))
    }

    /// All devices that are started.
    pub(super) fn all(&self) -> impl Iterator<Item = Arc<T>> {
        self.0
            .load_full()
            .iter()
            .flatten()
            .cloned()
            .collect::<Vec<_>>()
            .into_iter()
    }
}
