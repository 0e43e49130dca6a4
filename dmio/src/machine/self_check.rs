//! Whether a machine's state agrees with itself.

use std::collections::HashSet;

use super::leg::{Leg, Stage};
use super::request::all;
use super::{Machine, MemoryKind};
use crate::slots::List;

impl Machine {
    /// Checks all that must hold between calls, by counting it anew: for tests, after each step.
    ///
    /// # Panics
    /// If something does not hold, which is a fault of this crate.
    pub fn self_check(&self) {
        self.check_slots();
        for index in self.taken_requests() {
            self.check_masks(index);
            self.check_lists_of(index);
        }
        self.taken_legs().for_each(|leg| self.check_leg(leg));
        self.check_lists();
        for number in 0..self.devices.len() {
            self.check_holds(number);
            self.check_held(number);
            self.check_waiting(number);
            self.check_counts(number);
        }
        self.check_cells();
        self.check_counters();
    }

    /// Slots are free or in use.
    fn check_slots(&self) {
        let requests = self.taken_requests().count();
        assert_eq!(requests, self.requests.used(), "requests that have regions are in use");
        let regions = self.taken_legs().collect::<HashSet<_>>();
        assert_eq!(regions.len(), self.legs.used(), "legs that are in use are of requests");
        let is_free = |leg| !regions.contains(leg);
        assert!(
            self.legs.free_indices().iter().all(is_free),
            "no leg is free and in use"
        );
        let free = self.requests.free_indices();
        let is_free = |&index: &u32| self.requests[index].regions == 0;
        assert!(free.iter().all(is_free), "no request is free and in use");
    }

    fn check_masks(&self, index: u32) {
        let request = &self.requests[index];
        let within = |inner: u64, outer: u64| inner & !outer == 0;
        assert!(within(request.undelivered, all(request.regions)), "{request:?}");
        assert!(
            within(request.running, request.undelivered),
            "an end is told once: {request:?}"
        );
        assert!(within(request.waiting, request.running), "what waits runs: {request:?}");
        assert_eq!(request.waiting & request.admitted, 0, "{request:?}");
        assert_eq!(request.lates & (request.running | request.admitted), 0, "{request:?}");
        assert!(within(request.timeouts, request.timed_out), "{request:?}");
        if !request.choice {
            assert_eq!(
                request.active(),
                request.running,
                "all regions have their turn: {request:?}"
            );
        } else if request.running != 0 {
            assert_ne!(request.active(), 0, "a candidate has its turn: {request:?}");
        }
        assert!(!request.is_forgotten(), "it is in use: {request:?}");
    }

    fn check_lists_of(&self, index: u32) {
        let request = &self.requests[index];
        assert_eq!(self.event_links.is_linked(index), request.has_news(), "{request:?}");
        let due = request.active() & !request.timed_out;
        let must_fire = due != 0 && request.timeout.is_some();
        assert!(self.wheel.is_armed(index) || !must_fire, "time runs: {request:?}");
        assert!(!self.wheel.is_armed(index) || request.running != 0, "{request:?}");
    }

    fn check_leg(&self, index: u32) {
        let leg = &self.legs[index];
        let request = &self.requests[leg.request];
        let is = |mask: u64| mask & leg.bit() != 0;
        let (runs, waits, admitted) = match leg.stage {
            Stage::Idle => (true, false, false),
            Stage::Waiting => (true, true, false),
            Stage::Held | Stage::Ready | Stage::Parked | Stage::AtDevice => (true, false, true),
            Stage::Orphan => (false, false, true),
            Stage::Settled => (false, false, false),
        };
        let masks = (is(request.running), is(request.waiting), is(request.admitted));
        assert_eq!((runs, waits, admitted), masks, "{leg:?} of {request:?}");
        assert_eq!(leg.state.is_none(), runs, "{leg:?}");
        assert!(leg.state.is_none_or(|state| state.is_terminal()), "{leg:?}");
        let has_cell = admitted && request.memory == MemoryKind::Bounce;
        assert_eq!(leg.cell.is_some(), has_cell, "{leg:?} of {request:?}");
        assert!(!leg.is_counted || has_cell, "{leg:?}");
        assert!(!leg.is_detached || leg.is_orphan(), "{leg:?}");
        let is_handed = matches!(leg.stage, Stage::AtDevice | Stage::Orphan);
        let is_replaced = is_handed && leg.generation != self.devices[usize::from(leg.device.0)].generation;
        let holds = request.op.is_write() && admitted && leg.stage != Stage::Held && !is_replaced;
        assert_eq!(leg.holds, holds, "{leg:?} of {request:?}");
    }

    /// Each list has the legs that say they are in it, and no others.
    fn check_lists(&self) {
        self.check_list(self.ready, "ready", |leg| leg.stage == Stage::Ready);
        for (number, device) in (0..).zip(&self.devices) {
            let here = |leg: &Leg| leg.device.0 == number;
            self.check_list(device.held, "held", |leg| here(leg) && leg.stage == Stage::Held);
            self.check_list(device.waiting, "waiting", |leg| {
                here(leg) && leg.stage == Stage::Waiting
            });
            self.check_list(device.parked, "parked", |leg| here(leg) && leg.stage == Stage::Parked);
            assert!(
                device.parked.is_empty() || device.is_busy,
                "device {number} gets its legs"
            );
        }
        let mut cancels = self.cancels.iter(&self.leg_links).map(|leg| &self.legs[leg]);
        assert!(
            cancels.all(|leg| leg.is_orphan() && !leg.is_detached),
            "devices give up orphans"
        );
    }

    fn check_list(&self, list: List, name: &str, belongs: impl Fn(&Leg) -> bool) {
        let listed = list.iter(&self.leg_links);
        let listed = listed.inspect(|&leg| assert!(belongs(&self.legs[leg]), "{name}: {:?}", self.legs[leg]));
        let belonging = self.taken_legs().filter(|&leg| belongs(&self.legs[leg]));
        assert_eq!(listed.count(), belonging.count(), "legs that are {name}");
    }

    /// S3-6: no two outstanding writes overlap.
    fn check_holds(&self, number: usize) {
        let holds = self.devices[number].holds.all();
        for pair in holds.windows(2) {
            assert!(pair[0].end <= pair[1].start, "two writes overlap: {pair:?}");
        }
        for hold in holds {
            let leg = &self.legs[hold.leg];
            let is_same = (hold.start, hold.end) == (leg.range.start(), leg.range.end());
            assert!(
                leg.holds && usize::from(leg.device.0) == number && is_same,
                "{hold:?} {leg:?}"
            );
        }
        let holding = self.taken_legs().map(|leg| &self.legs[leg]);
        let holding = holding.filter(|leg| leg.holds && usize::from(leg.device.0) == number);
        assert_eq!(holds.len(), holding.count(), "holds of device {number}");
    }

    /// Held writes know how many they wait for, and wait for some.
    fn check_held(&self, number: usize) {
        let device = &self.devices[number];
        let held: Vec<_> = device.held.iter(&self.leg_links).map(|leg| &self.legs[leg]).collect();
        for (place, leg) in held.iter().enumerate() {
            let earlier = held[..place].iter().filter(|other| other.range.overlaps(leg.range));
            let blockers = device.holds.overlapping(leg.range).count() + earlier.count();
            assert!(
                leg.blockers > 0 && leg.blockers as usize == blockers,
                "{blockers}: {leg:?}"
            );
        }
    }

    fn check_counts(&self, number: usize) {
        let device = &self.devices[number];
        let legs = self.taken_legs().map(|leg| &self.legs[leg]);
        let here: Vec<_> = legs.filter(|leg| usize::from(leg.device.0) == number).collect();
        let is_stray = |leg: &Leg| leg.is_orphan() && leg.generation != device.generation;
        let count = |is: &dyn Fn(&Leg) -> bool| here.iter().filter(|leg| is(leg)).count();
        assert_eq!(
            device.used as usize,
            count(&|leg| leg.is_counted && !is_stray(leg)),
            "ios of device {number}"
        );
        let mut users = HashSet::new();
        for leg in here.iter().filter(|leg| leg.cell.is_some() && !is_stray(leg)) {
            let candidate = self.requests[leg.request].choice.then_some(leg.region);
            users.insert((leg.request, candidate));
        }
        assert_eq!(
            device.used as usize,
            users.len(),
            "a request counts once on device {number}"
        );
        assert!(device.used <= self.min_ios, "ios of device {number}");
        let is_now = |leg: &Leg| leg.is_detached && leg.generation == device.generation;
        assert_eq!(device.orphans as usize, count(&is_now), "orphans of device {number}");
        assert_eq!(device.ghosts as usize, count(&|leg| leg.is_orphan() && leg.holds));
        assert_eq!(device.is_degraded, device.orphans >= self.orphans_max);
        let has_news = device.is_degraded != device.told_degraded;
        assert!(
            !has_news || self.is_device_news,
            "device {number} has something to tell"
        );
    }

    /// S3-7: a cell is free, used or orphaned.
    fn check_cells(&self) {
        let mut users = vec![0; self.cells.capacity() as usize];
        for cell in self.taken_legs().filter_map(|leg| self.legs[leg].cell) {
            users[cell as usize] += 1;
        }
        assert_eq!(users, self.cells.users(), "users of cells");
        let strays = self
            .taken_legs()
            .filter(|&leg| self.legs[leg].is_counted && self.is_stray(leg));
        assert_eq!(
            strays.count(),
            self.strays as usize,
            "requests at devices that were replaced"
        );
        let unused = users.iter().filter(|&&users| users == 0).count();
        assert_eq!(unused, self.cells.free() as usize, "cells without users are free");
        let (used, orphaned) = self.cells_taken();
        assert_eq!(self.cells.free() + used + orphaned, self.cells.capacity());
    }

    /// Nobody waits for memory who could have it.
    fn check_waiting(&self, number: usize) {
        if let Some(first) = self.devices[number].waiting.front() {
            assert!(!self.is_room_for(first), "leg {first} waits for nothing");
        }
    }

    /// S3-2: the ends and what runs add up to the regions.
    fn check_counters(&self) {
        let counted = &self.counters;
        let ended = counted.ok + counted.failed + counted.cancelled;
        let running = self
            .taken_requests()
            .map(|index| self.requests[index].running.count_ones());
        let running: u32 = running.sum();
        assert_eq!(counted.regions, ended + u64::from(running), "{counted:?}");
    }
}
