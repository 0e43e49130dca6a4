//! What the owner hands to devices.

use iomgr_core::{Operation, RequestFlags, SectorRange};

use super::leg::Stage;
use super::{CellId, Generation, LegId, Machine, RequestId};
use crate::{DeviceIndex, Error};

/// A leg for a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Submission {
    /// Its number: the tag at the device.
    pub leg: LegId,
    /// Which device.
    pub device: DeviceIndex,
    /// The device that has this number now.
    pub generation: Generation,
    /// Of which request.
    pub request: RequestId,
    /// Of which region there.
    pub region: usize,
    /// Its bounce memory.
    pub cell: Option<CellId>,
    /// The cell does not hold the bytes to write yet: copy them there.
    pub fill: bool,
    /// What to do.
    pub op: Operation,
    /// How.
    pub request_flags: RequestFlags,
    /// Where.
    pub range: SectorRange,
}

/// A leg that its device is to give up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ToCancel {
    /// Which one.
    pub leg: LegId,
    /// At which device.
    pub device: DeviceIndex,
    /// Which of those that had the number.
    pub generation: Generation,
}

impl Machine {
    /// The next leg to hand to its device, until there is none.
    pub fn poll_submit(&mut self) -> Option<Submission> {
        while let Some(leg) = self.ready.pop_front(&mut self.leg_links) {
            let device = &mut self.devices[usize::from(self.legs[leg].device.0)];
            if !device.is_busy {
                return Some(self.submit(leg));
            }
            self.legs[leg].stage = Stage::Parked;
            device.parked.push_back(&mut self.leg_links, leg);
        }
        None
    }

    fn submit(&mut self, index: u32) -> Submission {
        self.counters.submitted += 1;
        let leg = &mut self.legs[index];
        leg.stage = Stage::AtDevice;
        leg.generation = self.devices[usize::from(leg.device.0)].generation;
        let request = &mut self.requests[leg.request];
        let fills = request.op == Operation::Write && leg.cell.is_some();
        let submission = Submission {
            leg: LegId(index),
            device: leg.device,
            generation: leg.generation,
            request: RequestId {
                index: leg.request,
                serial: request.serial,
            },
            region: usize::from(leg.region),
            cell: leg.cell.map(CellId),
            fill: fills && !std::mem::replace(&mut request.is_filled, true),
            op: request.op,
            request_flags: request.request_flags,
            range: leg.range,
        };
        if request.op == Operation::Read {
            self.legs[index].indeterminate = self.is_haunted(&self.legs[index]);
        }
        submission
    }

    /// The device handed a leg back that was submitted: nothing more is submitted there until [`retry`](Self::retry), with this one
    /// first.
    ///
    /// That is for legs that were just submitted. There is no way back for one that was cancelled meanwhile, or whose device was
    /// replaced, and nothing happens: it wants an answer.
    pub fn handle_busy(&mut self, LegId(leg): LegId) {
        if !self.can_come_back(leg) {
            return;
        }
        self.counters.submitted -= 1;
        self.counters.busy += 1;
        self.legs[leg].stage = Stage::Parked;
        let device = &mut self.devices[usize::from(self.legs[leg].device.0)];
        device.is_busy = true;
        device.parked.push_front(&mut self.leg_links, leg);
    }

    /// The device may have room again.
    pub fn retry(&mut self, device: DeviceIndex) -> Result<(), Error> {
        self.device(device)?;
        let device = &mut self.devices[usize::from(device.0)];
        device.is_busy = false;
        while let Some(leg) = device.parked.pop_back(&mut self.leg_links) {
            self.legs[leg].stage = Stage::Ready;
            self.ready.push_front(&mut self.leg_links, leg);
        }
        Ok(())
    }

    /// The next orphan that its device is to give up, until there is none. Tell [`handle_cancelled`](Self::handle_cancelled) what the
    /// device says.
    pub fn poll_cancel(&mut self) -> Option<ToCancel> {
        let index = self.cancels.pop_front(&mut self.leg_links)?;
        let leg = &self.legs[index];
        Some(ToCancel {
            leg: LegId(index),
            device: leg.device,
            generation: leg.generation,
        })
    }

    fn can_come_back(&self, leg: u32) -> bool {
        self.legs.get(leg).is_some_and(|leg| {
            let device = &self.devices[usize::from(leg.device.0)];
            leg.stage == Stage::AtDevice && leg.generation == device.generation
        })
    }
}
