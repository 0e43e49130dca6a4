//! Legs: the I/O of a region at its device.

use iomgr_core::{Errno, SectorRange, Timestamp};

use super::Machine;
use super::device::Generation;
use crate::{DeviceIndex, Region, RegionState};

/// The number of a leg, which is its tag at the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LegId(pub u32);

/// Where a leg is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// In no list: a candidate whose turn has not come.
    Idle,
    /// In its device's list of legs that wait for memory.
    Waiting,
    /// In its device's list of writes that wait for others.
    Held,
    /// In the list of what is to be submitted.
    Ready,
    /// In the list of its device, which was busy.
    Parked,
    /// Its device has it.
    AtDevice,
    /// Its device has it, but its region is over.
    Orphan,
    /// It is answered, or never will be submitted.
    Settled,
}

/// One leg.
#[derive(Clone, Debug)]
pub(crate) struct Leg {
    pub(crate) request: u32,
    pub(crate) region: u8,
    pub(crate) stage: Stage,
    pub(crate) device: DeviceIndex,
    /// Which device of that number: set when it is handed there.
    pub(crate) generation: Generation,
    pub(crate) range: SectorRange,
    /// Its bounce memory.
    pub(crate) cell: Option<u32>,
    /// Its request is counted on the device by this one.
    pub(crate) is_counted: bool,
    /// Its range is among the device's holds.
    pub(crate) holds: bool,
    /// While it is held: how many earlier writes that overlap are outstanding or held as well.
    pub(crate) blockers: u32,
    /// It read what an orphan may have been writing.
    pub(crate) indeterminate: bool,
    /// The device's queue has been told that it is given up, and could not stop it.
    pub(crate) is_detached: bool,
    /// The region's end, once it is over.
    pub(crate) state: Option<RegionState>,
    /// When it was over.
    pub(crate) ended: Timestamp,
    /// When its time was up.
    pub(crate) timed_out: Timestamp,
    /// When the device answered for an orphan, and what.
    pub(crate) answered: Timestamp,
    pub(crate) answer: Result<(), Errno>,
}

impl Leg {
    /// Of no region.
    pub(crate) const fn vacant(nowhere: SectorRange) -> Self {
        Self {
            request: 0,
            region: 0,
            stage: Stage::Settled,
            device: DeviceIndex(0),
            generation: Generation(0),
            range: nowhere,
            cell: None,
            is_counted: false,
            holds: false,
            blockers: 0,
            indeterminate: false,
            is_detached: false,
            state: None,
            ended: Timestamp::ZERO,
            timed_out: Timestamp::ZERO,
            answered: Timestamp::ZERO,
            answer: Ok(()),
        }
    }

    /// From now on it is of a region whose turn has not come. What a settled leg has not is left as it is.
    pub(crate) fn begin(&mut self, request: u32, region: u8, Region { device, range }: Region) {
        (self.request, self.region, self.stage) = (request, region, Stage::Idle);
        (self.device, self.range) = (device, range);
        (self.indeterminate, self.state) = (false, None);
    }

    /// Does its device owe an answer that nobody waits for?
    pub(crate) fn is_orphan(&self) -> bool {
        self.stage == Stage::Orphan
    }

    /// May its device write although the region is over?
    pub(crate) fn may_still_write(&self) -> bool {
        self.is_orphan() && !self.is_unstarted()
    }

    /// Was it cancelled before its device began?
    pub(crate) fn is_unstarted(&self) -> bool {
        matches!(self.state, Some(RegionState::Cancelled(cancelled)) if cancelled.never_started)
    }

    /// Its bit in the masks of its request.
    pub(crate) fn bit(&self) -> u64 {
        1 << self.region
    }
}

impl Machine {
    /// The legs of the requests that there are.
    pub(crate) fn taken_legs(&self) -> impl Iterator<Item = u32> {
        self.taken_requests().flat_map(move |index| {
            let regions = self.requests[index].regions;
            (0..regions).map(move |region| self.leg_of(index, region))
        })
    }
}
