//! What other threads, and holders of requests, can do.

use std::fmt;
use std::sync::Arc;

use crate::core::Shared;
use crate::{Counters, DeviceIndex, Error, Occupancy, RegionState, RequestId};

/// A handle of a request: counts as a reference. The last one that is dropped does not cancel; it forgets.
///
/// Any thread may have one.
pub struct Handle {
    shared: Arc<Shared>,
    id: RequestId,
}

impl Handle {
    /// Takes over the reference that the machine has counted.
    pub(crate) fn new(shared: Arc<Shared>, id: RequestId) -> Self {
        Self { shared, id }
    }

    pub(crate) fn is_of(&self, shared: &Arc<Shared>) -> bool {
        Arc::ptr_eq(&self.shared, shared)
    }

    /// Whose it is.
    pub fn id(&self) -> RequestId {
        self.id
    }

    /// Gives up all regions that run, at once, whatever their devices do; says how many. Their notifications follow.
    ///
    /// # Errors
    /// [`WouldBlock`](crate::ErrorKind::WouldBlock): a device works on memory that is not cancellable. It changes nothing then.
    pub fn cancel(&self) -> Result<u32, Error> {
        self.shared.cancel(self.id)
    }

    /// What a region has come to so far.
    pub fn state(&self, region: usize) -> Option<RegionState> {
        self.shared.own(|core| core.machine.state(self.id, region))
    }

    /// How many regions the request has.
    pub fn regions(&self) -> usize {
        self.shared.own(|core| core.machine.regions(self.id))
    }

    /// Are all regions over? Their notifications may still have to come.
    pub fn is_over(&self) -> bool {
        self.shared.own(|core| core.machine.is_over(self.id))
    }
}

impl Clone for Handle {
    fn clone(&self) -> Self {
        let acquired = self.shared.own(|core| core.machine.acquire(self.id));
        acquired.expect("a request with a handle is not forgotten");
        Self::new(Arc::clone(&self.shared), self.id)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.release(self.id);
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Handle").field(&self.id).finish()
    }
}

/// A client's devices, for any thread.
#[derive(Clone)]
pub struct Remote(Arc<Shared>);

impl Remote {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    /// Gives up all regions on a device, at once, but for those whose memory is not cancellable; says how many. With `fence`, as
    /// [`fence`](Self::fence) besides.
    pub fn cancel_device(&self, device: DeviceIndex, fence: bool) -> Result<u32, Error> {
        self.0.cancel_device(device, fence)
    }

    /// From now on regions on the device fail with `ENODEV` at once, and those that it has not got yet.
    pub fn fence(&self, device: DeviceIndex) -> Result<(), Error> {
        self.0.fence(device)
    }

    /// Ends a fence.
    pub fn unfence(&self, device: DeviceIndex) -> Result<(), Error> {
        self.0.unfence(device)
    }

    /// What was counted.
    pub fn counters(&self) -> Counters {
        self.0.own(|core| core.machine.counters())
    }

    /// How much is taken.
    pub fn occupancy(&self) -> Occupancy {
        self.0.own(|core| core.machine.occupancy())
    }

    /// A readable picture of all that is under way.
    pub fn dump(&self) -> String {
        self.0.own(|core| core.machine.dump().to_string())
    }

    /// Lets a [`Client::poll`](crate::Client::poll) that sleeps return.
    pub fn wake(&self) {
        self.0.wake();
    }

    pub(crate) fn watch(&self, is_watched: bool) {
        self.0.own(|core| core.is_watched = is_watched);
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Remote").finish_non_exhaustive()
    }
}
