//! A device's queue as a lane feeds it.

use std::ops::{Deref, DerefMut};

use crate::{Busy, DeviceQueue, OpQueue, Pass, Request};

/// A device's queue, and the one request that it may have handed back although it had not said that it was busy.
#[derive(Debug)]
pub(crate) struct Outlet {
    device: Box<dyn DeviceQueue>,
    parked: Option<Request>,
}

impl Outlet {
    pub(crate) fn new(device: Box<dyn DeviceQueue>) -> Self {
        Self { device, parked: None }
    }

    /// Kicks a device that waits for its time.
    pub(crate) fn begin_pass(&mut self, pass: &mut Pass<'_>) {
        if self.device.wake_at().is_some_and(|at| at <= pass.now) {
            self.device.kick(pass);
        }
    }

    /// False if the device takes nothing now; the request is kept for [`offer_parked`](Self::offer_parked).
    #[inline]
    pub(crate) fn offer(&mut self, pass: &mut Pass<'_>, request: Request) -> bool {
        match self.device.submit(pass, request) {
            Ok(()) => true,
            Err(Busy(request)) => {
                self.parked = Some(request);
                false
            }
        }
    }

    /// Was anything handed back?
    #[inline]
    pub(crate) fn has_parked(&self) -> bool {
        self.parked.is_some()
    }

    /// Submits what was handed back, if anything was; before anything else is submitted. False as [`offer`](Self::offer).
    #[inline]
    pub(crate) fn offer_parked(&mut self, pass: &mut Pass<'_>) -> bool {
        match self.parked.take() {
            Some(request) => self.offer(pass, request),
            None => true,
        }
    }

    pub(crate) fn close(self, io: &mut dyn OpQueue) {
        self.device.close(io);
    }
}

impl Deref for Outlet {
    type Target = dyn DeviceQueue;

    fn deref(&self) -> &Self::Target {
        &*self.device
    }
}

impl DerefMut for Outlet {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut *self.device
    }
}
