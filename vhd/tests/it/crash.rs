//! Power cuts and kills at every turn of random sessions; the seed is in the message of a failure.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;

use fastrand::Rng;
use vhd::{CreateOptions, Image, OpenOptions, State, create};

use crate::disk::{Disk, Keep};
use crate::handmade::{Block, Foreign};
use crate::rig::{Faults, Rig, compare, last, verify_crash};

/// How many seeds each test goes through; `VHD_SEEDS` asks for more.
fn seeds() -> u64 {
    std::env::var("VHD_SEEDS")
        .ok()
        .and_then(|seeds| seeds.parse().ok())
        .unwrap_or(6)
}

fn for_each_seed(run: impl Fn(u64)) {
    for seed in 0..seeds() {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(seed))) {
            eprintln!("failed with seed {seed}");
            resume_unwind(panic);
        }
    }
}

fn ours(size: u64, block_bytes: u32) -> Disk {
    let disk = Disk::new(Vec::new());
    let options = CreateOptions {
        block_bytes,
        ..CreateOptions::dynamic(size, [9; 16], 77)
    };
    create(&disk, &options).unwrap();
    disk
}

fn foreign() -> Disk {
    let block = |number, present| Block {
        number,
        present,
        byte: 0x33 + number as u8,
    };
    // Runs that begin and end within bytes; a full block; an empty one.
    let blocks = vec![block(3, 0x0E), block(0, u64::MAX), block(7, 0), block(12, 0b1010_0101)];
    Disk::new(
        Foreign {
            size: 14 * 4096 + 1024,
            block_bytes: 4096,
            blocks,
        }
        .build(),
    )
}

fn device() -> Disk {
    let mut rng = Rng::with_seed(5);
    let garbage = (0..80 * 4096).map(|_| rng.u8(..)).collect();
    let disk = Disk::with_device(garbage, true);
    let options = CreateOptions {
        block_bytes: 8192,
        ..CreateOptions::dynamic(20 * 8192, [9; 16], 77)
    };
    create(&disk, &options).unwrap();
    disk
}

/// A session with a cut after each turn, and a close with cuts in between. Gives the closed image, and one that a power
/// cut left, its footer repaired.
fn torture(disk: Disk, seed: u64, faults: Faults) -> (Disk, Disk) {
    let mut rig = Rig::new(disk, seed);
    rig.faults = faults;
    let mut cut = None;
    for turn in 0..250 {
        rig.turn();
        cut = Some(rig.check_power_cut(match turn % 4 {
            0 => Keep::Nothing,
            1 => Keep::Everything,
            _ => Keep::Some,
        }));
        if faults.step_one_in == 0 {
            rig.check_killed();
        }
    }
    rig.drain();
    (close_with_cuts(rig, seed), cut.unwrap())
}

/// One session after the other: on what a close left, and on what a cut left.
fn torture_twice(disk: Disk, seed: u64, faults: Faults) -> Disk {
    let (closed, cut) = torture(disk, seed, faults);
    torture(cut, seed + 1000, faults);
    torture(closed, seed + 2000, faults).0
}

fn close_with_cuts(rig: Rig, seed: u64) -> Disk {
    let device = rig.disk.device;
    let before = rig.disk.flushes.get();
    let images = Rc::new(RefCell::new(Vec::new()));
    let (taken, mut rng) = (Rc::clone(&images), Rng::with_seed(seed));
    let watch = move |disk: &Disk| {
        for keep in [Keep::Nothing, Keep::Everything, Keep::Some, Keep::Some] {
            let flushes = disk.flushes.get() - before;
            taken.borrow_mut().push((flushes, disk.crash(keep, &mut rng)));
        }
    };
    let (disk, sectors) = rig.close(Box::new(watch));
    for (flushes, image) in images.take() {
        if flushes > 0 {
            let image = Disk::with_device(image.clone(), device);
            assert_eq!(
                Image::open(&image, &OpenOptions::default()).unwrap().state(),
                State::Clean
            );
        }
        verify_crash(image, device, &sectors);
    }
    compare(disk, &sectors, last)
}

#[test]
fn our_image_survives_power_cuts_and_kills() {
    for_each_seed(|seed| {
        let disk = torture_twice(ours(24 * 4096 - 512, 4096), seed, Faults::default());
        let report = vhd::check(&disk).unwrap();
        assert!(
            report.findings.iter().all(|finding| finding.code == "free"),
            "{report:?}"
        );
    });
}

#[test]
fn a_foreign_image_survives_power_cuts_and_kills() {
    for_each_seed(|seed| {
        torture_twice(foreign(), seed, Faults::default());
    });
}

/// Between the last block and the footer there is room, with old bytes in it, and the footer lies where the data of the
/// next slot will be.
fn with_a_tail() -> Disk {
    let mut bytes = ours(12 * 8192, 8192).bytes();
    let footer = bytes.split_off(bytes.len() - 512);
    bytes.resize(bytes.len() + 4096, 0xD7);
    bytes.extend(footer);
    Disk::new(bytes)
}

#[test]
fn an_image_with_leaked_room_at_its_end_survives_power_cuts_and_kills() {
    for_each_seed(|seed| {
        torture_twice(with_a_tail(), seed, Faults::default());
    });
}

#[test]
fn a_device_survives_power_cuts_and_a_lack_of_room() {
    for_each_seed(|seed| {
        torture_twice(device(), seed, Faults::default());
    });
}

#[test]
fn failing_metadata_writes_lose_nothing_acknowledged() {
    for_each_seed(|seed| {
        torture_twice(ours(24 * 4096, 4096), seed, Faults { step_one_in: 6 });
        torture_twice(foreign(), seed, Faults { step_one_in: 6 });
    });
}

#[test]
fn a_full_file_system_fails_requests_and_passes() {
    for_each_seed(|seed| {
        let mut rig = Rig::new(ours(24 * 4096, 4096), seed);
        rig.disk.space.set(12 * 4096);
        for _ in 0..300 {
            rig.turn();
            rig.check_power_cut(Keep::Some);
        }
        assert!(rig.enospc > 0, "12 pages do not hold 24 blocks");
        rig.disk.space.set(u64::MAX);
        rig.drain();
        let before = rig.enospc;
        for _ in 0..300 {
            rig.turn();
        }
        assert_eq!(rig.enospc, before, "there is room now");
        close_with_cuts(rig, seed);
    });
}
