//! What lies behind the mutex: the machine, and the time as its owner saw it last.

use iomgr_core::Timestamp;

use crate::meeting::Meeting;
use crate::{DeviceIndex, Error, Machine, RequestId};

/// Whose time it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Clock {
    /// `CLOCK_MONOTONIC`.
    #[default]
    Monotonic,
    /// That of the owner's passes: a simulation.
    Passes,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) machine: Machine,
    pub(crate) clock: Clock,
    /// When the owner's last pass began.
    pub(crate) now: Timestamp,
    /// The owner wants to hear of handles that are given up.
    pub(crate) is_watched: bool,
}

/// What threads share.
pub(crate) type Shared = Meeting<Core>;

impl Core {
    /// The time, for threads that have no pass.
    pub(crate) fn now(&self) -> Timestamp {
        match self.clock {
            Clock::Monotonic => tqueue::monotonic_now(),
            Clock::Passes => self.now,
        }
    }
}

impl Shared {
    /// Gives up the regions of a request.
    pub(crate) fn cancel(&self, id: RequestId) -> Result<u32, Error> {
        let given_up = self.visit(|core| core.machine.cancel(core.now(), id))?;
        tracing::debug!(request = id.index(), regions = given_up, "request_cancelled");
        Ok(given_up)
    }

    /// Gives up all that goes on at a device.
    pub(crate) fn cancel_device(&self, device: DeviceIndex, fence: bool) -> Result<u32, Error> {
        let given_up = self.visit(|core| core.machine.cancel_device(core.now(), device, fence))?;
        tracing::warn!(device = device.0, regions = given_up, fence, "device_cancelled");
        Ok(given_up)
    }

    /// Refuses all that is new at a device.
    pub(crate) fn fence(&self, device: DeviceIndex) -> Result<(), Error> {
        self.visit(|core| core.machine.fence(core.now(), device))?;
        tracing::warn!(device = device.0, "device_fenced");
        Ok(())
    }

    /// The reverse.
    pub(crate) fn unfence(&self, device: DeviceIndex) -> Result<(), Error> {
        self.visit(|core| core.machine.unfence(device))?;
        tracing::info!(device = device.0, "device_unfenced");
        Ok(())
    }

    /// A handle less.
    pub(crate) fn release(&self, id: RequestId) {
        self.pass_by(|core| {
            core.machine.release(id);
            core.is_watched
        });
    }
}
