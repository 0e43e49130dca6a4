//! Power cuts, kills and clean ends of a simulated disk under random load: Durability 2 of the design, at each of them.
//!
//! A run is a chain of lives of one image, all from one seed. `IOMGR_SIM_SEED` replays a seed, `IOMGR_SIM_CUTS` sets how many
//! power cuts to make; a failure prints the seed.

mod life;
mod model;

use std::time::{Duration, Instant};

use fastrand::Rng;
use iomgr_core::{SECTOR_BYTES, Sector, Storage};
use tqueue::EngineKind;
use tqueue::sim::{SimConfig, SimDisk, SimHandle};
use vbd::{BlockingDisk, Cache, Disk};

use life::Life;
use model::{Model, Stamp};

/// Seeds that once failed: kept, and replayed each time.
const KEPT: &[u64] = &[];
/// Power cuts that CI makes at least, whatever the clock says.
const CUTS_MIN: u64 = 2_000;
const CUTS_SOAK: u64 = 20_000;
/// Of 256 lives, so many end by a power cut, and by a kill up to here.
const CUT: u8 = 190;
const KILL: u8 = 225;
/// Freed blocks hold their slots for a while; on a block device there must be others.
const SPARE_SLOTS: u64 = 256;
/// Lives of one image.
const LIVES: u64 = 8;

/// Bytes of a sector, as lengths of slices.
const SECTOR: usize = 512;

#[derive(Debug, Default)]
struct Tally {
    cuts: u64,
    kills: u64,
    closes: u64,
    read_only: u64,
}

#[test]
fn sim_power_cuts_leave_old_or_new() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let mut tally = Tally::default();
    if let Some(seed) = number("IOMGR_SIM_SEED") {
        run(seed, &mut tally);
    }
    KEPT.iter().for_each(|&seed| run(seed, &mut tally));
    let soak = std::env::var_os("IOMGR_SOAK").is_some();
    let wanted = number("IOMGR_SIM_CUTS").unwrap_or(if soak { CUTS_SOAK } else { CUTS_MIN });
    let (mut seeds, started) = (Rng::new(), Instant::now());
    let budget = Duration::from_secs(if soak { 1800 } else { 40 });
    while tally.cuts < wanted || (started.elapsed() < budget / 2 && !soak) {
        run(seeds.u64(..), &mut tally);
    }
    println!("sim: {tally:?} in {:?}", started.elapsed());
}

/// One image's lives.
fn run(seed: u64, tally: &mut Tally) {
    let guard = SeedGuard(seed);
    let mut rng = Rng::with_seed(seed);
    let sim = SimHandle::new(SimConfig::new(rng.u64(..)));
    let block_bytes = 1 << rng.u32(12..17);
    let blocks = rng.u64(1..24);
    let size_bytes = blocks * u64::from(block_bytes) - rng.u64(0..8) * SECTOR_BYTES;
    let storage = match rng.u8(..) {
        0..96 => sim.create_block_device((blocks + SPARE_SLOTS) * u64::from(block_bytes + 8192) + (1 << 20)),
        _ => sim.create_file(),
    };
    let options = vhd::CreateOptions {
        block_bytes,
        ..vhd::CreateOptions::dynamic(size_bytes, [7; 16], 0)
    };
    vhd::create(&storage, &options).expect("a simulated file takes an image");
    let mut model = Model::new(size_bytes / SECTOR_BYTES);
    let mut next_stamp = 1;
    for _ in 0..LIVES {
        live(&sim, &storage, &mut model, &mut rng, &mut next_stamp, tally);
    }
    std::mem::drop(guard);
}

/// One life and its end; then the image is checked against the model.
fn live(
    sim: &SimHandle,
    storage: &SimDisk,
    model: &mut Model,
    rng: &mut Rng,
    next_stamp: &mut Stamp,
    tally: &mut Tally,
) {
    let cache = if rng.bool() { Cache::None } else { Cache::Writeback };
    let disk = Disk::simulated_with(storage.clone(), false, cache).expect("the image opens for writing");
    let (end, end_seed) = (rng.u8(..), rng.u64(..));
    let steps = rng.u64(1..600);
    if end < CUT {
        // At an op's completion, whichever it is: of a request, of the allocator, of a flush.
        sim.fail_after(steps);
    }
    let mut life = Life::new(&disk, sim, model, rng, next_stamp);
    life.run(steps);
    match end {
        0..CUT => {
            drop(life);
            sim.cut_power(end_seed);
            tally.cuts += 1;
            survey(sim, storage, model, Model::may_survive, tally);
        }
        CUT..KILL => {
            sim.kill(end_seed);
            drop(life);
            tally.kills += 1;
            survey(sim, storage, model, Model::may_outlive, tally);
            // What comes next starts from what a second crash could not take away either.
            storage.sync().expect("a simulated file syncs");
        }
        _ => {
            life.finish();
            disk.close().expect("a healthy disk closes");
            tally.closes += 1;
            survey(sim, storage, model, Model::may_outlive, tally);
        }
    }
}

/// Repairs if needed, checks, and reads every sector.
fn survey(
    sim: &SimHandle,
    storage: &SimDisk,
    model: &mut Model,
    allowed: fn(&Model, usize, Stamp) -> bool,
    tally: &mut Tally,
) {
    let readable = Disk::simulated(storage.clone(), true).expect("after anything the image opens for reading");
    tally.read_only += u64::from(!readable.warnings().is_empty());
    drop(readable);
    vhd::repair(storage, false).expect("after anything the footer can be restored");
    let report = vhd::check(storage).expect("a repaired image can be checked");
    assert_ne!(report.verdict(), vhd::Verdict::Corrupt, "{report:?}");
    let disk = Disk::simulated(storage.clone(), true).expect("a repaired image opens");
    let mut reader = BlockingDisk::open(&disk, EngineKind::Sim(sim.clone())).expect("a simulated queue opens");
    let mut chunk = vec![0; 64 * SECTOR];
    for start in (0..model.len()).step_by(64) {
        let count = 64.min(model.len() - start);
        let part = &mut chunk[..count * SECTOR];
        reader
            .read(part, Sector(start as u64))
            .expect("every sector can be read");
        for (at, sector) in (start..).zip(part.chunks_exact(SECTOR)) {
            let stamp = life::stamp_of(sector).unwrap_or_else(|| panic!("sector {at} is torn"));
            assert!(
                allowed(model, at, stamp),
                "sector {at} holds {stamp}, not one of {:?}",
                model.allowed(at)
            );
            model.settle(at, stamp);
        }
    }
}

/// Names the seed when a run panics.
struct SeedGuard(u64);

impl Drop for SeedGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("replay with: cargo xtask sim --seed {}", self.0);
        }
    }
}
