//! Opening and closing a disk's queues, on simulated files.

use iomgr_core::{Device, RequestFlags, Sector};
use tqueue::EngineKind;
use tqueue::sim::{SimConfig, SimHandle};
use vbd::{BlockingDisk, Disk};

use crate::rig::{Lanes, dynamic};

#[test]
fn a_read_only_disk_has_as_many_queues_as_others() {
    let sim = SimHandle::new(SimConfig::new(1));
    let disk = Disk::simulated(dynamic(&sim, 8, 4096), true).unwrap();
    let mut lanes = Lanes::open(&disk, &sim, 2);
    for lane in 0..2 {
        assert_eq!(lanes.read(lane, 0, 8), Ok(vec![0; 4096]));
        assert_eq!(lanes.write(lane, 0, &[1; 512]), Err(iomgr_core::Errno::ROFS));
    }
    lanes.close();
}

#[test]
fn queue_0_opens_once_at_a_time() {
    let sim = SimHandle::new(SimConfig::new(2));
    let disk = Disk::simulated(dynamic(&sim, 8, 4096), false).unwrap();
    let engine = EngineKind::Sim(sim.clone());
    let first = BlockingDisk::open(&disk, engine.clone()).unwrap();
    assert!(BlockingDisk::open(&disk, engine.clone()).is_err());
    drop(first);
    BlockingDisk::open(&disk, engine)
        .unwrap()
        .write(&[1; 512], Sector(0), RequestFlags::empty())
        .unwrap();
}

#[test]
fn a_refused_number_of_queues_takes_nothing_from_the_next() {
    let sim = SimHandle::new(SimConfig::new(3));
    let disk = Disk::simulated(dynamic(&sim, 8, 4096), false).unwrap();
    let engine = EngineKind::Sim(sim.clone());
    drop(BlockingDisk::open(&disk, engine.clone()).unwrap());
    assert!(Lanes::try_open(&disk, &sim, 2).is_err());
    let mut again = BlockingDisk::open(&disk, engine).unwrap();
    again.write(&[1; 512], Sector(0), RequestFlags::empty()).unwrap();
    drop(again);
    disk.close().unwrap();
    assert_eq!(disk.limits().size.0, 64);
}
