//! A machine's state, for people.

use std::fmt;

use iomgr_core::{Operation, SectorRange};

use super::leg::{Leg, Stage};
use super::request::Request;
use super::{Machine, MemoryKind};
use crate::RegionState;

/// A readable picture of a machine: [`Machine::dump`].
#[derive(Debug)]
pub struct Dump<'a>(&'a Machine);

impl Machine {
    /// A readable picture: what is under way and where it is, and what was counted.
    pub fn dump(&self) -> Dump<'_> {
        Dump(self)
    }
}

impl fmt::Display for Dump<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(machine) = self;
        let taken = machine.occupancy();
        writeln!(
            f,
            "requests: {} of {}; regions running: {}; orphans: {}",
            taken.requests,
            machine.requests.capacity(),
            taken.running,
            taken.orphans
        )?;
        writeln!(
            f,
            "cells: {} used, {} with orphans, {} free",
            taken.cells_used, taken.cells_orphaned, taken.cells_free
        )?;
        writeln!(f, "{:?}", machine.counters)?;
        (0..machine.devices.len()).try_for_each(|number| machine.dump_device(f, number))?;
        machine
            .taken_requests()
            .try_for_each(|index| machine.dump_request(f, index))
    }
}

impl Machine {
    fn dump_device(&self, f: &mut fmt::Formatter<'_>, number: usize) -> fmt::Result {
        let device = &self.devices[number];
        let (generation, size) = (device.generation.0, device.config.size.0);
        write!(f, "device {number}: generation {generation}, {size} sectors")?;
        write!(f, ", {} of {} ios", device.used, self.min_ios)?;
        write!(f, ", {} of {} orphans", device.orphans, self.orphans_max)?;
        for (is, what) in [
            (device.config.read_only, "read-only"),
            (device.is_fenced, "fenced"),
            (device.is_degraded, "degraded"),
            (device.is_busy, "busy"),
        ] {
            if is {
                write!(f, ", {what}")?;
            }
        }
        writeln!(f)
    }

    fn dump_request(&self, f: &mut fmt::Formatter<'_>, index: u32) -> fmt::Result {
        let request = &self.requests[index];
        write!(f, "request {index}.{}: {}", request.serial, Verb(request))?;
        match request.handles {
            0 => f.write_str(", forgotten")?,
            handles => write!(f, ", handles {handles}")?,
        }
        if let Some(timeout) = request.timeout {
            write!(f, ", timeout {timeout:?}")?;
        }
        match request.memory {
            MemoryKind::None => writeln!(f)?,
            memory => writeln!(f, ", {memory:?}")?,
        }
        (0..request.regions).try_for_each(|region| self.dump_leg(f, self.leg_of(index, region)))
    }

    fn dump_leg(&self, f: &mut fmt::Formatter<'_>, index: u32) -> fmt::Result {
        let leg = &self.legs[index];
        write!(f, "  leg {index}: device {}", leg.device.0)?;
        if leg.range != SectorRange::default() {
            write!(f, ", {}", leg.range)?;
        }
        write!(f, ", {}", Place(leg))?;
        if self.requests[leg.request].timed_out & leg.bit() != 0 {
            f.write_str(", timed out")?;
        }
        if let Some(cell) = leg.cell {
            write!(f, ", cell {cell}")?;
        }
        writeln!(f)
    }
}

/// What a request does.
struct Verb<'a>(&'a Request);

impl fmt::Display for Verb<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0.op {
            Operation::Read if self.0.choice => "choice",
            Operation::Read => "read",
            Operation::Write => "write",
            Operation::Flush => "flush",
            Operation::Discard => "discard",
            Operation::WriteZeroes => "write-zeroes",
            Operation::Prefetch => "prefetch",
        })
    }
}

/// Where a leg is, and what its region has come to.
struct Place<'a>(&'a Leg);

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(leg) = self;
        match leg.stage {
            Stage::Idle => f.write_str("not its turn"),
            Stage::Waiting => f.write_str("waits for memory"),
            Stage::Held => write!(f, "held by {} writes", leg.blockers),
            Stage::Ready => f.write_str("ready"),
            Stage::Parked => f.write_str("waits for its device"),
            Stage::AtDevice => write!(f, "at generation {}", leg.generation.0),
            Stage::Orphan => write!(f, "orphan at generation {}, {}", leg.generation.0, End(leg)),
            Stage::Settled => End(leg).fmt(f),
        }
    }
}

/// How a region ended.
struct End<'a>(&'a Leg);

impl fmt::Display for End<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.state {
            None | Some(RegionState::Timeout) => f.write_str("runs"),
            Some(RegionState::Ok) => f.write_str("ok"),
            Some(RegionState::Error(errno)) => write!(f, "{errno}"),
            Some(RegionState::Cancelled(cancelled)) => {
                let how = if cancelled.never_started { ", never started" } else { "" };
                write!(f, "cancelled ({:?}{how})", cancelled.reason)
            }
        }
    }
}
