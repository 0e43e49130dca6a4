//! Pauses at awkward moments: while requests hang, wait to be tried again, or come before there is a queue; and for good.

use std::time::Duration;

use iomgr_core::{Errno, Storage, Token};
use tqueue::sim::{Fault, OpKinds, SimConfig, SimDisk, SimHandle};
use tqueue::{Config, EngineKind, Queue};
use vbd::{Cache, Disk, RetryOn, RetryPolicy};

use crate::rig::{Lanes, dynamic};

const BLOCK: u32 = 4096;
const SECTORS: u64 = 8;
const SEEDS: std::ops::Range<u64> = 0..20;

struct Rig {
    sim: SimHandle,
    image: SimDisk,
    disk: Disk,
    lanes: Lanes,
}

impl Rig {
    /// A disk of 64 blocks whose first two are written. Errors pass within ten seconds.
    fn new(seed: u64) -> Self {
        let sim = SimHandle::new(SimConfig::new(seed));
        let image = dynamic(&sim, 64, BLOCK);
        let retry = RetryPolicy {
            also: RetryOn::EIO,
            timeout: Duration::from_secs(10),
        };
        let disk = Disk::simulated_retrying(image.clone(), retry, Cache::Writeback).unwrap();
        let mut lanes = Lanes::open(&disk, &sim, 2);
        (0..2).for_each(|block| lanes.write(0, block * SECTORS, &block_of(1)).unwrap());
        while lanes.turn() {}
        Self {
            sim,
            image,
            disk,
            lanes,
        }
    }

    fn pause(&mut self) {
        let lanes = &mut self.lanes;
        self.disk.pause_simulated(|| lanes.turn()).unwrap();
    }

    fn resume(&self, image: &SimDisk) {
        self.disk.resume_simulated(image.clone()).unwrap();
    }

    /// The image's bytes in another file.
    fn copy(&self) -> SimDisk {
        let mut bytes = vec![0; usize::try_from(self.image.len_bytes().unwrap()).unwrap()];
        self.image.read_at(&mut bytes, 0).unwrap();
        let copy = self.sim.create_file();
        copy.write_at(&bytes, 0).unwrap();
        copy
    }

    /// Where the bytes of a block lie in the file.
    fn bytes_of(&self, block: u64) -> std::ops::Range<u64> {
        let extent = self.disk.extents(iomgr_core::Sector(block * SECTORS)).next();
        let at = extent.unwrap().unwrap().file_offset.expect("the block is written");
        at..at + u64::from(BLOCK)
    }

    fn let_time_pass(&self, time: Duration) {
        let config = Config {
            engine: EngineKind::Sim(self.sim.clone()),
            ..Config::default()
        };
        let mut clock = Queue::new(&config).unwrap();
        let due = clock.now() + time;
        clock.timer(due, Token::new(iomgr_core::Owner(0), 0)).unwrap();
        while clock.now() < due {
            clock.submit_and_wait(None).unwrap();
        }
    }

    fn end(self) {
        self.lanes.close();
        self.disk.close().unwrap();
    }
}

fn block_of(byte: u8) -> Vec<u8> {
    vec![byte; BLOCK as usize]
}

#[test]
fn what_waits_to_be_tried_again_goes_over_to_the_next_image() {
    for seed in SEEDS {
        let mut rig = Rig::new(seed);
        rig.image.fail_range(rig.bytes_of(0));
        let flight = rig.lanes.begin_write(1, 0, &block_of(2));
        while rig.disk.retry_status().waiting == 0 {
            assert!(rig.lanes.turn());
        }
        rig.pause();
        assert_eq!((rig.lanes.result(flight), rig.disk.retry_status().waiting), (None, 0));
        rig.image.fail_range(0..0);
        let copy = rig.copy();
        rig.resume(&copy);
        rig.lanes.wait(flight).unwrap();
        assert_eq!(rig.lanes.read(0, 0, SECTORS), Ok(block_of(2)), "seed {seed}");
        rig.end();
        assert_eq!(vhd::check(&copy).unwrap().verdict(), vhd::Verdict::Clean);
    }
}

/// What a manager has let go counts as begun: if it waited here for as long as the pause lasts, so might other disks.
#[test]
fn a_request_on_its_way_when_the_door_is_shut_does_not_wait_for_the_next_image() {
    for seed in SEEDS {
        let mut rig = Rig::new(seed);
        let (lanes, mut flights) = (&mut rig.lanes, Vec::new());
        let late = |lanes: &mut Lanes| [1, 0].map(|lane| lanes.begin_write(lane, lane as u64 * SECTORS, &block_of(2)));
        rig.disk
            .pause_simulated(|| {
                if flights.is_empty() {
                    flights.extend(late(lanes));
                    flights.extend(late(lanes));
                }
                lanes.turn()
            })
            .unwrap();
        let ended = |rig: &Rig| {
            flights
                .iter()
                .map(|flight| rig.lanes.result(*flight))
                .collect::<Vec<_>>()
        };
        let first = [Some(Ok(())), Some(Ok(())), None, None];
        assert_eq!(ended(&rig), first, "one of each queue, seed {seed}");
        rig.resume(&rig.image.clone());
        while rig.lanes.turn() {}
        assert_eq!(ended(&rig), [Some(Ok(())); 4]);
        rig.end();
    }
}

/// A pause was tried, in vain: it is as if nobody had.
#[test]
fn a_request_that_hangs_undoes_the_pause_and_holds_nobody_up() {
    for seed in SEEDS {
        let mut rig = Rig::new(seed);
        rig.image
            .inject(Fault::hold().on(OpKinds::WRITE).within(rig.bytes_of(0)));
        let hung = rig.lanes.begin_write(0, 0, &block_of(2));
        let (lanes, mut turns) = (&mut rig.lanes, 0);
        let mut held = None;
        let error = rig.disk.pause_simulated(|| {
            turns += 1;
            held.get_or_insert_with(|| lanes.begin_write(0, SECTORS, &block_of(3)));
            lanes.turn();
            turns < 9
        });
        assert_eq!(error.unwrap_err().kind(), vbd::ErrorKind::Io);
        assert!(rig.disk.info().paused.is_none());
        rig.lanes.wait(held.unwrap()).unwrap();
        rig.lanes.write(0, SECTORS, &block_of(4)).unwrap();
        rig.lanes.write(1, 2 * SECTORS, &block_of(5)).unwrap();
        rig.lanes.flush(1).unwrap();
        assert_eq!(rig.lanes.result(hung), None, "seed {seed}");
        rig.image.heal();
        rig.image.release();
        rig.lanes.wait(hung).unwrap();
        rig.end();
    }
}

#[test]
fn an_image_that_cannot_be_closed_stays_and_has_failed() {
    let flush = Fault::error(Errno::IO).on(OpKinds::FLUSH);
    let footer = Fault::error(Errno::IO).on(OpKinds::WRITE);
    for fault in [flush, footer] {
        let mut rig = Rig::new(1);
        rig.image.inject(fault);
        let lanes = &mut rig.lanes;
        let error = rig.disk.pause_simulated(|| lanes.turn()).unwrap_err();
        assert_eq!(error.kind(), vbd::ErrorKind::Io);
        rig.image.heal();
        assert!(rig.disk.info().failed && rig.disk.info().paused.is_none());
        for lane in 0..2 {
            assert!(rig.lanes.read(lane, 0, SECTORS) == Ok(block_of(1)));
            assert_eq!(rig.lanes.write(lane, 0, &block_of(2)), Err(Errno::IO));
        }
        rig.lanes.close();
        assert!(rig.disk.close().is_err());
    }
}

/// The storage had no chance to fail meanwhile, so it has all of its time.
#[test]
fn what_was_held_has_all_its_time_to_be_tried_again() {
    for seed in SEEDS {
        let mut rig = Rig::new(seed);
        let bad = rig.bytes_of(0);
        rig.pause();
        let flight = rig.lanes.begin_write(0, 0, &block_of(2));
        rig.let_time_pass(Duration::from_secs(3600));
        rig.image.fail_range(bad);
        rig.resume(&rig.image);
        while rig.disk.retry_status().waiting == 0 {
            assert_eq!(rig.lanes.result(flight), None, "seed {seed}");
            assert!(rig.lanes.turn());
        }
        rig.image.fail_range(0..0);
        rig.lanes.wait(flight).unwrap();
        rig.end();
    }
}

#[test]
fn a_queue_that_is_opened_while_the_disk_is_paused_serves_when_it_is_resumed() {
    for seed in SEEDS {
        let Rig {
            sim,
            image,
            disk,
            mut lanes,
        } = Rig::new(seed);
        disk.pause_simulated(|| lanes.turn()).unwrap();
        lanes.close();
        let mut lanes = Lanes::open(&disk, &sim, 3);
        let flights: Vec<_> = (0..3)
            .map(|lane| lanes.begin_write(lane, (lane as u64 + 4) * SECTORS, &block_of(7)))
            .collect();
        while lanes.turn() {}
        assert!(flights.iter().all(|&flight| lanes.result(flight).is_none()));
        disk.resume_simulated(image).unwrap();
        flights.into_iter().for_each(|flight| lanes.wait(flight).unwrap());
        lanes.close();
        disk.close().unwrap();
    }
}

#[test]
fn at_the_disk_s_end_what_is_held_ends() {
    let mut rig = Rig::new(3);
    rig.pause();
    let held = [0, 1].map(|lane| rig.lanes.begin_write(lane, 0, &block_of(2)));
    while rig.lanes.turn() {}
    assert_eq!(held.map(|flight| rig.lanes.result(flight)), [None; 2]);
    rig.disk.end_retries();
    assert_eq!(held.map(|flight| rig.lanes.wait(flight)), [Err(Errno::SHUTDOWN); 2]);
    assert_eq!(rig.lanes.write(0, 0, &block_of(2)), Err(Errno::SHUTDOWN));
    assert!(rig.disk.resume_simulated(rig.image.clone()).is_err());
    rig.end();
}
