//! Holds a block device to a model of it: threads write, read, zero, discard and flush, each what is its own, and compare.
//!
//! ```text
//! shadow DEVICE THREADS OPS SEED buffered|direct
//! ```
//!
//! The device is full of zeros at first. Thread t of n has each n-th piece of it, so that ops of different threads touch one
//! another and are under way together. Ends with 0 if every sector always held what it had to.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a helper of tests fails by panicking")]

use std::fs::{File, OpenOptions};
use std::io::{IoSlice, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::process::Command;
use std::thread;

use iomgr_tests::pattern::{SECTOR, stamp, written_by};
use rustix::fs::{FallocateFlags, OFlags, fallocate};
use rustix::io::{ReadWriteFlags, pwritev2};

/// Sectors of a piece, which is in one thread's care: half the largest request.
const PIECE: u64 = 512;
/// Sectors of a page. Zeros and discards take whole ones, as the page cache drops no less.
const PAGE: u64 = 8;

/// What the command line says.
#[derive(Clone, Debug)]
struct Plan {
    device: String,
    threads: u64,
    ops: u64,
    seed: u64,
    direct: bool,
}

/// What a sector may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    Zeros,
    Write(u64),
    /// Of a write that was discarded, or zeros.
    Discarded(u64),
}

/// A thread's share of the device.
#[derive(Debug)]
struct Share {
    plan: Plan,
    index: u64,
    device: File,
    random: fastrand::Rng,
    /// Of its sectors, piece after piece.
    held: Vec<Held>,
    writes: u64,
    memory: Vec<u8>,
}

fn main() {
    let plan = Plan::from_args();
    let mut shares: Vec<Share> = thread::scope(|scope| {
        let run = |index| {
            let mut share = Share::open(&plan, index);
            scope.spawn(move || {
                (0..share.plan.ops / share.plan.threads).for_each(|_| share.step());
                share
            })
        };
        let threads: Vec<_> = (0..plan.threads).map(run).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    shares.iter_mut().for_each(Share::compare_all);
}

impl Plan {
    fn from_args() -> Self {
        let words: Vec<_> = std::env::args().skip(1).collect();
        let [device, threads, ops, seed, mode] = words.try_into().unwrap();
        Self {
            device,
            threads: threads.parse().unwrap(),
            ops: ops.parse().unwrap(),
            seed: seed.parse().unwrap(),
            direct: mode == "direct",
        }
    }

    fn open(&self) -> File {
        let flags = if self.direct { OFlags::DIRECT } else { OFlags::empty() };
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(flags.bits().cast_signed());
        options.open(&self.device).unwrap()
    }
}

impl Share {
    fn open(plan: &Plan, index: u64) -> Self {
        let mut device = plan.open();
        let sectors = device.seek(SeekFrom::End(0)).unwrap() / SECTOR as u64;
        let pieces = sectors / PIECE / plan.threads;
        assert!(pieces > 0, "the device has a piece for each thread");
        Self {
            plan: plan.clone(),
            index,
            device,
            random: fastrand::Rng::with_seed(plan.seed << 16 | index),
            held: vec![Held::Zeros; usize::try_from(pieces * PIECE).unwrap()],
            writes: 0,
            // Room to align it by a page.
            memory: vec![0; usize::try_from(PIECE + PAGE).unwrap() * SECTOR],
        }
    }

    fn step(&mut self) {
        match self.random.u32(0..100) {
            0..45 => self.write(ReadWriteFlags::empty()),
            45..48 => self.write(ReadWriteFlags::DSYNC),
            48..84 => {
                let range = self.range(1);
                self.compare(range);
            }
            84..90 => self.zero(FallocateFlags::PUNCH_HOLE),
            90..96 => self.zero(FallocateFlags::ZERO_RANGE),
            96..98 => self.discard(),
            _ => self.device.sync_data().unwrap(),
        }
    }

    /// Some sectors of one piece, in whole units; counted within this share.
    fn range(&mut self, unit: u64) -> Range<u64> {
        let pieces = self.held.len() as u64 / PIECE;
        let piece = self.random.u64(0..pieces) * PIECE;
        let units = PIECE / unit;
        let start = self.random.u64(0..units);
        let most = if self.random.bool() {
            units - start
        } else {
            8.min(units - start)
        };
        let len = self.random.u64(1..=most);
        piece + start * unit..piece + (start + len) * unit
    }

    /// Where a sector of this share lies on the device.
    fn sector(&self, own: u64) -> u64 {
        (own / PIECE * self.plan.threads + self.index) * PIECE + own % PIECE
    }

    fn offset(&self, own: u64) -> u64 {
        self.sector(own) * SECTOR as u64
    }

    /// Memory for a range, aligned as direct I/O wants it.
    fn memory(&mut self, range: &Range<u64>) -> &mut [u8] {
        let page = usize::try_from(PAGE).unwrap() * SECTOR;
        let start = self.memory.as_ptr().align_offset(page);
        let len = usize::try_from(range.end - range.start).unwrap() * SECTOR;
        &mut self.memory[start..start + len]
    }

    fn write(&mut self, flags: ReadWriteFlags) {
        let range = self.range(1);
        self.writes += 1;
        let (write, sector, offset) = (self.writes, self.sector(range.start), self.offset(range.start));
        let device = self.device.try_clone().unwrap();
        let bytes = self.memory(&range);
        stamp(bytes, sector, write);
        let written = pwritev2(device, &[IoSlice::new(bytes)], offset, flags).unwrap();
        assert_eq!(written, bytes.len(), "written at {offset}");
        self.note(range, |_| Held::Write(write));
    }

    fn zero(&mut self, how: FallocateFlags) {
        let range = self.range(PAGE);
        let len = (range.end - range.start) * SECTOR as u64;
        fallocate(
            &self.device,
            how | FallocateFlags::KEEP_SIZE,
            self.offset(range.start),
            len,
        )
        .unwrap();
        self.note(range, |_| Held::Zeros);
    }

    fn discard(&mut self) {
        let range = self.range(PAGE);
        let (offset, len) = (self.offset(range.start), (range.end - range.start) * SECTOR as u64);
        let done = Command::new("blkdiscard")
            .args([
                "-f",
                "-o",
                &offset.to_string(),
                "-l",
                &len.to_string(),
                &self.plan.device,
            ])
            .status()
            .unwrap();
        assert!(done.success(), "blkdiscard of {len} at {offset}: {done}");
        self.note(range, |held| match held {
            Held::Zeros => Held::Zeros,
            Held::Write(write) | Held::Discarded(write) => Held::Discarded(write),
        });
    }

    fn note(&mut self, range: Range<u64>, becomes: impl Fn(Held) -> Held) {
        let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
        self.held[range].iter_mut().for_each(|held| *held = becomes(*held));
    }

    fn compare(&mut self, range: Range<u64>) {
        let (sector, offset) = (self.sector(range.start), self.offset(range.start));
        let device = self.device.try_clone().unwrap();
        let bytes = self.memory(&range);
        device.read_exact_at(bytes, offset).unwrap();
        let found: Vec<_> = (sector..)
            .zip(bytes.chunks_exact(SECTOR))
            .map(|(sector, bytes)| written_by(bytes, sector).unwrap())
            .collect();
        for (own, found) in range.zip(found) {
            let held = self.held[usize::try_from(own).unwrap()];
            let is_right = match held {
                Held::Zeros => found.is_none(),
                Held::Write(write) => found == Some(write),
                Held::Discarded(write) => found.is_none_or(|found| found == write),
            };
            assert!(is_right, "sector {} holds {found:?}, not {held:?}", self.sector(own));
        }
    }

    /// All of it, from the device itself.
    fn compare_all(&mut self) {
        self.plan.direct = true;
        self.device.sync_data().unwrap();
        self.device = self.plan.open();
        for piece in (0..self.held.len() as u64).step_by(usize::try_from(PIECE).unwrap()) {
            self.compare(piece..piece + PIECE);
        }
    }
}
