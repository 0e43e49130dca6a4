//! What calls are about: mostly what can be run, and near each other.

use std::time::Duration;

use dmio::{DeviceConfig, DeviceIndex, Io, IoFlags, MachineConfig, MemoryKind, Region};
use fastrand::Rng;
use iomgr_core::{Operation, RequestFlags, Sector, SectorCount, SectorRange};

use super::World;

impl World {
    pub(super) fn random_device(&mut self) -> DeviceIndex {
        DeviceIndex(self.rng.u16(..u16::try_from(self.disks.len()).unwrap()))
    }

    /// Mostly good ones; then of one length, and near each other.
    pub(super) fn random_regions(&mut self) -> Vec<Region> {
        let count = match self.rng.u32(..20) {
            0 => self.rng.usize(..70),
            1..10 => 1,
            _ => self.rng.usize(1..5),
        };
        let len = self.rng.u64(1..=2) * 8;
        let region = |_| {
            let off = self.rng.u32(..200) == 0;
            let devices = self.disks.len() + usize::from(off);
            let device = self.rng.usize(..devices);
            let start = self.rng.u64(..10) * 8 + u64::from(self.rng.u32(..200) == 0);
            let len = if self.rng.u32(..100) == 0 {
                self.rng.u64(..30)
            } else {
                len
            };
            Region {
                device: DeviceIndex(u16::try_from(device).unwrap()),
                range: SectorRange::new(Sector(start), SectorCount(len)).unwrap(),
            }
        };
        (0..count).map(region).collect()
    }

    pub(super) fn random_io<'a>(&mut self, regions: &'a [Region]) -> Io<'a> {
        let rng = &mut self.rng;
        let is_odd = rng.u32(..100) == 0;
        let choice = if is_odd {
            rng.bool()
        } else {
            regions.len() > 1 && rng.bool()
        };
        let op = match rng.u32(..12) {
            _ if choice && !is_odd => Operation::Read,
            0..6 if regions.len() == 1 || is_odd => Operation::Read,
            10 => Operation::Discard,
            11 if rng.bool() => Operation::WriteZeroes,
            11 if is_odd => Operation::Flush,
            11 => Operation::Prefetch,
            _ => Operation::Write,
        };
        let cancellable = rng.u32(..4) > 0;
        let memory = match op {
            Operation::Read | Operation::Write if !is_odd && rng.u32(..3) > 0 => MemoryKind::Bounce,
            Operation::Read | Operation::Write if !is_odd => MemoryKind::Lent { cancellable },
            _ if !is_odd => MemoryKind::None,
            _ => *rng
                .choice(&[MemoryKind::None, MemoryKind::Bounce, MemoryKind::Lent { cancellable }])
                .unwrap(),
        };
        let timeout = rng.u32(..3) > 0;
        let timeout = timeout.then(|| Duration::from_nanos(rng.u64(..) >> rng.u32(20..50)));
        let mut flags = IoFlags::from_bits_truncate(rng.u8(..) & rng.u8(..));
        if memory == (MemoryKind::Lent { cancellable: false }) && !is_odd {
            flags -= IoFlags::CANCEL_ON_TIMEOUT;
        }
        Io {
            op,
            request_flags: RequestFlags::empty(),
            regions,
            choice,
            timeout,
            flags,
            memory,
        }
    }
}

pub(super) fn random_config(rng: &mut Rng) -> MachineConfig {
    let devices = rng.usize(1..5);
    MachineConfig {
        requests: rng.u32(1..24),
        legs: rng.u32(1..80),
        devices: (0..devices).map(|_| random_device_config(rng)).collect(),
        min_ios: rng.u32(1..5),
        orphans_max: rng.u32(1..16),
        max_size: SectorCount(16),
    }
}

pub(super) fn random_device_config(rng: &mut Rng) -> DeviceConfig {
    DeviceConfig {
        size: SectorCount(rng.u64(80..100)),
        logical_block_bytes: *rng.choice(&[512, 512, 4096]).unwrap(),
        read_only: rng.u32(..20) == 0,
    }
}
