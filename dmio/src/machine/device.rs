//! Devices: what each takes, and when it takes nothing.

use iomgr_core::{Errno, SectorCount, Timestamp};

use super::Machine;
use super::holds::Holds;
use super::leg::Stage;
use crate::slots::List;
use crate::{DeviceIndex, Error, ErrorKind, Reason};

/// What there is to know about a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceConfig {
    /// Its size.
    pub size: SectorCount,
    /// Regions are multiples of it.
    pub logical_block_bytes: u32,
    /// Are writes refused?
    pub read_only: bool,
}

/// Which of the devices that had one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Generation(pub u32);

/// One device.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) config: DeviceConfig,
    pub(crate) generation: Generation,
    pub(crate) is_fenced: bool,
    pub(crate) is_degraded: bool,
    /// What was last told of that.
    pub(crate) told_degraded: bool,
    /// It handed a leg back.
    pub(crate) is_busy: bool,
    /// Legs that it could not be stopped in, of this generation.
    pub(crate) orphans: u32,
    /// Orphans among the holds.
    pub(crate) ghosts: u32,
    pub(crate) holds: Holds,
    /// Writes that wait for others.
    pub(crate) held: List,
    /// Legs that wait until it is not busy.
    pub(crate) parked: List,
    /// Requests that have bounce memory here.
    pub(crate) used: u32,
    /// Legs that wait for some.
    pub(crate) waiting: List,
}

impl Device {
    pub(crate) fn new(config: DeviceConfig, legs: u32) -> Self {
        Self {
            config,
            generation: Generation(0),
            is_fenced: false,
            is_degraded: false,
            told_degraded: false,
            is_busy: false,
            orphans: 0,
            ghosts: 0,
            holds: Holds::new(legs),
            held: List::EMPTY,
            parked: List::EMPTY,
            used: 0,
            waiting: List::EMPTY,
        }
    }

    /// What regions end with that would go there now.
    pub(crate) fn refusal(&self) -> Option<Errno> {
        let degraded = || self.is_degraded.then_some(Errno::TIMEDOUT);
        self.is_fenced.then_some(Errno::NODEV).or_else(degraded)
    }
}

impl Machine {
    /// From now on regions on the device fail with `ENODEV`, those that it has not got yet included. What it has goes on.
    pub fn fence(&mut self, now: Timestamp, device: DeviceIndex) -> Result<(), Error> {
        self.device(device)?;
        self.devices[usize::from(device.0)].is_fenced = true;
        self.fail_waiting(now, device, Errno::NODEV);
        Ok(())
    }

    /// Ends a [`fence`](Self::fence).
    pub fn unfence(&mut self, device: DeviceIndex) -> Result<(), Error> {
        self.device(device)?;
        self.devices[usize::from(device.0)].is_fenced = false;
        Ok(())
    }

    /// Another device takes the place of this one, of which all is given up that can be; it is neither fenced nor degraded.
    ///
    /// What the old one has keeps its memory, but neither that nor its sectors count for the new one: see to it that it cannot write
    /// there.
    ///
    /// # Errors
    /// `Memory` where cells are [missing](Self::cells_missing); [add](Self::add_cells) them before.
    pub fn replace(&mut self, now: Timestamp, device: DeviceIndex, config: DeviceConfig) -> Result<Generation, Error> {
        config.check()?;
        if self.cells_missing(device)? > 0 {
            let what = "the old device keeps bounce memory that the new one needs: add cells before";
            return Err(Error::new(ErrorKind::Memory, what));
        }
        self.for_each_leg_on(device, |machine, leg| {
            machine.give_up(now, leg, Reason::Device);
        });
        while let Some(hold) = self.devices[usize::from(device.0)].holds.pop() {
            self.legs[hold.leg].holds = false;
            self.haunt(hold.leg);
        }
        let place = &mut self.devices[usize::from(device.0)];
        self.strays += std::mem::take(&mut place.used);
        place.generation.0 = place.generation.0.wrapping_add(1);
        place.config = config;
        (place.is_fenced, place.is_busy) = (false, false);
        (place.orphans, place.ghosts) = (0, 0);
        let generation = place.generation;
        self.judge(now, device);
        self.advance_all(now);
        Ok(generation)
    }

    pub(crate) fn count_orphan(&mut self, now: Timestamp, device: DeviceIndex, generation: Generation) {
        let place = &mut self.devices[usize::from(device.0)];
        place.orphans += u32::from(place.generation == generation);
        self.judge(now, device);
    }

    pub(crate) fn discount_orphan(&mut self, now: Timestamp, device: DeviceIndex, generation: Generation) {
        let place = &mut self.devices[usize::from(device.0)];
        place.orphans -= u32::from(place.generation == generation);
        self.judge(now, device);
    }

    /// Is the device degraded, and was it before?
    fn judge(&mut self, now: Timestamp, device: DeviceIndex) {
        let place = &mut self.devices[usize::from(device.0)];
        let is_degraded = place.orphans >= self.orphans_max;
        if std::mem::replace(&mut place.is_degraded, is_degraded) != is_degraded {
            self.is_device_news = true;
            if is_degraded {
                self.fail_waiting(now, device, Errno::TIMEDOUT);
            }
        }
    }

    /// Ends the regions that the device has not got yet.
    fn fail_waiting(&mut self, now: Timestamp, device: DeviceIndex, errno: Errno) {
        self.for_each_leg_on(device, |machine, leg| {
            if matches!(
                machine.legs[leg].stage,
                Stage::Waiting | Stage::Held | Stage::Ready | Stage::Parked
            ) {
                machine.withdraw(now, leg);
                machine.fail_fast(now, leg, errno);
            }
        });
        self.advance_all(now);
    }
}
