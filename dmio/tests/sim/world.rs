//! The machine, its disks, and what goes wrong with them.

use std::sync::Arc;
use std::time::Duration;

use dmio::{Client, ClientConfig, FileDevice};
use fastrand::Rng;
use iomgr_core::{Device, Errno, SectorCount, Storage};
use tqueue::EngineKind;
use tqueue::sim::{Fault, OpKinds, SimConfig, SimDisk, SimHandle};

/// Sectors of a disk: few, so that requests meet.
pub(crate) const SECTORS: u64 = 96;
/// The longest region.
pub(crate) const LONGEST: u64 = 16;

pub(crate) struct World {
    pub(crate) machine: SimHandle,
    /// All there ever were.
    pub(crate) disks: Vec<SimDisk>,
    /// Which of them has the number of a device now.
    pub(crate) current: Vec<usize>,
}

impl World {
    pub(crate) fn new(rng: &mut Rng) -> Self {
        let seed = rng.u64(..);
        let config = if rng.bool() {
            SimConfig::calm(seed)
        } else {
            SimConfig::new(seed)
        };
        let config = config
            .refuse_every(*rng.choice(&[0, 0, 7]).unwrap())
            .take_late_every(*rng.choice(&[0, 1, 3]).unwrap());
        let machine = SimHandle::new(config);
        machine.record(1 << 20);
        let mut world = Self {
            machine,
            disks: Vec::new(),
            current: Vec::new(),
        };
        world.current = (0..rng.usize(1..=3)).map(|_| world.add_disk(rng)).collect();
        world
    }

    /// Another disk, of zeros.
    pub(crate) fn add_disk(&mut self, rng: &mut Rng) -> usize {
        let disk = self.machine.create_block_device(SECTORS * 512);
        disk.refuse_holes(rng.u8(..4) == 0);
        self.disks.push(disk);
        self.disks.len() - 1
    }

    pub(crate) fn device(&self, disk: usize) -> Arc<dyn Device> {
        let file = &self.disks[disk];
        Arc::new(FileDevice::over(format!("disk {disk}"), file.handle(), file.limits()))
    }

    /// A client of all disks, small enough to be full now and then.
    pub(crate) fn client(&self, rng: &mut Rng) -> Client {
        let config = ClientConfig {
            devices: self.current.iter().map(|&disk| self.device(disk)).collect(),
            min_ios: rng.u32(1..=4),
            max_size: SectorCount(LONGEST),
            requests: rng.u32(4..=32),
            regions: rng.u32(16..=64),
            orphans_max: rng.u32(1..=8),
            pool_bytes: 1 << 20,
            list_max: 8,
            lent: rng.u16(8..=32),
            engine: EngineKind::Sim(self.machine.clone()),
            drain_max: Duration::from_secs(1),
        };
        Client::new(config).unwrap()
    }

    /// Something goes wrong with a disk, or is well again.
    pub(crate) fn disturb(&self, rng: &mut Rng) {
        let disk = &self.disks[rng.usize(..self.disks.len())];
        let millis = |rng: &mut Rng, most| Duration::from_millis(rng.u64(1..most));
        let kinds = *rng.choice(&[OpKinds::all(), OpKinds::READ, OpKinds::WRITE]).unwrap();
        let few = rng.u32(1..20);
        match rng.u8(..8) {
            0 => disk.inject(Fault::error(Errno::IO).on(kinds - OpKinds::FLUSH).one_in(few)),
            1 => disk.inject(Fault::torn_error(Errno::NOSPC).on(OpKinds::WRITE).one_in(few)),
            2 => disk.inject(Fault::delay(millis(rng, 500)).on(kinds).one_in(few)),
            3 => disk.inject(Fault::late(millis(rng, 2000)).on(kinds).times(few)),
            4 | 5 => disk.stall_for(millis(rng, 3000)),
            6 => disk.release(),
            _ => disk.heal(),
        }
    }

    /// All goes well from now on.
    pub(crate) fn mend(&self) {
        self.disks.iter().for_each(SimDisk::heal);
        self.machine.release();
    }

    pub(crate) fn read(&self, disk: usize) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(SECTORS * 512).unwrap()];
        self.disks[disk].read_at(&mut bytes, 0).unwrap();
        bytes
    }
}
