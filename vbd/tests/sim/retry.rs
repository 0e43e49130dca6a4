//! Errors that pass: requests that meet one are tried again, for so long and no longer, and others go on meanwhile.

use std::time::Duration;

use iomgr_core::{CancelOutcome, Errno, Operation, RequestFlags, Sector, Storage, Timestamp};
use tqueue::sim::{SimConfig, SimDisk, SimHandle};
use tqueue::{Config, EngineKind, Queue};
use vbd::{BlockingDisk, Cache, Disk, RetryOn, RetryPolicy};

use crate::rig::{Flight, Lanes, dynamic};

const BLOCK: u32 = 4096;
const SECTORS: u64 = 8;
const SEEDS: std::ops::Range<u64> = 0..20;
const EVERYTHING: std::ops::Range<u64> = 0..u64::MAX;

struct Rig {
    sim: SimHandle,
    image: SimDisk,
    disk: Disk,
    lanes: Lanes,
}

impl Rig {
    /// A disk of 64 blocks whose first two are written and flushed.
    fn new(seed: u64, also: RetryOn, timeout_s: u64) -> Self {
        Self::with_cache(seed, also, timeout_s, Cache::Writeback)
    }

    fn with_cache(seed: u64, also: RetryOn, timeout_s: u64, cache: Cache) -> Self {
        let sim = SimHandle::new(SimConfig::new(seed));
        let image = dynamic(&sim, 64, BLOCK);
        let retry = RetryPolicy {
            also,
            timeout: Duration::from_secs(timeout_s),
        };
        let disk = Disk::simulated_retrying(image.clone(), retry, cache).unwrap();
        let mut lanes = Lanes::open(&disk, &sim, 2);
        (0..2).for_each(|block| lanes.write(0, block * SECTORS, &block_of(1)).unwrap());
        lanes.flush(0).unwrap();
        while lanes.turn() {}
        Self {
            sim,
            image,
            disk,
            lanes,
        }
    }

    /// Where the bytes of a block lie in the file.
    fn bytes_of(&self, block: u64) -> std::ops::Range<u64> {
        let extent = self.disk.extents(Sector(block * SECTORS)).next().unwrap().unwrap();
        let at = extent.file_offset.expect("the block is written");
        at..at + u64::from(BLOCK)
    }

    /// Lets things happen until `at`.
    fn run_until(&mut self, at: Timestamp) {
        while self.lanes.now() < at {
            assert!(self.lanes.turn(), "nothing is under way any more");
        }
    }

    /// Lets things happen until requests wait to be tried again.
    fn run_until_waiting(&mut self, count: u32) {
        while self.disk.retry_status().waiting < count {
            assert!(self.lanes.turn(), "nothing is under way any more");
        }
    }

    /// Closes the disk, and looks whether the image is as it should be: not a slot is lost, and it holds these blocks.
    fn end(self, blocks: &[u8]) {
        self.lanes.close();
        assert_eq!(self.disk.retry_status().waiting, 0);
        self.disk.close().unwrap();
        assert_eq!(vhd::check(&self.image).unwrap().verdict(), vhd::Verdict::Clean);
        let disk = Disk::simulated(self.image, true).unwrap();
        let mut lanes = Lanes::open(&disk, &self.sim, 1);
        for (block, &byte) in (0..).zip(blocks) {
            assert!(
                lanes.read(0, block * SECTORS, SECTORS).unwrap() == block_of(byte),
                "block {block}"
            );
        }
        lanes.close();
    }
}

fn block_of(byte: u8) -> Vec<u8> {
    vec![byte; BLOCK as usize]
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn storage_that_comes_back_in_time_has_not_failed() {
    for seed in SEEDS {
        let mut rig = Rig::new(seed, RetryOn::EIO, 120);
        let start = rig.lanes.now();
        rig.image.fail_range(EVERYTHING);
        // A mapped block and new ones, from both queues; a block that is zeroed, one that is freed, one that is read.
        let mut flights: Vec<Flight> = (0..6)
            .map(|block| {
                rig.lanes
                    .begin_write(usize::from(block % 2 == 1), block * SECTORS, &block_of(2))
            })
            .collect();
        flights.push(
            rig.lanes
                .begin(0, Operation::Read, RequestFlags::empty(), SECTORS, SECTORS, None),
        );
        rig.run_until(start + seconds(5));
        assert!(flights.iter().all(|&flight| rig.lanes.result(flight).is_none()));
        let status = rig.disk.retry_status();
        assert!(status.waiting > 0 && status.retries > 6, "{status:?}");
        rig.image.fail_range(0..0);
        for flight in flights {
            assert_eq!(rig.lanes.wait(flight), Ok(()), "seed {seed}");
        }
        // A second is the longest delay, and it may be a quarter longer; a step and then its requests may wait.
        assert!(rig.lanes.now() < start + seconds(5 + 4), "seed {seed}");
        assert_eq!(rig.disk.retry_status().given_up, 0);
        rig.lanes.flush(1).unwrap();
        rig.end(&[2; 6]);
    }
}

#[test]
fn other_requests_go_on_meanwhile() {
    for seed in SEEDS {
        let mut rig = Rig::new(seed, RetryOn::EIO, 120);
        rig.image.fail_range(rig.bytes_of(0));
        let failing = rig.lanes.begin_write(0, 0, &block_of(2));
        rig.run_until_waiting(1);
        for round in 3..9 {
            rig.lanes.write(0, SECTORS, &block_of(round)).unwrap();
            rig.lanes.flush(0).unwrap();
            assert_eq!(rig.lanes.read(1, SECTORS, SECTORS), Ok(block_of(round)));
        }
        rig.lanes.write(0, 2 * SECTORS, &block_of(8)).unwrap();
        assert_eq!(rig.lanes.result(failing), None);
        rig.image.fail_range(0..0);
        assert_eq!(rig.lanes.wait(failing), Ok(()));
        rig.end(&[2, 8, 8]);
    }
}

#[test]
fn the_deadline_counts_from_the_arrival() {
    for seed in SEEDS {
        let mut rig = Rig::new(seed, RetryOn::EIO, 30);
        rig.image.fail_range(rig.bytes_of(0));
        let start = rig.lanes.now();
        let failing = rig.lanes.begin_write(1, 0, &block_of(2));
        assert_eq!(rig.lanes.wait(failing), Err(Errno::IO));
        let took = rig.lanes.now().since(start);
        assert!((seconds(30)..seconds(31)).contains(&took), "seed {seed}: {took:?}");
        let status = rig.disk.retry_status();
        assert_eq!((status.given_up, status.waiting), (1, 0));
        // 10 ms, 20 ms, … 640 ms, and then a second each.
        assert!((26..50).contains(&status.retries), "{status:?}");
        rig.image.fail_range(0..0);
        rig.end(&[1, 1]);
    }
}

#[test]
fn what_is_not_said_to_pass_fails_at_once() {
    for (also, timeout_s) in [(RetryOn::ENOSPC, 120), (RetryOn::EIO, 0)] {
        let mut rig = Rig::new(1, also, timeout_s);
        rig.image.fail_range(rig.bytes_of(0));
        let start = rig.lanes.now();
        assert_eq!(rig.lanes.write(0, 0, &block_of(2)), Err(Errno::IO));
        assert!(rig.lanes.now() < start + seconds(1));
        assert_eq!(rig.disk.retry_status().retries, 0);
        rig.image.fail_range(0..0);
        rig.end(&[1, 1]);
    }
}

/// There is a way out that the disk has itself: somebody frees a block.
#[test]
fn a_full_file_holds_new_blocks_up_until_there_is_room() {
    for seed in SEEDS {
        for made_larger in [true, false] {
            let mut rig = Rig::new(seed, RetryOn::ENOSPC, 120);
            rig.image.limit_len(Some(rig.image.len_bytes().unwrap()));
            let flights: Vec<_> = (2..12)
                .map(|block| rig.lanes.begin_write(1, block * SECTORS, &block_of(2)))
                .collect();
            rig.run_until_waiting(1);
            rig.lanes.write(0, 0, &block_of(7)).unwrap();
            let waiting = |rig: &Rig| {
                flights
                    .iter()
                    .filter(|&&flight| rig.lanes.result(flight).is_none())
                    .count()
            };
            let before = waiting(&rig);
            assert!(before > 0);
            if made_larger {
                rig.image.limit_len(None);
            } else {
                rig.lanes.discard(0, SECTORS, SECTORS).unwrap();
                rig.lanes.flush(0).unwrap();
                while waiting(&rig) == before {
                    assert!(rig.lanes.turn());
                }
                rig.image.limit_len(None);
            }
            for flight in flights {
                assert_eq!(rig.lanes.wait(flight), Ok(()), "seed {seed}");
            }
            assert_eq!(rig.disk.retry_status().given_up, 0);
            let second = if made_larger { 1 } else { 0 };
            rig.end(&[7, second, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2]);
        }
    }
}

#[test]
fn a_failed_flush_is_not_tried_again_and_ends_what_waits() {
    for seed in SEEDS {
        let mut rig = Rig::new(seed, RetryOn::all(), 120);
        rig.image.fail_range(rig.bytes_of(0));
        let failing = rig.lanes.begin_write(0, 0, &block_of(2));
        let reading = rig
            .lanes
            .begin(0, Operation::Read, RequestFlags::empty(), 0, SECTORS, None);
        rig.run_until_waiting(2);
        rig.image.fail_flushes(true);
        assert_eq!(rig.lanes.flush(1), Err(Errno::IO));
        rig.image.fail_flushes(false);
        assert_eq!(rig.lanes.flush(1), Err(Errno::IO), "nor is the next one believed");
        assert_eq!(rig.lanes.wait(failing), Err(Errno::IO));
        // A read needs no flush.
        rig.image.fail_range(0..0);
        assert_eq!(rig.lanes.wait(reading), Ok(()));
        rig.lanes.close();
        assert!(rig.disk.close().is_err());
    }
}

/// It may have failed in its flush, and nobody can tell.
#[test]
fn a_failed_durable_write_is_not_tried_again() {
    let mut rig = Rig::with_cache(3, RetryOn::EIO, 120, Cache::None);
    let durable = rig
        .lanes
        .begin(0, Operation::Write, RequestFlags::FUA, 0, SECTORS, Some(&block_of(2)));
    assert_eq!(rig.lanes.wait(durable), Ok(()));
    rig.image.fail_range(rig.bytes_of(0));
    let durable = rig
        .lanes
        .begin(0, Operation::Write, RequestFlags::FUA, 0, SECTORS, Some(&block_of(3)));
    assert_eq!(rig.lanes.wait(durable), Err(Errno::IO));
    assert!(rig.disk.info().failed);
    assert_eq!(rig.disk.retry_status().retries, 0);
    rig.lanes.close();
}

#[test]
fn at_the_end_nobody_waits() {
    for seed in SEEDS {
        let mut rig = Rig::new(seed, RetryOn::EIO, 120);
        rig.image.fail_range(EVERYTHING);
        let flights: Vec<_> = (0..6)
            .map(|block| {
                rig.lanes
                    .begin_write(usize::from(block % 2 == 1), block * SECTORS, &block_of(2))
            })
            .collect();
        rig.run_until_waiting(3);
        let start = rig.lanes.now();
        rig.disk.end_retries();
        for flight in flights {
            assert_eq!(rig.lanes.wait(flight), Err(Errno::IO), "seed {seed}");
        }
        assert!(rig.lanes.now() < start + seconds(1), "seed {seed}");
        rig.lanes.close();
        assert_eq!(rig.disk.retry_status().waiting, 0);
    }
}

#[test]
fn a_request_that_waits_can_be_given_up() {
    let mut rig = Rig::new(4, RetryOn::EIO, 120);
    rig.image.fail_range(rig.bytes_of(0));
    let failing = rig.lanes.begin_write(0, 0, &block_of(2));
    rig.run_until_waiting(1);
    let start = rig.lanes.now();
    assert_eq!(rig.lanes.cancel(failing), CancelOutcome::Detached);
    assert_eq!(rig.lanes.wait(failing), Err(Errno::IO));
    assert!(rig.lanes.now() < start + seconds(1));
    rig.image.fail_range(0..0);
    rig.end(&[1, 1]);
}

/// What its first attempt did, nobody knows. And as it has no op of its own under way, it has to look for room by itself.
#[test]
fn a_request_that_is_tried_again_has_started() {
    let mut rig = Rig::new(6, RetryOn::EIO, 120);
    rig.image.fail_range(rig.bytes_of(0));
    let failing = rig.lanes.begin_write(0, 0, &block_of(2));
    rig.run_until_waiting(1);
    rig.image.fail_range(0..0);
    rig.image.stall();
    rig.lanes.fill(&rig.image);
    while rig.disk.retry_status().waiting > 0 {
        assert!(rig.lanes.turn(), "nothing is under way any more");
    }
    assert_eq!(rig.lanes.cancel(failing), CancelOutcome::Detached);
    rig.image.release();
    assert_eq!(rig.lanes.wait(failing), Ok(()));
    rig.end(&[2, 1]);
}

/// Nobody tells a disk that others' ops have ended.
#[test]
fn what_others_leave_no_room_for_goes_on_when_there_is_some() {
    for step in 0..3 {
        let mut rig = Rig::new(7, RetryOn::empty(), 120);
        rig.image.stall();
        rig.lanes.fill(&rig.image);
        let flight = match step {
            0 => rig.lanes.begin_write(0, 0, &block_of(2)),
            1 => rig.lanes.begin_write(0, 40 * SECTORS, &block_of(2)),
            _ => rig.lanes.begin_flush(0),
        };
        rig.image.release();
        assert_eq!(rig.lanes.wait(flight), Ok(()), "step {step}");
        rig.end(&[if step == 0 { 2 } else { 1 }, 1]);
    }
}

/// A tool has no other op that would end and wake it.
#[test]
fn a_tool_sleeps_until_it_is_time() {
    let sim = SimHandle::new(SimConfig::new(5));
    let image = dynamic(&sim, 64, BLOCK);
    let retry = RetryPolicy {
        also: RetryOn::EIO,
        timeout: seconds(30),
    };
    let disk = Disk::simulated_retrying(image.clone(), retry, Cache::Writeback).unwrap();
    let config = Config {
        engine: EngineKind::Sim(sim.clone()),
        ..Config::default()
    };
    let mut tool = BlockingDisk::with_queue(&disk, Queue::new(&config).unwrap()).unwrap();
    tool.write(&block_of(1), Sector(0), RequestFlags::empty()).unwrap();
    image.fail_range(EVERYTHING);
    let start = sim.now();
    assert!(tool.write(&block_of(2), Sector(0), RequestFlags::empty()).is_err());
    assert!((seconds(30)..seconds(31)).contains(&sim.now().since(start)));
    image.fail_range(0..0);
    tool.write(&block_of(3), Sector(0), RequestFlags::empty()).unwrap();
    drop(tool);
    disk.close().unwrap();
}
