//! Opening and closing a disk's queues, on simulated files.

use iomgr_core::{Device, DeviceQueue, OpQueue, Owner, QueueContext, RequestFlags, Sector, Waker};
use tqueue::sim::{SimConfig, SimHandle};
use tqueue::{Config, EngineKind, Queue};
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

fn open(disk: &Disk, index: u16, io: &mut Queue) -> Option<Box<dyn DeviceQueue>> {
    let cx = QueueContext {
        index,
        count: 2,
        owner: Owner(1),
        depth: 8,
        waker: Waker::none(),
        io,
    };
    disk.open_queue(cx).ok()
}

/// Files and free memory, in the queue's own words.
fn resources(queue: &Queue) -> String {
    let dump = queue.dump();
    dump.lines().find(|line| line.contains("files: ")).unwrap().to_owned()
}

#[test]
fn a_queue_that_cannot_be_opened_leaves_nothing_behind() {
    let sim = SimHandle::new(SimConfig::new(4));
    let disk = Disk::simulated(dynamic(&sim, 8, 4096), false).unwrap();
    let config = Config {
        engine: EngineKind::Sim(sim.clone()),
        arena_bytes: 1 << 20,
        files: 1,
        ..Config::default()
    };
    let mut queue = Queue::new(&config).unwrap();
    let fresh = resources(&queue);
    for _ in 0..3 {
        assert!(open(&disk, 1, &mut queue).is_none(), "queue 0 is not open");
        assert_eq!(resources(&queue), fresh);
    }
    // Less and less memory: whatever it fails for, it gives everything back.
    let mut leases: Vec<_> = (0..256).map(|_| queue.alloc(4096).unwrap()).collect();
    let opened = loop {
        let before = resources(&queue);
        match open(&disk, 0, &mut queue) {
            Some(opened) => break opened,
            None => assert_eq!(resources(&queue), before),
        }
        queue.free(leases.pop().unwrap());
    };
    assert!(
        leases.len() < 250,
        "it does with {} pages less than there are",
        leases.len()
    );
    opened.close(&mut queue);
    leases.into_iter().for_each(|lease| queue.free(lease));
    assert_eq!(resources(&queue), fresh);
}
