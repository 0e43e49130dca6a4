//! Disks of every layout against a naive one: an array of bytes.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::ErrorKind;
use std::path::Path;

use fastrand::Rng;
use iomgr_core::{Device, RequestFlags, SECTOR_BYTES, Sector, SectorCount, SectorRange};
use tqueue::{Config, EngineKind, Queue};
use vbd::{BlockingDisk, Cache, CreateOptions, Disk, DiskOptions, create};

struct Case {
    name: &'static str,
    file: &'static str,
    size_bytes: u64,
    fixed: bool,
    block_bytes: Option<u32>,
}

const CASES: [Case; 4] = [
    Case {
        name: "raw",
        file: "a.img",
        size_bytes: 3 << 20,
        fixed: false,
        block_bytes: None,
    },
    Case {
        name: "fixed",
        file: "a.vhd",
        size_bytes: 3 << 20,
        fixed: true,
        block_bytes: None,
    },
    Case {
        name: "dynamic",
        file: "b.vhd",
        size_bytes: (9 << 20) + 512,
        fixed: false,
        block_bytes: Some(2 << 20),
    },
    Case {
        name: "small blocks",
        file: "c.vhd",
        size_bytes: (1 << 20) - 1536,
        fixed: false,
        block_bytes: Some(4096),
    },
];

/// How the disk's ops are run.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// By io_uring, where it is.
    Ring,
    /// By blocking calls.
    Calls,
    /// Likewise, and the disk sees no bytes: zero copy.
    WithoutBytes,
}

impl Way {
    fn open(self, disk: &Disk) -> BlockingDisk {
        match self {
            Self::Ring => BlockingDisk::open(disk, EngineKind::Auto).unwrap(),
            Self::Calls => BlockingDisk::open(disk, EngineKind::Sync).unwrap(),
            Self::WithoutBytes => {
                let config = Config {
                    engine: EngineKind::Sync,
                    driver_buffers: 1,
                    ..Config::default()
                };
                let blocking = BlockingDisk::with_queue(disk, Queue::new(&config).unwrap());
                blocking.unwrap().keep_bytes()
            }
        }
    }
}

#[test]
fn every_layout_equals_an_array() {
    let seed = Rng::new().u64(..);
    println!("seed {seed}");
    for case in &CASES {
        for way in [Way::Ring, Way::Calls, Way::WithoutBytes] {
            for cache in [Cache::Writeback, Cache::None] {
                println!("{} by {way:?}, cache {cache:?}", case.name);
                compare(case, way, cache, &mut Rng::with_seed(seed));
            }
        }
    }
}

fn compare(case: &Case, way: Way, cache: Cache, rng: &mut Rng) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(case.file);
    let options = CreateOptions {
        fixed: case.fixed,
        block_bytes: case.block_bytes,
        ..CreateOptions::new(case.size_bytes)
    };
    create(&path, &options).unwrap();
    let mut naive = vec![0; usize::try_from(case.size_bytes).unwrap()];
    for _ in 0..3 {
        let disk = Disk::open(
            &path,
            &DiskOptions {
                cache,
                ..DiskOptions::default()
            },
        )
        .unwrap();
        assert_eq!(disk.limits().size.0 * SECTOR_BYTES, case.size_bytes);
        let mut blocking = way.open(&disk);
        (0..150).for_each(|_| step(&mut blocking, &mut naive, rng));
        drop(blocking);
        disk.close().unwrap();
        drop(disk);
        check(&path, &naive, way);
    }
}

fn step(disk: &mut BlockingDisk, naive: &mut [u8], rng: &mut Rng) {
    let sectors = naive.len() as u64 / SECTOR_BYTES;
    let start = rng.u64(0..sectors);
    let longest = if rng.u8(..) < 30 { 6000 } else { 64 };
    let count = rng.u64(1..=longest).min(sectors - start);
    let range = SectorRange::new(Sector(start), SectorCount(count)).unwrap();
    let bytes = usize::try_from(range.offset_bytes()).unwrap()..usize::try_from(range.end().0 * SECTOR_BYTES).unwrap();
    let flags = if rng.bool() {
        RequestFlags::FUA
    } else {
        RequestFlags::empty()
    };
    match rng.u8(0..11) {
        0..4 => {
            let data: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(bytes.len()).collect();
            disk.write(&data, Sector(start), flags).unwrap();
            naive[bytes].copy_from_slice(&data);
        }
        4..7 => {
            let mut data = vec![0xEE; bytes.len()];
            disk.read(&mut data, Sector(start)).unwrap();
            assert!(data == naive[bytes], "{range} differ");
        }
        7 => disk.flush().unwrap(),
        8 => {
            let unmap = if rng.bool() {
                RequestFlags::NO_UNMAP
            } else {
                RequestFlags::empty()
            };
            let fast = if rng.bool() {
                RequestFlags::FAST_ZERO
            } else {
                RequestFlags::empty()
            };
            match disk.write_zeroes(range, flags | unmap | fast) {
                Ok(()) => naive[bytes].fill(0),
                Err(error) => {
                    assert!(
                        fast.contains(RequestFlags::FAST_ZERO) && error.kind() == ErrorKind::Unsupported,
                        "{error}"
                    );
                    take_over(disk, range, &mut naive[bytes]);
                }
            }
        }
        9 => disk.prefetch(range).unwrap(),
        _ => {
            disk.discard(range).unwrap();
            take_over(disk, range, &mut naive[bytes]);
        }
    }
}

/// What a discard, or a refusal halfway, leaves is the disk's choice between the old and zeros.
fn take_over(disk: &mut BlockingDisk, range: SectorRange, old: &mut [u8]) {
    let mut data = vec![0xEE; old.len()];
    disk.read(&mut data, range.start()).unwrap();
    assert!(
        data.iter().zip(&*old).all(|(new, old)| new == old || *new == 0),
        "{range} hold something new"
    );
    old.copy_from_slice(&data);
}

fn check(path: &Path, naive: &[u8], way: Way) {
    let disk = Disk::open(
        path,
        &DiskOptions {
            read_only: true,
            ..DiskOptions::default()
        },
    )
    .unwrap();
    assert!(disk.warnings().is_empty(), "{:?}", disk.warnings());
    let mut blocking = way.open(&disk);
    for (at, part) in naive.chunks(1 << 20).enumerate() {
        let mut data = vec![0; part.len()];
        blocking
            .read(&mut data, Sector((at << 20) as u64 / SECTOR_BYTES))
            .unwrap();
        assert!(data == part, "MiB {at} differs after reopening");
    }
    assert!(
        blocking.write(&[0; 512], Sector(0), RequestFlags::empty()).is_err(),
        "read-only"
    );
}
