//! What a disk says lies where, against its bytes and its block allocation table.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use fastrand::Rng;
use iomgr_core::{BlockStatus, RequestFlags, SECTOR_BYTES, Sector, SectorCount, SectorRange};
use tempfile::TempDir;
use tqueue::EngineKind;
use vbd::{BlockingDisk, CreateOptions, Disk, DiskOptions, create};

const SECTORS: u64 = (5 << 20) / SECTOR_BYTES - 3;
const BLOCK_BYTES: u32 = 64 << 10;
const BLOCK_SECTORS: u64 = BLOCK_BYTES as u64 / SECTOR_BYTES;

fn range(start: u64, count: u64) -> SectorRange {
    SectorRange::new(Sector(start), SectorCount(count)).unwrap()
}

fn open(path: &Path) -> Disk {
    Disk::open(path, &DiskOptions::default()).unwrap()
}

fn queue(disk: &Disk) -> BlockingDisk {
    BlockingDisk::open(disk, EngineKind::Auto).unwrap()
}

fn image(dir: &TempDir, name: &str, fixed: bool) -> PathBuf {
    let path = dir.path().join(name);
    let mut options = CreateOptions::new(SECTORS * SECTOR_BYTES);
    if name.ends_with(".vhd") {
        options.fixed = fixed;
        options.block_bytes = Some(BLOCK_BYTES);
    }
    create(&path, &options).unwrap();
    path
}

/// Writes, zeroes and discards here and there.
fn scatter(disk: &mut BlockingDisk, rng: &mut Rng) {
    for _ in 0..rng.u32(1..12) {
        let start = rng.u64(0..SECTORS);
        let range = range(start, rng.u64(1..1500).min(SECTORS - start));
        match rng.u8(0..4) {
            0 => disk.discard(range).unwrap(),
            1 => disk.write_zeroes(range, RequestFlags::empty()).unwrap(),
            2 => disk.write_zeroes(range, RequestFlags::NO_UNMAP).unwrap(),
            _ => {
                let bytes = vec![rng.u8(1..); usize::try_from(range.len_bytes()).unwrap()];
                disk.write(&bytes, range.start(), RequestFlags::empty()).unwrap();
            }
        }
    }
}

fn content(disk: &mut BlockingDisk) -> Vec<u8> {
    let mut bytes = vec![0xEE; usize::try_from(SECTORS * SECTOR_BYTES).unwrap()];
    for (at, part) in bytes.chunks_mut(1 << 20).enumerate() {
        disk.read(part, Sector(at as u64 * 2048)).unwrap();
    }
    bytes
}

/// Goes over the whole disk in ranges of random lengths; says how many sectors were holes and how many data.
fn check_against_bytes(bytes: &[u8], rng: &mut Rng, mut status: impl FnMut(SectorRange) -> BlockStatus) -> (u64, u64) {
    let (mut holes, mut data, mut at) = (0, 0, 0);
    while at < SECTORS {
        let range = range(at, rng.u64(1..SECTORS).min(SECTORS - at));
        let found = status(range);
        assert!((1..=range.count().0).contains(&found.count.0), "{range}: {found:?}");
        assert!(found.is_zero || !found.is_hole, "{range}: {found:?}");
        let of = |sector: u64| usize::try_from(sector * SECTOR_BYTES).unwrap();
        let is_zero = || bytes[of(at)..of(at + found.count.0)].iter().all(|&byte| byte == 0);
        assert!(!found.is_zero || is_zero(), "{range} hold data: {found:?}");
        holes += found.count.0 * u64::from(found.is_hole);
        data += found.count.0 * u64::from(!found.is_zero);
        at += found.count.0;
    }
    (holes, data)
}

#[test]
fn what_is_called_zero_reads_as_zeros() {
    let seed = Rng::new().u64(..);
    println!("seed {seed}");
    let mut rng = Rng::with_seed(seed);
    // What holes are is the file system's matter: the temporary folder's, and tmpfs.
    let folders = ["/dev/shm"].into_iter().filter(|path| Path::new(path).is_dir());
    let folders = folders
        .map(|path| TempDir::new_in(path).unwrap())
        .chain([TempDir::new().unwrap()]);
    for dir in folders {
        for (name, fixed) in [("a.img", false), ("a.vhd", true), ("b.vhd", false)] {
            let path = image(&dir, name, fixed);
            let (mut holes, mut data) = (0, 0);
            for _ in 0..12 {
                let disk = open(&path);
                let mut queue = queue(&disk);
                scatter(&mut queue, &mut rng);
                let bytes = content(&mut queue);
                let live = check_against_bytes(&bytes, &mut rng, |range| queue.block_status(range));
                let tool = check_against_bytes(&bytes, &mut rng, |range| disk.block_status(range).unwrap());
                assert_eq!(live, tool, "{name}");
                (holes, data) = (holes + live.0, data + live.1);
                drop(queue);
                disk.close().unwrap();
            }
            assert!(holes > 0 && data > 0, "{name}: {holes} sectors were holes, {data} data");
        }
    }
}

#[test]
fn a_hole_made_in_known_data_is_seen() {
    let dir = TempDir::new().unwrap();
    let disk = open(&image(&dir, "a.img", false));
    let mut queue = queue(&disk);
    queue.write(&[7; 1 << 20], Sector(0), RequestFlags::empty()).unwrap();
    let mib = range(0, 2048);
    assert_eq!(queue.block_status(mib), BlockStatus::data(SectorCount(2048)));
    queue.write_zeroes(range(512, 512), RequestFlags::empty()).unwrap();
    assert_eq!(queue.block_status(mib), disk.block_status(mib).unwrap());
    assert_eq!(
        queue.block_status(range(512, 600)),
        disk.block_status(range(512, 600)).unwrap()
    );
    assert_eq!(
        queue.block_status(range(1030, 100)),
        BlockStatus::data(SectorCount(100))
    );
    assert_eq!(
        queue.block_status(range(600, 1)),
        disk.block_status(range(600, 1)).unwrap()
    );
}

/// Which blocks the image's table has a place for, read without the library.
fn allocated(path: &Path) -> Vec<bool> {
    let file = std::fs::read(path).unwrap();
    let word = |at: usize, len: usize| {
        file[at..at + len]
            .iter()
            .fold(0, |word, &byte| word << 8 | usize::from(byte))
    };
    let header = word(16, 8);
    let (table, blocks) = (word(header + 16, 8), word(header + 28, 4));
    (0..blocks)
        .map(|block| word(table + block * 4, 4) != 0xFFFF_FFFF)
        .collect()
}

#[test]
fn a_dynamic_image_says_what_its_table_says() {
    let seed = Rng::new().u64(..);
    println!("seed {seed}");
    let mut rng = Rng::with_seed(seed);
    for _ in 0..20 {
        let dir = TempDir::new().unwrap();
        let path = image(&dir, "a.vhd", false);
        let disk = open(&path);
        scatter(&mut queue(&disk), &mut rng);
        disk.close().unwrap();
        drop(disk);
        let allocated = allocated(&path);
        let disk = open(&path);
        let mut queue = queue(&disk);
        for _ in 0..200 {
            let start = rng.u64(0..SECTORS);
            let range = range(start, rng.u64(1..=SECTORS - start));
            let is_allocated = |sector: &u64| allocated[usize::try_from(sector / BLOCK_SECTORS).unwrap()];
            let first = is_allocated(&start);
            let same = (start..range.end().0).take_while(|sector| is_allocated(sector) == first);
            let count = SectorCount(same.count() as u64);
            let expected = if first {
                BlockStatus::data(count)
            } else {
                BlockStatus::hole(count)
            };
            assert_eq!(queue.block_status(range), expected, "{range}");
            assert_eq!(disk.block_status(range).unwrap(), expected, "{range}");
        }
    }
}

#[test]
fn sectors_that_another_writer_left_out_are_zeros_once_their_bitmap_is_known() {
    let dir = TempDir::new().unwrap();
    let path = image(&dir, "a.vhd", false);
    let disk = open(&path);
    queue(&disk)
        .write(&[7; BLOCK_BYTES as usize], Sector(0), RequestFlags::empty())
        .unwrap();
    disk.close().unwrap();
    drop(disk);
    let file = std::fs::File::options().read(true).write(true).open(&path).unwrap();
    let mut word = [0; 8];
    file.read_exact_at(&mut word, 512 + 16).unwrap();
    let table = u64::from_be_bytes(word);
    file.read_exact_at(&mut word[..4], table).unwrap();
    let bitmap = u64::from(u32::from_be_bytes(word[..4].try_into().unwrap())) * SECTOR_BYTES;
    // Of the first block's sectors 4 to 11 are left out. The library's own note of full blocks is gone with a new checksum.
    file.write_all_at(&[0b1111_0000, 0b0000_1111], bitmap).unwrap();
    let batmap = batmap_of(&file);
    file.write_all_at(&[0; 512], batmap).unwrap();

    let disk = open(&path);
    let mut queue = queue(&disk);
    let block = range(0, BLOCK_SECTORS);
    assert_eq!(queue.block_status(block), BlockStatus::data(SectorCount(BLOCK_SECTORS)));
    let mut sector = [0xEE; 512];
    queue.read(&mut sector, Sector(5)).unwrap();
    assert_eq!(sector, [0; 512]);
    assert_eq!(queue.block_status(block), BlockStatus::data(SectorCount(4)));
    assert_eq!(queue.block_status(range(4, 100)), BlockStatus::zero(SectorCount(8)));
    assert_eq!(
        queue.block_status(range(12, 300)),
        BlockStatus::data(SectorCount(BLOCK_SECTORS - 12))
    );
    assert_eq!(
        disk.block_status(block).unwrap(),
        BlockStatus::data(SectorCount(BLOCK_SECTORS))
    );
    queue.write(&[9; 512], Sector(5), RequestFlags::empty()).unwrap();
    assert_eq!(queue.block_status(block), BlockStatus::data(SectorCount(BLOCK_SECTORS)));
}

/// Where the note of full blocks lies: behind the table, on the next sector.
fn batmap_of(file: &std::fs::File) -> u64 {
    let mut start = vec![0; 64 << 10];
    file.read_exact_at(&mut start, 0).unwrap();
    start
        .chunks(512)
        .position(|sector| sector.starts_with(b"tdbatmap"))
        .unwrap() as u64
        * SECTOR_BYTES
}

#[test]
fn a_look_beyond_the_end_is_refused_by_the_disk_and_unknown_to_the_queue() {
    let dir = TempDir::new().unwrap();
    for (name, fixed) in [("a.img", false), ("a.vhd", true), ("b.vhd", false)] {
        let disk = open(&image(&dir, name, fixed));
        assert!(disk.block_status(range(SECTORS, 1)).is_err());
        assert!(disk.block_status(range(0, 0)).is_err());
        let count = SectorCount(9);
        assert_eq!(
            queue(&disk).block_status(range(SECTORS - 1, 9)),
            BlockStatus::data(count)
        );
    }
}
