//! Power cuts, kills and clean ends of a simulated disk under random load: Durability 2 of the design, at each of them.
//!
//! A run is a chain of lives of one image, all from one seed. `IOMGR_SIM_SEED` replays a seed, `IOMGR_SIM_CUTS` sets how many
//! power cuts to make; a failure prints the seed.

mod image;
mod life;
mod model;
mod pause;

use std::time::{Duration, Instant};

use fastrand::Rng;
use iomgr_core::{Errno, Sector};
use tqueue::EngineKind;
use tqueue::sim::{SimConfig, SimDisk, SimHandle};
use vbd::{BlockingDisk, Cache, Disk};

use image::Image;
use life::{Habits, Life};
use model::{Model, Stamp};

/// A sector, as a length in memory.
const SECTOR_LEN: usize = 512;
/// A seed with this bit has ops merged. Those kept from before there was merging do not have it, and so mean what they meant.
const MERGES: u64 = 1 << 2;
/// Likewise, the disk is paused at times.
const PAUSES: u64 = 1 << 11;
/// Disks take writes' bytes when they are done: who changes them before is found out. That draws no random number, so that kept
/// seeds are what they were.
const TAKES_LATE: u64 = 1 << 5;
/// Seeds that once failed: kept, and replayed each time.
const KEPT: &[u64] = &[
    // FUA into a block whose BAT entry a killed process had left in the page cache.
    14_281_626_083_775_579_651,
    // The other queue's flush failed, and the allocator believed the next one.
    17_621_386_702_684_988_323,
    421_720_853_845_393_994,
    // A gap was the slot of a block whose freeing a killed process had left in the page cache.
    4_678_624_215_252_751_793,
    // The power failed before the disk had gone over to a copy, and the test looked at the copy.
    2_424_278_615_867_111_486,
];
/// Power cuts that CI makes at least, whatever the clock says.
const CUTS_MIN: u64 = 2_000;
const CUTS_SOAK: u64 = 20_000;
/// Lives of one image.
const LIVES: u64 = 8;
/// The most steps of a life, one of these: what the last life left behind shows only until the first flushes of the next.
const STEPS_MAX: [u64; 3] = [16, 80, 600];
/// Steps of a close, about.
const FEW_STEPS: u64 = 10;

#[derive(Debug, Default)]
struct Tally {
    cuts: u64,
    kills: u64,
    closes: u64,
    read_only: u64,
}

/// How a life ends.
#[derive(Clone, Copy, Debug)]
enum End {
    /// By a power cut at any op's completion.
    Cut,
    /// The same, some time after flushes have failed.
    CutAfterFailures,
    /// By a power cut while the image is closed, or right after.
    CutInClose,
    Kill,
    Close,
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
    let takes_late = u32::from(seed & TAKES_LATE != 0);
    let sim = SimHandle::new(SimConfig::new(rng.u64(..)).take_late_every(takes_late));
    let mut image = Image::create(&sim, &mut rng);
    let mut next_stamp = 1;
    let habits = Habits {
        merges: seed & MERGES != 0,
        pauses: seed & PAUSES != 0,
    };
    for _ in 0..LIVES {
        live(&sim, &mut image, habits, &mut rng, &mut next_stamp, tally);
    }
    std::mem::drop(guard);
}

/// One life and its end; then the image is checked against the model.
fn live(sim: &SimHandle, image: &mut Image, habits: Habits, rng: &mut Rng, next_stamp: &mut Stamp, tally: &mut Tally) {
    image.age(rng);
    let plan = Plan::random(rng);
    let storage = image.storage.clone();
    let disk = Disk::simulated_with(storage.clone(), false, plan.cache).expect("the image opens for writing");
    if let End::Cut = plan.end {
        // At an op's completion, whichever it is: of a request, of the allocator, of a flush.
        sim.fail_after(plan.steps);
    }
    let is_device = image.is_device();
    let mut life = Life::new(&disk, storage, habits, &mut image.model, rng, next_stamp);
    if is_device {
        life.excuse(Errno::NOSPC);
    }
    life.run(plan.steps);
    image.storage = plan.end.come(sim, life, &disk, &plan);
    drop(disk);
    let allowed = match plan.end {
        End::Cut | End::CutAfterFailures => Model::surviving,
        End::CutInClose if sim.is_off() => Model::surviving,
        End::CutInClose | End::Kill | End::Close => Model::outliving,
    };
    if plan.end.is_cut() {
        sim.cut_power(plan.seed);
    }
    tally.count(plan.end);
    let survivors = survey(sim, image, allowed, tally);
    // What a kill leaves is in the page cache: a power cut in a later life may still take it.
    image.settle(&survivors, !matches!(plan.end, End::Kill));
}

/// What is to become of a life.
#[derive(Clone, Copy, Debug)]
struct Plan {
    cache: Cache,
    end: End,
    /// Of the end.
    seed: u64,
    steps: u64,
    /// Into the close, if the power is cut there; during which flushes fail, if they do.
    few_steps: u64,
}

impl Plan {
    fn random(rng: &mut Rng) -> Self {
        let cache = if rng.bool() { Cache::None } else { Cache::Writeback };
        let steps_max = STEPS_MAX[rng.usize(..STEPS_MAX.len())];
        Self {
            cache,
            end: End::random(rng),
            seed: rng.u64(..),
            steps: rng.u64(1..steps_max),
            few_steps: rng.u64(1..FEW_STEPS),
        }
    }
}

impl End {
    fn random(rng: &mut Rng) -> Self {
        match rng.u8(..) {
            0..145 => Self::Cut,
            145..165 => Self::CutAfterFailures,
            165..190 => Self::CutInClose,
            190..225 => Self::Kill,
            _ => Self::Close,
        }
    }

    fn is_cut(self) -> bool {
        matches!(self, Self::Cut | Self::CutAfterFailures | Self::CutInClose)
    }

    /// Ends `life`, but for the power cut itself. What the disk lies on is left.
    fn come(self, sim: &SimHandle, mut life: Life<'_>, disk: &Disk, plan: &Plan) -> SimDisk {
        match self {
            Self::Cut => {}
            Self::CutAfterFailures => {
                // As on Linux: the error is told once or a few times, and what it was about is lost all the same.
                life.storage.fail_flushes(true);
                life.excuse(Errno::IO);
                life.run(plan.few_steps);
                life.storage.fail_flushes(false);
                life.run(plan.steps);
            }
            Self::Kill => sim.kill(plan.seed),
            Self::CutInClose | Self::Close => {
                let storage = life.finish();
                if let Self::CutInClose = self {
                    sim.fail_after(plan.few_steps);
                }
                let closed = disk.close();
                assert!(closed.is_ok() || sim.is_off(), "a healthy disk closes: {closed:?}");
                if let Self::Close = self {
                    let image = vhd::Image::open(&storage, &vhd::OpenOptions::default());
                    assert_eq!(image.expect("a closed image opens").state(), vhd::State::Clean);
                }
                return storage;
            }
        }
        life.storage
    }
}

/// Repairs if needed, checks, and reads every sector.
fn survey(sim: &SimHandle, image: &Image, allowed: fn(&Model, usize) -> Vec<Stamp>, tally: &mut Tally) -> Vec<Stamp> {
    let Image { storage, model, .. } = image;
    let readable = Disk::simulated(storage.clone(), true).expect("after anything the image opens for reading");
    tally.read_only += u64::from(!readable.warnings().is_empty());
    drop(readable);
    vhd::repair(storage, false).expect("after anything the footer can be restored");
    let report = vhd::check(storage).expect("a repaired image can be checked");
    assert_ne!(report.verdict(), vhd::Verdict::Corrupt, "{report:?}");
    let disk = Disk::simulated(storage.clone(), true).expect("a repaired image opens");
    let mut reader = BlockingDisk::open(&disk, EngineKind::Sim(sim.clone())).expect("a simulated queue opens");
    let mut bytes = vec![0; model.len() * SECTOR_LEN];
    for (start, part) in (0..).step_by(64).zip(bytes.chunks_mut(64 * SECTOR_LEN)) {
        reader.read(part, Sector(start)).expect("every sector can be read");
    }
    let sectors = bytes.chunks_exact(SECTOR_LEN).enumerate();
    let survivors = sectors.map(|(at, sector)| {
        let stamp = life::stamp_of(sector).unwrap_or_else(|| panic!("sector {at} is torn"));
        let allowed = allowed(model, at);
        assert!(
            allowed.contains(&stamp),
            "sector {at} holds {stamp}, not one of {allowed:?}"
        );
        stamp
    });
    survivors.collect()
}

impl Tally {
    fn count(&mut self, end: End) {
        match end {
            _ if end.is_cut() => self.cuts += 1,
            End::Kill => self.kills += 1,
            _ => self.closes += 1,
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
