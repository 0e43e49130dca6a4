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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use iomgr_core::{CancelOutcome, Errno, RequestFlags, Sector, SectorCount, Timestamp};

    use super::*;
    use crate::{DeviceConfig, DeviceIndex, Io, IoFlags, MachineConfig, Region};

    #[test]
    fn it_shows_what_is_under_way_and_where() {
        let device = DeviceConfig {
            size: SectorCount(1000),
            logical_block_bytes: 512,
            read_only: false,
        };
        let mut machine = Machine::new(MachineConfig {
            requests: 8,
            legs: 8,
            devices: vec![device; 3],
            min_ios: 1,
            orphans_max: 1,
            max_size: SectorCount(64),
        })
        .unwrap();
        let regions = [0, 1].map(|device| Region {
            device: DeviceIndex(device),
            range: SectorRange::new(Sector(16), SectorCount(8)).unwrap(),
        });
        let write = Io {
            op: Operation::Write,
            request_flags: RequestFlags::empty(),
            regions: &regions,
            choice: false,
            timeout: Some(Duration::from_millis(5)),
            flags: IoFlags::empty(),
            memory: MemoryKind::Bounce,
        };
        let now = Timestamp::ZERO;
        let first = machine.start(now, &write).unwrap();
        let orphan = machine.poll_submit().unwrap();
        let answered = machine.poll_submit().unwrap();
        machine.handle_completion(now, answered.leg, Err(Errno::IO));
        machine.cancel(now, first).unwrap();
        machine.release(first);
        let pool = MemoryKind::Lent { cancellable: true };
        let read = Operation::Read;
        for io in [
            write,
            Io { memory: pool, ..write },
            Io {
                op: read,
                choice: true,
                ..write
            },
        ] {
            machine.start(now, &io).unwrap();
        }
        machine.poll_submit().unwrap();
        machine.handle_timeout(now + Duration::from_millis(10));
        machine.poll_cancel().unwrap();
        machine.handle_cancelled(now, orphan.leg, CancelOutcome::Detached);
        machine.fence(now, DeviceIndex(2)).unwrap();
        machine.self_check();
        insta::assert_snapshot!(machine.dump(), @r"
        requests: 4 of 8; regions running: 3; orphans: 1
        cells: 1 used, 1 with orphans, 1 free
        Counters { requests: 4, regions: 8, ok: 0, failed: 4, cancelled: 1, never_started: 0, timeouts: 5, submitted: 3, late: 0, hedged: 0, quota_waits: 3, hold_waits: 2, failed_fast: 3, indeterminate: 0, busy: 0 }
        device 0: generation 0, 1000 sectors, 1 of 1 ios, 1 of 1 orphans, degraded
        device 1: generation 0, 1000 sectors, 1 of 1 ios, 0 of 1 orphans
        device 2: generation 0, 1000 sectors, 0 of 1 ios, 0 of 1 orphans, fenced
        request 0.0: write, forgotten, timeout 5ms, Bounce
          leg 0: device 0, sectors 16+8, orphan at generation 0, cancelled (Handle), cell 0
          leg 1: device 1, sectors 16+8, Input/output error (os error 5)
        request 1.0: write, handles 1, timeout 5ms, Bounce
          leg 2: device 0, sectors 16+8, Connection timed out (os error 110), timed out
          leg 3: device 1, sectors 16+8, at generation 0, timed out, cell 1
        request 2.0: write, handles 1, timeout 5ms, Lent { cancellable: true }
          leg 4: device 0, sectors 16+8, Connection timed out (os error 110), timed out
          leg 5: device 1, sectors 16+8, held by 1 writes, timed out
        request 3.0: choice, handles 1, timeout 5ms, Bounce
          leg 6: device 0, sectors 16+8, Connection timed out (os error 110), timed out
          leg 7: device 1, sectors 16+8, waits for memory
        ");
    }
}
