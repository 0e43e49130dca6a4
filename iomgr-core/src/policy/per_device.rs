//! What a policy knows of each device, by the device's number.

use crate::manager::DeviceId;

/// A table with a place for each device that is started. Only starting a device allocates.
#[derive(Debug)]
pub(super) struct PerDevice<T>(Vec<Option<T>>);

impl<T> Default for PerDevice<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> PerDevice<T> {
    /// A device was started.
    pub(super) fn insert(&mut self, id: DeviceId, value: T) {
        let index = id.0 as usize;
        if index >= self.0.len() {
            self.0.resize_with(index + 1, || None);
        }
        self.0[index] = Some(value);
    }

    /// A device was stopped.
    pub(super) fn remove(&mut self, id: DeviceId) -> Option<T> {
        self.0.get_mut(id.0 as usize).and_then(Option::take)
    }

    /// A device that is started: hooks are called for no other.
    pub(super) fn of(&mut self, id: DeviceId) -> &mut T {
        let place = self.0.get_mut(id.0 as usize).and_then(Option::as_mut);
        place.expect("a device is started before any other hook is called for it")
    }

    /// All devices that are started.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().flatten()
    }

    /// All devices that are started, to be changed.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.0.iter_mut().flatten()
    }

    /// All devices that are started but this one.
    pub(super) fn others(&mut self, id: DeviceId) -> impl Iterator<Item = &mut T> {
        let me = id.0 as usize;
        let others = self.0.iter_mut().enumerate().filter(move |(index, _)| *index != me);
        others.filter_map(|(_, place)| place.as_mut())
    }
}
