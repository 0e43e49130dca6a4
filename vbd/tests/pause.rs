//! A disk that is paused: what others may do with its image, and what is refused.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use iomgr_core::{Device, RequestFlags, Sector, SectorCount, SectorRange};
use tempfile::TempDir;
use tqueue::EngineKind;
use vbd::{
    BlockingDisk, Cache, CreateOptions, Disk, DiskOptions, Error, ErrorKind, Format, PauseOptions, ResumeOptions,
    create,
};

const MIB: u64 = 1 << 20;
const SIZE_SECTORS: u64 = 4 * MIB / 512;

fn at_once() -> DiskOptions {
    DiskOptions {
        lock_timeout: Duration::ZERO,
        ..DiskOptions::default()
    }
}

fn image(dir: &TempDir, name: &str, size_bytes: u64) -> PathBuf {
    let path = dir.path().join(name);
    create(&path, &CreateOptions::new(size_bytes)).unwrap();
    path
}

fn write(disk: &Disk, byte: u8, sector: u64) {
    let mut queue = BlockingDisk::open(disk, EngineKind::Auto).unwrap();
    queue
        .write(&[byte; 512], Sector(sector), RequestFlags::empty())
        .unwrap();
}

fn read(disk: &Disk, sector: u64) -> u8 {
    let mut bytes = [0; 512];
    let mut queue = BlockingDisk::open(disk, EngineKind::Auto).unwrap();
    queue.read(&mut bytes, Sector(sector)).unwrap();
    bytes[0]
}

fn pause(disk: &Disk) {
    disk.pause(PauseOptions::default()).unwrap();
}

fn resume_on(disk: &Disk, image: &Path) -> Result<(), Error> {
    disk.resume(&ResumeOptions {
        image: Some(image.to_path_buf()),
        ..ResumeOptions::default()
    })
}

#[test]
fn a_paused_disk_s_image_is_whole_and_free() {
    let all = [
        ("a.img", Cache::None),
        ("a.img", Cache::Writeback),
        ("a.vhd", Cache::None),
    ];
    for (name, cache) in all {
        let dir = TempDir::new().unwrap();
        let path = image(&dir, name, 4 * MIB);
        let disk = Disk::open(&path, &DiskOptions { cache, ..at_once() }).unwrap();
        let before = disk.info().cache;
        write(&disk, 7, 99);
        // Who still looks at it, as a `map` does, locks nobody out.
        let looking = disk.extents(Sector(0));
        pause(&disk);
        let other = Disk::open(&path, &at_once()).unwrap();
        assert_eq!(read(&other, 99), 7, "{name}");
        write(&other, 8, 99);
        assert_eq!(
            disk.resume(&ResumeOptions::default()).unwrap_err().kind(),
            ErrorKind::Locked
        );
        drop(looking);
        other.close().unwrap();
        drop(other);
        disk.resume(&ResumeOptions::default()).unwrap();
        assert_eq!((read(&disk, 99), disk.info().cache), (8, before), "{name}");
        assert_eq!(Disk::open(&path, &at_once()).unwrap_err().kind(), ErrorKind::Locked);
        disk.close().unwrap();
    }
}

#[test]
fn its_status_says_what_it_was_and_since_when() {
    let dir = TempDir::new().unwrap();
    let path = image(&dir, "a.img", 4 * MIB);
    let disk = Disk::open(&path, &at_once()).unwrap();
    let (before, limits) = (disk.info(), disk.limits());
    assert!(before.paused.is_none());
    disk.pause(PauseOptions {
        resume_after: Some(Duration::from_secs(3600)),
        ..PauseOptions::default()
    })
    .unwrap();
    let info = disk.info();
    let paused = info.paused.clone().unwrap();
    let left = paused.resumes_in_s.unwrap();
    assert!(!paused.leased && paused.error.is_none() && paused.for_s >= 0.0 && left > 0.0 && left <= 3600.0);
    assert_eq!(
        (info.name, info.path, info.size_bytes),
        (before.name, before.path, before.size_bytes)
    );
    assert_eq!(disk.limits(), limits);
    let range = SectorRange::new(Sector(0), SectorCount(1)).unwrap();
    assert!(disk.block_status(range).is_err());
    assert!(disk.extents(Sector(0)).next().unwrap().is_err());
    disk.resume(&ResumeOptions::default()).unwrap();
    assert!(disk.info().paused.is_none());
}

#[test]
fn what_does_not_fit_its_state_is_refused() {
    let dir = TempDir::new().unwrap();
    let (path, spare) = (image(&dir, "a.img", 4 * MIB), image(&dir, "b.img", 4 * MIB));
    let disk = Disk::open(&path, &at_once()).unwrap();
    let kind = |result: Result<(), Error>| result.unwrap_err().kind();
    assert_eq!(kind(disk.resume(&ResumeOptions::default())), ErrorKind::State);
    pause(&disk);
    assert_eq!(kind(disk.pause(PauseOptions::default())), ErrorKind::State);
    assert_eq!(
        kind(disk.pause_leased(PauseOptions::default()).map(drop)),
        ErrorKind::State
    );
    assert_eq!(kind(disk.replace(&spare, &at_once(), Duration::ZERO)), ErrorKind::State);
    disk.close().unwrap();
    assert_eq!(kind(disk.resume(&ResumeOptions::default())), ErrorKind::State);
    let open = Disk::open(&path, &at_once()).unwrap();
    open.end_retries();
    assert_eq!(kind(open.pause(PauseOptions::default())), ErrorKind::State);
}

/// Who copies under a lease learns whether nobody was at the image meanwhile.
#[test]
fn a_lease_resumes_from_its_own_pause_only() {
    let dir = TempDir::new().unwrap();
    let path = image(&dir, "a.img", 4 * MIB);
    let disk = Disk::open(&path, &at_once()).unwrap();
    let lease = disk.pause_leased(PauseOptions::default()).unwrap();
    let missing = ResumeOptions {
        image: Some(dir.path().join("none.img")),
        format: None,
    };
    assert_eq!(lease.resume(&missing).unwrap_err().kind(), ErrorKind::Open);
    assert!(disk.info().paused.unwrap().leased);
    lease.resume(&ResumeOptions::default()).unwrap();
    assert!(disk.info().paused.is_none());
    pause(&disk);
    let late = lease.resume(&ResumeOptions::default()).unwrap_err();
    assert_eq!(late.kind(), ErrorKind::State);
    assert!(disk.info().paused.is_some());
    drop(disk);
    assert_eq!(
        lease.resume(&ResumeOptions::default()).unwrap_err().kind(),
        ErrorKind::State
    );
}

#[test]
fn an_image_that_clients_would_take_for_a_broken_one_leaves_it_paused() {
    let dir = TempDir::new().unwrap();
    let (path, copy) = (image(&dir, "a.vhd", 4 * MIB), image(&dir, "b.vhd", 4 * MIB));
    let disk = Disk::open(&path, &at_once()).unwrap();
    pause(&disk);
    let corrupt = dir.path().join("corrupt.vhd");
    std::fs::write(&corrupt, [0; 4096]).unwrap();
    let locked = Disk::open(&copy, &at_once()).unwrap();
    for (image, kind) in [
        (dir.path().join("none.vhd"), ErrorKind::Open),
        (corrupt, ErrorKind::Image),
        (image(&dir, "small.vhd", 2 * MIB), ErrorKind::InvalidOption),
        (copy.clone(), ErrorKind::Locked),
    ] {
        let error = resume_on(&disk, &image).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        let text = error.to_string();
        assert!(text.starts_with(image.to_str().unwrap()), "{text}");
        assert!(text.ends_with("; the disk stays paused"), "{text}");
        assert!(disk.info().paused.is_some());
    }
    drop(locked);
    resume_on(&disk, &copy).unwrap();
    assert_eq!(disk.info().path, copy);
}

#[test]
fn a_larger_image_is_the_disk_s_size_from_then_on() {
    let dir = TempDir::new().unwrap();
    let (path, larger) = (image(&dir, "a.vhd", 4 * MIB), image(&dir, "b.img", 8 * MIB));
    let disk = Disk::open(&path, &at_once()).unwrap();
    pause(&disk);
    resume_on(&disk, &larger).unwrap();
    assert_eq!(disk.limits().size, SectorCount(2 * SIZE_SECTORS));
    write(&disk, 3, 2 * SIZE_SECTORS - 1);
    pause(&disk);
    // What it has grown to, it has.
    assert_eq!(resume_on(&disk, &path).unwrap_err().kind(), ErrorKind::InvalidOption);
    std::fs::OpenOptions::new()
        .write(true)
        .open(&larger)
        .unwrap()
        .set_len(16 * MIB)
        .unwrap();
    disk.resume(&ResumeOptions::default()).unwrap();
    assert_eq!(disk.limits().size, SectorCount(4 * SIZE_SECTORS));
    assert_eq!(read(&disk, 2 * SIZE_SECTORS - 1), 3);
}

/// A guest may write what it likes into its raw disk: a VHD's footer, say.
#[test]
fn a_format_that_was_said_holds_for_the_next_image() {
    let dir = TempDir::new().unwrap();
    let (path, next) = (image(&dir, "a.vhd", 4 * MIB), image(&dir, "b.vhd", 64 * MIB));
    let raw = DiskOptions {
        format: Some(Format::Raw),
        ..at_once()
    };
    std::fs::copy(&next, &path).unwrap();
    let disk = Disk::open(&path, &raw).unwrap();
    pause(&disk);
    resume_on(&disk, &next).unwrap();
    assert_eq!(disk.info().format, "raw");
    pause(&disk);
    disk.resume(&ResumeOptions {
        image: Some(next),
        format: Some(Format::Vhd),
    })
    .unwrap();
    assert_eq!(disk.info().format, "vhd-dynamic");
}

#[test]
fn a_disk_that_nobody_lets_go_of_is_not_paused() {
    let dir = TempDir::new().unwrap();
    let path = image(&dir, "a.vhd", 4 * MIB);
    let disk = Disk::open(&path, &at_once()).unwrap();
    let mut queue = BlockingDisk::open(&disk, EngineKind::Sync).unwrap();
    queue.write(&[1; 512], Sector(0), RequestFlags::empty()).unwrap();
    // Nobody drives the queue meanwhile.
    let error = disk
        .pause(PauseOptions {
            drain: Duration::from_millis(20),
            resume_after: None,
        })
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(disk.info().paused.is_none());
    queue.write(&[2; 512], Sector(0), RequestFlags::FUA).unwrap();
    drop(queue);
    assert_eq!(read(&disk, 0), 2);
    disk.close().unwrap();
}
