//! What a dynamic disk makes of storage that is full or fails: nothing acknowledged is lost, and it goes on where it can.

use iomgr_core::{Errno, Operation, RequestFlags, Storage};
use tqueue::sim::{SimConfig, SimDisk, SimHandle};
use vbd::Disk;

use crate::rig::{Lanes, dynamic, format};

const BLOCK: u32 = 4096;
const SECTORS: u64 = 8;

fn machine(seed: u64) -> SimHandle {
    SimHandle::new(SimConfig::new(seed))
}

fn block_of(byte: u8) -> Vec<u8> {
    vec![byte; BLOCK as usize]
}

/// Closes the disk, and looks whether the image is as it should be: valid, and of these blocks.
fn end_and_check(lanes: Lanes, disk: &Disk, sim: &SimHandle, image: &SimDisk, blocks: &[u8]) {
    lanes.close();
    disk.close().unwrap();
    check(sim, image, blocks);
}

fn check(sim: &SimHandle, image: &SimDisk, blocks: &[u8]) {
    let report = vhd::check(image).unwrap();
    assert_ne!(report.verdict(), vhd::Verdict::Corrupt, "{report:?}");
    let disk = Disk::simulated(image.clone(), true).unwrap();
    let mut lanes = Lanes::open(&disk, sim, 1);
    for (block, &byte) in (0..).zip(blocks) {
        let read = lanes.read(0, block * SECTORS, SECTORS).unwrap();
        assert!(read == block_of(byte), "block {block}");
    }
    lanes.close();
}

#[test]
fn a_full_file_refuses_new_blocks_until_there_is_room() {
    for seed in 0..20 {
        let sim = machine(seed);
        let image = dynamic(&sim, 64, BLOCK);
        let disk = Disk::simulated(image.clone(), false).unwrap();
        let mut lanes = Lanes::open(&disk, &sim, 2);
        lanes.write(0, 0, &block_of(1)).unwrap();
        while lanes.turn() {}
        image.limit_len(Some(image.len_bytes().unwrap()));
        // What is reserved already is used up.
        let mut written = 1;
        while lanes.write(
            usize::from(written % 2),
            u64::from(written) * SECTORS,
            &block_of(written + 1),
        ) == Ok(())
        {
            written += 1;
        }
        assert!(written < 64, "the disk is not full");
        let next = u64::from(written) * SECTORS;
        assert_eq!(lanes.write(0, next, &block_of(9)), Err(Errno::NOSPC));
        lanes.write(1, 0, &block_of(0xEE)).unwrap();
        lanes.flush(1).unwrap();
        assert_eq!(lanes.read(0, next, SECTORS), Ok(block_of(0)));
        image.limit_len(None);
        lanes.write(0, next, &block_of(0xAA)).unwrap();
        let mut blocks: Vec<u8> = (1..=written).collect();
        blocks[0] = 0xEE;
        blocks.push(0xAA);
        end_and_check(lanes, &disk, &sim, &image, &blocks);
    }
}

#[test]
fn after_a_failed_flush_nothing_is_promised_until_the_image_is_opened_again() {
    for seed in 0..20 {
        let sim = machine(seed);
        let image = dynamic(&sim, 64, BLOCK);
        let disk = Disk::simulated(image.clone(), false).unwrap();
        let mut lanes = Lanes::open(&disk, &sim, 2);
        lanes.write(0, 0, &block_of(1)).unwrap();
        lanes.flush(0).unwrap();
        while lanes.turn() {}
        image.fail_flushes(true);
        assert_eq!(lanes.flush(1), Err(Errno::IO));
        image.fail_flushes(false);
        for lane in 0..2 {
            assert_eq!(lanes.flush(lane), Err(Errno::IO));
            assert_eq!(lanes.write(lane, 0, &block_of(2)), Err(Errno::IO));
            assert_eq!(lanes.discard(lane, 0, SECTORS), Err(Errno::IO));
            assert_eq!(lanes.read(lane, 0, SECTORS), Ok(block_of(1)));
        }
        assert!(disk.info().failed);
        lanes.close();
        assert!(disk.close().is_err());
        check(&sim, &image, &[1]);
        let disk = Disk::simulated(image.clone(), false).unwrap();
        let mut lanes = Lanes::open(&disk, &sim, 2);
        lanes.write(1, SECTORS, &block_of(3)).unwrap();
        lanes.flush(1).unwrap();
        end_and_check(lanes, &disk, &sim, &image, &[1, 3]);
    }
}

#[test]
fn a_flush_of_another_queue_that_failed_is_not_forgotten_by_the_allocator() {
    let mut met = 0;
    for seed in 0..40 {
        let sim = machine(seed);
        let image = dynamic(&sim, 64, BLOCK);
        let disk = Disk::simulated(image.clone(), false).unwrap();
        let mut lanes = Lanes::open(&disk, &sim, 2);
        // The first flush since open is one that the allocator waits for with everybody else.
        lanes.flush(0).unwrap();
        image.fail_flushes(true);
        let write = lanes.begin_write(0, 0, &block_of(1));
        let flush = lanes.begin_flush(1);
        assert_eq!(lanes.wait(flush), Err(Errno::IO));
        // The kernel tells of a failed write-back once: the allocator's own flush ends well.
        image.fail_flushes(false);
        met += u32::from(lanes.result(write).is_none());
        assert_eq!(lanes.wait(write), Err(Errno::IO), "seed {seed}");
        lanes.close();
    }
    assert!(met > 20, "only {met} writes were still waiting");
}

#[test]
fn a_flush_that_fails_under_the_allocator_fails_the_disk() {
    let sim = machine(3);
    let image = dynamic(&sim, 64, BLOCK);
    let disk = Disk::simulated(image.clone(), false).unwrap();
    let mut lanes = Lanes::open(&disk, &sim, 2);
    image.fail_flushes(true);
    assert_eq!(lanes.write(1, 0, &block_of(1)), Err(Errno::IO));
    image.fail_flushes(false);
    assert_eq!(lanes.flush(0), Err(Errno::IO));
    assert_eq!(lanes.read(0, 0, SECTORS), Ok(block_of(0)));
    lanes.close();
}

#[test]
fn a_full_block_device_takes_new_blocks_for_discarded_ones() {
    for seed in 0..20 {
        let sim = machine(seed);
        // Room for a part of the blocks only.
        let image = format(sim.create_block_device(256 << 10), 64, BLOCK);
        let disk = Disk::simulated(image.clone(), false).unwrap();
        let mut lanes = Lanes::open(&disk, &sim, 2);
        let mut written: u8 = 0;
        while lanes.write(
            usize::from(written % 2),
            u64::from(written) * SECTORS,
            &block_of(written + 1),
        ) == Ok(())
        {
            written += 1;
        }
        assert!((8..64).contains(&written), "{written} blocks fit");
        let next = u64::from(written) * SECTORS;
        assert_eq!(lanes.write(0, next, &block_of(9)), Err(Errno::NOSPC));
        // Its slot is to be had at once, although nobody flushes.
        lanes.discard(1, 0, SECTORS).unwrap();
        lanes.write(0, next, &block_of(0xAA)).unwrap();
        assert_eq!(lanes.read(1, 0, SECTORS), Ok(block_of(0)));
        let mut blocks: Vec<u8> = (1..=written).collect();
        blocks[0] = 0;
        blocks.push(0xAA);
        end_and_check(lanes, &disk, &sim, &image, &blocks);
        assert_eq!(image.len_bytes().unwrap(), 256 << 10);
    }
}

#[test]
fn a_discarded_block_is_to_be_had_while_somebody_still_reads() {
    for seed in 0..20 {
        let sim = machine(seed);
        let image = format(sim.create_block_device(256 << 10), 64, BLOCK);
        let disk = Disk::simulated(image.clone(), false).unwrap();
        let mut lanes = Lanes::open(&disk, &sim, 2);
        let mut written: u8 = 0;
        while lanes.write(0, u64::from(written) * SECTORS, &block_of(written + 1)) == Ok(()) {
            written += 1;
        }
        let next = u64::from(written) * SECTORS;
        // Reads all the time, so that some epoch is always held.
        let mut reads: Vec<_> = (0..4)
            .map(|_| lanes.begin(1, Operation::Read, RequestFlags::empty(), SECTORS, SECTORS, None))
            .collect();
        lanes.discard(0, 0, SECTORS).unwrap();
        let write = lanes.begin_write(0, next, &block_of(0xAA));
        reads.drain(..).for_each(|read| lanes.wait(read).unwrap());
        assert_eq!(lanes.wait(write), Ok(()), "seed {seed}");
        lanes.close();
    }
}

#[test]
fn storage_without_holes_is_zeroed_by_writing() {
    for seed in 0..20 {
        let sim = machine(seed);
        let image = format(sim.create_block_device(256 << 10), 64, BLOCK);
        image.refuse_holes(true);
        let disk = Disk::simulated(image.clone(), false).unwrap();
        let mut lanes = Lanes::open(&disk, &sim, 2);
        for round in 1..4 {
            for block in 0..20_u8 {
                lanes
                    .write(usize::from(block % 2), u64::from(block) * SECTORS, &[round; 512])
                    .unwrap();
            }
            lanes.discard(1, 0, 20 * SECTORS).unwrap();
            lanes.flush(0).unwrap();
        }
        lanes.write(1, 1, &[7; 512]).unwrap();
        zeros_in_no_time(&mut lanes);
        let keep = RequestFlags::NO_UNMAP | RequestFlags::FUA;
        let zero = lanes.begin(0, Operation::WriteZeroes, keep, SECTORS - 1, 3 * SECTORS, None);
        lanes.wait(zero).unwrap();
        let mut expected = block_of(0);
        expected[512..1024].fill(7);
        assert_eq!(lanes.read(0, 0, SECTORS), Ok(expected));
        assert_eq!(lanes.read(0, SECTORS, 63 * SECTORS), Ok(vec![0; 63 * BLOCK as usize]));
        lanes.close();
        disk.close().unwrap();
        let report = vhd::check(&image).unwrap();
        assert_ne!(report.verdict(), vhd::Verdict::Corrupt, "{report:?}");
    }
}

/// Where holes are refused only the map can zero fast: blocks that are free, or become so.
fn zeros_in_no_time(lanes: &mut Lanes) {
    let zero = |lanes: &mut Lanes, keep, start, sectors| {
        let zero = lanes.begin(
            0,
            Operation::WriteZeroes,
            RequestFlags::FAST_ZERO | keep,
            start,
            sectors,
            None,
        );
        let result = lanes.wait(zero);
        (result, lanes.read(1, 1, 1).unwrap()[0])
    };
    let (unmap, keep) = (RequestFlags::empty(), RequestFlags::NO_UNMAP);
    for start in [0, 1] {
        assert_eq!(
            zero(lanes, unmap, start, 2),
            (Err(Errno::NOTSUP), 7),
            "a part of a block"
        );
    }
    assert_eq!(
        zero(lanes, keep, 0, SECTORS),
        (Err(Errno::NOTSUP), 7),
        "a block that is to stay"
    );
    assert_eq!(
        zero(lanes, keep, 30 * SECTORS, 1),
        (Err(Errno::NOTSUP), 7),
        "a block that is to be had"
    );
    assert_eq!(
        zero(lanes, unmap, 30 * SECTORS, SECTORS + 1),
        (Ok(()), 7),
        "free blocks"
    );
    lanes.write(1, 40 * SECTORS, &block_of(9)).unwrap();
    assert_eq!(zero(lanes, unmap, 40 * SECTORS, SECTORS), (Ok(()), 7), "a whole block");
    assert_eq!(lanes.read(0, 40 * SECTORS, SECTORS), Ok(block_of(0)));
}

#[test]
fn a_bad_spot_fails_its_requests_only() {
    let sim = machine(5);
    let image = dynamic(&sim, 64, BLOCK);
    let disk = Disk::simulated(image.clone(), false).unwrap();
    let mut lanes = Lanes::open(&disk, &sim, 2);
    lanes.write(0, 0, &block_of(1)).unwrap();
    lanes.write(1, SECTORS, &block_of(2)).unwrap();
    while lanes.turn() {}
    let content = |at: u64| {
        let mut bytes = vec![0; BLOCK as usize];
        image.read_at(&mut bytes, at).unwrap();
        bytes
    };
    let bad = (0..).step_by(512).find(|&at| content(at) == block_of(1)).unwrap();
    image.fail_range(bad..bad + 1);
    assert_eq!(lanes.read(1, 0, SECTORS), Err(Errno::IO));
    assert_eq!(lanes.write(1, 0, &block_of(3)), Err(Errno::IO));
    assert_eq!(lanes.read(1, SECTORS, SECTORS), Ok(block_of(2)));
    lanes.flush(0).unwrap();
    assert!(!disk.info().failed);
    image.fail_range(0..0);
    lanes.write(0, 0, &block_of(4)).unwrap();
    end_and_check(lanes, &disk, &sim, &image, &[4, 2]);
}
