//! What the runner does while it has the machine: hands legs to devices, and answers to the machine.

use std::sync::Arc;

use iomgr_core::{Device, Errno, Lease, OpQueue, Pass};

use super::RunnerConfig;
use super::bounce::Cells;
use super::lists::Lists;
use super::payload::{Payload, Slot, cut};
use super::places::Places;
use crate::{CellId, DeviceIndex, Error, ErrorKind, Generation, Io, LegId, Machine, Submission};

/// See the module.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) places: Places,
    pub(super) lists: Lists,
    pub(super) cells: Cells,
    /// By leg: where what is read is to be taken from.
    pub(super) reads: Box<[Option<Reading>]>,
    /// By leg: what was submitted of one whose memory is a list.
    pub(super) submissions: Box<[Option<Submission>]>,
    /// What devices have said, and the machine has not heard yet.
    pub(super) answers: Vec<(LegId, Result<(), Errno>)>,
    list_max: u32,
}

/// A read into bounce memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    pub(super) cell: CellId,
    pub(super) len: u32,
}

impl Desk {
    pub(super) fn new(
        config: &RunnerConfig,
        devices: &[Arc<dyn Device>],
        cells: Box<[Lease]>,
        io: &mut dyn OpQueue,
    ) -> Result<Self, Error> {
        let legs = config.regions as usize;
        let cells = Cells(cells);
        let places = match Places::new(config, devices, io) {
            Ok(places) => places,
            Err(error) => {
                cells.close(io);
                return Err(error);
            }
        };
        Ok(Self {
            places,
            lists: Lists::new(config.regions, config.parts),
            cells,
            reads: vec![None; legs].into(),
            submissions: vec![None; legs].into(),
            answers: Vec::with_capacity(legs),
            list_max: config.list_max,
        })
    }

    /// Goes on until devices have nothing more to say, and nothing is to be submitted.
    pub(super) fn work<T>(&mut self, machine: &mut Machine, pass: &mut Pass<'_>, slots: &mut [Slot<T>]) {
        let has_news = self.collect();
        self.answer(machine, pass, slots);
        machine.handle_timeout(pass.now);
        self.retry(machine, pass, slots, has_news);
        loop {
            self.cancel(machine, pass);
            self.submit(machine, pass, slots);
            if !self.collect() {
                return;
            }
            self.answer(machine, pass, slots);
            // What ended from inside `submit` or `cancel` has made room as well.
            self.retry(machine, pass, slots, true);
        }
    }

    /// Puts an opened queue in the place of a device's. Legs that the old one has in part end with what it has of them.
    pub(super) fn replace(&mut self, device: DeviceIndex, generation: Generation, at: usize) {
        for leg in self.places.install(device, generation, at) {
            let ended = self.lists.give_up(leg, Errno::NODEV);
            self.answers.extend(ended.map(|result| (LegId(leg), result)));
        }
    }

    /// Checks a request's memory; says how many parts at devices it takes.
    pub(super) fn check(&self, io: &Io<'_>, payload: &Payload<'_>) -> Result<u32, Error> {
        let Some(region) = io.regions.first().filter(|_| !matches!(payload, Payload::None)) else {
            return Ok(0);
        };
        let len = region.range.len_bytes();
        if payload.len_bytes() < len {
            return Err(Error::invalid("the memory is shorter than a region"));
        }
        let Payload::List(parts) = payload else { return Ok(0) };
        let len = usize::try_from(len).map_err(|_| Error::invalid("a region is too long"))?;
        self.check_list(io, cut(parts, len).map(|part| part.len))
    }

    fn check_list(&self, io: &Io<'_>, parts: impl Iterator<Item = u32>) -> Result<u32, Error> {
        let blocks = io.regions.iter().filter_map(|region| self.places.info(region.device));
        let block = blocks.map(|place| place.limits.logical_block_bytes).max().unwrap_or(1);
        let mut count = 0;
        for len in parts {
            if !len.is_multiple_of(block) {
                let what =
                    "a part of the memory is no multiple of the device's logical block size; have it copied instead";
                return Err(Error::invalid(what));
            }
            count += 1;
        }
        if count > self.list_max {
            return Err(Error::invalid(
                "the memory has more parts than the client was made for; have it copied instead",
            ));
        }
        let regions = u32::try_from(io.regions.len()).unwrap_or(u32::MAX);
        let needed = if count > 1 { count.saturating_mul(regions) } else { 0 };
        if !self.lists.is_room_for(needed) {
            return Err(Error::new(ErrorKind::Full, "too many parts of memory are at devices"));
        }
        Ok(needed)
    }

    pub(super) fn close(self, io: &mut dyn OpQueue) {
        let is_idle = self.places.are_idle();
        self.places.close(io);
        if is_idle {
            self.cells.close(io);
        }
    }
}
