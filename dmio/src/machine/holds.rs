//! Holds: the sectors that outstanding writes may change, so that no two of them overlap.
//!
//! A write that overlaps one that its device has, live or orphaned, is held back: in its device's list, in order, and behind each
//! write there that it overlaps. A held write knows how many stand before it; as each of them ends, it is told.

use iomgr_core::{Operation, Sector, SectorRange};

use super::Machine;
use super::leg::{Leg, Stage};

/// The ranges of one device's outstanding writes: sorted, and as none overlaps another, by their ends as well.
#[derive(Debug)]
pub(crate) struct Holds(Vec<Hold>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hold {
    pub(crate) start: Sector,
    pub(crate) end: Sector,
    pub(crate) leg: u32,
}

impl Holds {
    /// With room for so many.
    pub(crate) fn new(legs: u32) -> Self {
        Self(Vec::with_capacity(legs as usize))
    }

    /// Those that share sectors with the range.
    pub(crate) fn overlapping(&self, range: SectorRange) -> impl Iterator<Item = &Hold> {
        let first = self.0.partition_point(|hold| hold.end <= range.start());
        self.0[first..].iter().take_while(move |hold| hold.start < range.end())
    }

    pub(crate) fn all(&self) -> &[Hold] {
        &self.0
    }

    fn insert(&mut self, range: SectorRange, leg: u32) {
        let place = self.0.partition_point(|hold| hold.start < range.start());
        let (start, end) = (range.start(), range.end());
        self.0.insert(place, Hold { start, end, leg });
    }

    fn remove(&mut self, range: SectorRange) {
        let place = self.0.binary_search_by_key(&range.start(), |hold| hold.start);
        self.0.remove(place.expect("it was inserted"));
    }

    pub(crate) fn pop(&mut self) -> Option<Hold> {
        self.0.pop()
    }
}

impl Machine {
    /// Takes the sectors of a write for it. If that cannot be yet, it is held back.
    pub(crate) fn hold(&mut self, index: u32) -> bool {
        let leg = &mut self.legs[index];
        let device = &mut self.devices[usize::from(leg.device.0)];
        let mut blockers = device.holds.overlapping(leg.range).count();
        let range = leg.range;
        if !device.held.is_empty() {
            let held = device.held.iter(&self.leg_links);
            blockers += held.filter(|&other| self.legs[other].range.overlaps(range)).count();
        }
        let leg = &mut self.legs[index];
        if blockers == 0 {
            leg.holds = true;
            device.holds.insert(range, index);
            return true;
        }
        leg.blockers = u32::try_from(blockers).expect("at most all legs");
        leg.stage = Stage::Held;
        device.held.push_back(&mut self.leg_links, index);
        self.counters.hold_waits += 1;
        false
    }

    /// Gives the sectors of a write back, if it has any.
    pub(crate) fn release_hold(&mut self, index: u32) {
        let leg = &mut self.legs[index];
        if !std::mem::take(&mut leg.holds) {
            return;
        }
        let is_ghost = leg.stage == Stage::Orphan;
        let device = &mut self.devices[usize::from(leg.device.0)];
        device.holds.remove(leg.range);
        device.ghosts -= u32::from(is_ghost);
        let first = device.held.front();
        if is_ghost {
            self.haunt(index);
        }
        self.unblock(index, first);
    }

    /// An orphan ends, or is no longer looked for: what its device reads there at this moment may be what it has left, or not.
    pub(crate) fn haunt(&mut self, ghost: u32) {
        let leg = &self.legs[ghost];
        let (device, generation, range) = (leg.device, leg.generation, leg.range);
        if !leg.may_still_write() {
            return;
        }
        for index in 0..self.legs.capacity() {
            let (request, leg) = self.owner(index);
            let is_there = leg.stage == Stage::AtDevice && (leg.device, leg.generation) == (device, generation);
            if is_there && request.op == Operation::Read && leg.range.overlaps(range) {
                leg.indeterminate = true;
            }
        }
    }

    /// Takes a write out of those that are held back.
    pub(crate) fn stop_holding(&mut self, index: u32) {
        let behind = self.leg_links.next(index);
        let device = usize::from(self.legs[index].device.0);
        self.devices[device].held.remove(&mut self.leg_links, index);
        self.unblock(index, behind);
    }

    /// Tells held writes, from `first` on, that one before them is gone.
    fn unblock(&mut self, gone: u32, first: Option<u32>) {
        let (range, device) = (self.legs[gone].range, usize::from(self.legs[gone].device.0));
        let mut next = first;
        while let Some(index) = next {
            next = self.leg_links.next(index);
            let leg = &mut self.legs[index];
            if !leg.range.overlaps(range) {
                continue;
            }
            leg.blockers -= 1;
            if leg.blockers == 0 {
                leg.holds = true;
                let device = &mut self.devices[device];
                device.held.remove(&mut self.leg_links, index);
                device.holds.insert(leg.range, index);
                self.make_ready(index);
            }
        }
    }

    /// May an orphan be writing what this leg reads?
    pub(crate) fn is_haunted(&self, leg: &Leg) -> bool {
        let device = &self.devices[usize::from(leg.device.0)];
        device.ghosts > 0 && leg.generation == device.generation && self.is_orphan_in(leg.range, &device.holds)
    }

    fn is_orphan_in(&self, range: SectorRange, holds: &Holds) -> bool {
        let mut holds = holds.overlapping(range);
        holds.any(|hold| self.legs[hold.leg].may_still_write())
    }
}
