//! Clients over simulated disks.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use dmio::{Client, ClientConfig, DeviceIndex, FileDevice, Notification, Notify, Region, RegionState};
use iomgr_core::{Device, Sector, SectorCount, SectorRange, Storage};
use tqueue::EngineKind;
use tqueue::sim::{SimConfig, SimDisk, SimHandle};

/// Sectors of a disk.
pub(crate) const SIZE: SectorCount = SectorCount(2048);

/// A client, and the machine and disks that it works on.
pub(crate) struct Rig {
    pub(crate) client: Client,
    pub(crate) machine: SimHandle,
    pub(crate) disks: Vec<SimDisk>,
}

impl Rig {
    /// On so many calm disks.
    pub(crate) fn new(disks: usize) -> Self {
        Self::with(SimConfig::calm(1), disks, |config| config)
    }

    pub(crate) fn with(config: SimConfig, disks: usize, change: impl FnOnce(ClientConfig) -> ClientConfig) -> Self {
        let machine = SimHandle::new(config);
        let disks: Vec<_> = (0..disks).map(|_| machine.create_block_device(SIZE.0 * 512)).collect();
        let config = ClientConfig {
            devices: disks.iter().map(device).collect(),
            min_ios: 4,
            max_size: SectorCount(64),
            pool_bytes: 1 << 20,
            engine: EngineKind::Sim(machine.clone()),
            drain_max: Duration::from_secs(1),
            ..ClientConfig::default()
        };
        let client = Client::new(change(config)).unwrap();
        Self { client, machine, disks }
    }

    /// Polls until so much virtual time has passed.
    pub(crate) fn pass_time(&mut self, time: Duration) {
        let until = self.client.now() + time;
        while self.client.now() < until {
            let left = until.since(self.client.now());
            self.client.poll(Some(left)).unwrap();
        }
    }

    /// What a disk has in sectors.
    pub(crate) fn bytes(&self, disk: usize, start: u64, count: u64) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(count * 512).unwrap()];
        self.disks[disk].read_at(&mut bytes, start * 512).unwrap();
        bytes
    }
}

/// A simulated disk as a device.
pub(crate) fn device(disk: &SimDisk) -> Arc<dyn Device> {
    Arc::new(FileDevice::over("simulated", disk.handle(), disk.limits()))
}

/// `count` sectors from `start` of a device.
pub(crate) fn region(device: u16, start: u64, count: u64) -> Region {
    Region {
        device: DeviceIndex(device),
        range: SectorRange::new(Sector(start), SectorCount(count)).unwrap(),
    }
}

/// Notifications as they come.
#[derive(Clone, Default)]
pub(crate) struct Notes(Rc<RefCell<Vec<Notification>>>);

impl Notes {
    pub(crate) fn listener(&self) -> Rc<dyn Notify> {
        let notes = self.clone();
        let notify = move |_: &mut Client, note| notes.0.borrow_mut().push(note);
        Rc::new(notify)
    }

    pub(crate) fn take(&self) -> Vec<Notification> {
        self.0.take()
    }

    /// Regions and states, in order.
    pub(crate) fn states(&self) -> Vec<(usize, RegionState)> {
        let note = |note: &Notification| (note.region, note.state);
        self.0.borrow().iter().map(note).collect()
    }
}
