//! Giving regions up.

use iomgr_core::Timestamp;

use super::leg::Stage;
use super::request::{bits, unknown};
use super::{Machine, MemoryKind, RequestId};
use crate::{Cancelled, DeviceIndex, Error, ErrorKind, Reason, RegionState};

impl Machine {
    /// Gives up all regions of a request that run, and says how many those were: all or none.
    ///
    /// # Errors
    /// `WouldBlock` if a device has memory that is not cancellable; `Unknown` if the request is forgotten.
    pub fn cancel(&mut self, now: Timestamp, id: RequestId) -> Result<u32, Error> {
        let running = self.find(id).ok_or_else(unknown)?.running;
        if bits(running).any(|region| self.is_stuck(self.leg_of(id.index, region))) {
            let what = "a device works on the caller's own memory; it ends when the device answers";
            return Err(Error::new(ErrorKind::WouldBlock, what));
        }
        for region in bits(running) {
            self.give_up(now, self.leg_of(id.index, region), Reason::Handle);
        }
        Ok(running.count_ones())
    }

    /// Gives up all regions on a device, but for those whose memory the device has and that are not cancellable; says how many.
    /// With `fence`, later ones fail at once: see [`fence`](Self::fence).
    pub fn cancel_device(&mut self, now: Timestamp, device: DeviceIndex, fence: bool) -> Result<u32, Error> {
        self.device(device)?;
        self.devices[usize::from(device.0)].is_fenced |= fence;
        let mut given_up = 0;
        self.for_each_leg_on(device, |machine, leg| {
            given_up += u32::from(machine.give_up(now, leg, Reason::Device));
        });
        self.advance_all(now);
        Ok(given_up)
    }

    /// Those that wait for memory come first, the last of them before the others, so that giving one up lets no other go.
    pub(crate) fn for_each_leg_on(&mut self, device: DeviceIndex, mut f: impl FnMut(&mut Self, u32)) {
        while let Some(leg) = self.devices[usize::from(device.0)].waiting.back() {
            f(self, leg);
        }
        for leg in 0..self.legs.capacity() {
            if self.legs[leg].device == device {
                f(self, leg);
            }
        }
    }

    /// Gives up the region of a leg, if it runs and can be.
    pub(crate) fn give_up(&mut self, now: Timestamp, leg: u32, reason: Reason) -> bool {
        let never_started = match self.legs[leg].stage {
            Stage::Settled | Stage::Orphan => return false,
            Stage::AtDevice if self.is_stuck(leg) => return false,
            Stage::AtDevice => {
                self.orphan(leg);
                false
            }
            _ => {
                self.withdraw(now, leg);
                true
            }
        };
        let cancelled = Cancelled { reason, never_started };
        self.end(now, leg, RegionState::Cancelled(cancelled));
        true
    }

    /// From now on nobody waits for what the device has.
    fn orphan(&mut self, index: u32) {
        let leg = &mut self.legs[index];
        leg.stage = Stage::Orphan;
        self.devices[usize::from(leg.device.0)].ghosts += u32::from(leg.holds);
        self.cancels.push_back(&mut self.leg_links, index);
    }

    /// Takes a leg that no device has from wherever it waits.
    pub(crate) fn withdraw(&mut self, now: Timestamp, index: u32) {
        let leg = &self.legs[index];
        let device = usize::from(leg.device.0);
        match leg.stage {
            Stage::Waiting => self.stop_waiting(index),
            Stage::Held => self.stop_holding(index),
            Stage::Ready => self.ready.remove(&mut self.leg_links, index),
            Stage::Parked => self.devices[device].parked.remove(&mut self.leg_links, index),
            Stage::Idle | Stage::AtDevice | Stage::Orphan | Stage::Settled => {}
        }
        self.settle(now, index);
    }

    /// Has a device memory of the leg's that cannot be left to it?
    pub(crate) fn is_stuck(&self, leg: u32) -> bool {
        let leg = &self.legs[leg];
        let memory = self.requests[leg.request].memory;
        leg.stage == Stage::AtDevice && memory == MemoryKind::Lent { cancellable: false }
    }
}
