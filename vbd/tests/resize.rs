//! Raw images that change their size while they are open.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use iomgr_core::{Device, RequestFlags, Sector, SectorCount, SectorRange};
use tempfile::TempDir;
use tqueue::EngineKind;
use vbd::{BlockingDisk, CreateOptions, Disk, DiskOptions, create};

const MIB: u64 = 1 << 20;
const MIB_SECTORS: u64 = MIB / 512;

fn image(dir: &TempDir, name: &str, fixed: bool) -> PathBuf {
    let path = dir.path().join(name);
    let options = CreateOptions {
        fixed,
        ..CreateOptions::new(MIB)
    };
    create(&path, &options).unwrap();
    path
}

fn set_len(path: &Path, len: u64) {
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_len(len).unwrap();
}

#[test]
fn an_enlarged_raw_image_is_served_to_its_new_end() {
    let dir = TempDir::new().unwrap();
    let path = image(&dir, "a.img", false);
    for engine in [EngineKind::Auto, EngineKind::Sync] {
        set_len(&path, MIB);
        let disk = Disk::open(&path, &DiskOptions::default()).unwrap();
        let mut queue = BlockingDisk::open(&disk, engine).unwrap();
        let mut sector = [0; 512];
        assert!(queue.read(&mut sector, Sector(MIB_SECTORS)).is_err());
        set_len(&path, 2 * MIB + 100);
        // Nobody has asked for the size yet: what was announced still holds.
        assert!(queue.read(&mut sector, Sector(MIB_SECTORS)).is_err());
        assert_eq!(disk.limits().size, SectorCount(2 * MIB_SECTORS));
        assert_eq!(disk.info().size_bytes, 2 * MIB);
        queue
            .write(&[7; 512], Sector(2 * MIB_SECTORS - 1), RequestFlags::FUA)
            .unwrap();
        queue.read(&mut sector, Sector(2 * MIB_SECTORS - 1)).unwrap();
        assert_eq!(sector, [7; 512]);
        assert!(queue.read(&mut sector, Sector(2 * MIB_SECTORS)).is_err());
    }
}

#[test]
fn a_raw_image_that_was_cut_refuses_what_is_gone() {
    let dir = TempDir::new().unwrap();
    let path = image(&dir, "a.img", false);
    for engine in [EngineKind::Auto, EngineKind::Sync] {
        set_len(&path, MIB);
        let disk = Disk::open(&path, &DiskOptions::default()).unwrap();
        let mut queue = BlockingDisk::open(&disk, engine).unwrap();
        let last = SectorRange::new(Sector(MIB_SECTORS - 1), SectorCount(1)).unwrap();
        set_len(&path, MIB / 2);
        let mut sector = [0; 512];
        assert!(queue.read(&mut sector, last.start()).is_err());
        assert!(!queue.block_status(last).is_zero, "reading it fails");
        assert_eq!(disk.limits().size, SectorCount(MIB_SECTORS / 2));
        assert!(queue.read(&mut sector, last.start()).is_err());
        assert!(queue.write(&sector, last.start(), RequestFlags::empty()).is_err());
        assert!(queue.write_zeroes(last, RequestFlags::empty()).is_err());
        assert!(queue.discard(last).is_err());
        assert!(!queue.block_status(last).is_zero);
        queue
            .write(&[3; 512], Sector(MIB_SECTORS / 2 - 1), RequestFlags::empty())
            .unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), MIB / 2);
        set_len(&path, 0);
        assert_eq!(disk.limits().size, SectorCount::ZERO);
        assert!(queue.read(&mut sector, Sector(0)).is_err());
    }
}

#[test]
fn a_vhd_keeps_the_size_that_it_has_by_its_format() {
    let dir = TempDir::new().unwrap();
    for (name, fixed) in [("a.vhd", true), ("b.vhd", false)] {
        let path = image(&dir, name, fixed);
        let disk = Disk::open(&path, &DiskOptions::default()).unwrap();
        set_len(&path, 64 * MIB);
        assert_eq!(disk.limits().size, SectorCount(MIB_SECTORS), "{name}");
    }
}

#[test]
fn an_image_is_replaced_by_one_of_the_size_that_it_has_now() {
    let dir = TempDir::new().unwrap();
    let (path, next) = (image(&dir, "a.img", false), image(&dir, "b.img", false));
    let disk = Disk::open(&path, &DiskOptions::default()).unwrap();
    let replace = || disk.replace(&next, &DiskOptions::default(), Duration::from_secs(1));
    set_len(&path, 2 * MIB);
    assert!(replace().is_err());
    set_len(&next, 2 * MIB);
    replace().unwrap();
    assert_eq!(disk.info().path, next);
}
