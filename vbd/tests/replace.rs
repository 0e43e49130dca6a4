//! An image replaced behind a disk: refused, undone, done.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use iomgr_core::{RequestFlags, Sector};
use tqueue::EngineKind;
use vbd::{BlockingDisk, CreateOptions, Disk, DiskOptions, ErrorKind, create};

const MIB: u64 = 1 << 20;

/// An image of which every sector holds `byte`.
fn image(dir: &Path, name: &str, size_bytes: u64, byte: u8) -> PathBuf {
    let path = dir.join(name);
    create(&path, &CreateOptions::new(size_bytes)).unwrap();
    let disk = Disk::open(&path, &DiskOptions::default()).unwrap();
    let mut blocking = BlockingDisk::open(&disk, EngineKind::Sync).unwrap();
    let bytes = vec![byte; usize::try_from(MIB).unwrap()];
    (0..size_bytes / MIB).for_each(|mib| {
        blocking
            .write(&bytes, Sector(mib * 2048), RequestFlags::empty())
            .unwrap()
    });
    drop(blocking);
    disk.close().unwrap();
    path
}

fn first_byte(disk: &mut BlockingDisk) -> u8 {
    let mut sector = [0; 512];
    disk.read(&mut sector, Sector(0)).unwrap();
    sector[0]
}

#[test]
fn an_image_that_clients_could_tell_from_the_old_one_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (old, larger) = (
        image(dir.path(), "a.vhd", 4 * MIB, 1),
        image(dir.path(), "b.vhd", 8 * MIB, 2),
    );
    let disk = Disk::open(&old, &DiskOptions::default()).unwrap();
    let replace = |path: &Path, read_only| {
        let options = DiskOptions {
            read_only,
            ..DiskOptions::default()
        };
        disk.replace(path, &options, Duration::from_secs(1)).unwrap_err().kind()
    };
    assert_eq!(replace(&larger, false), ErrorKind::InvalidOption);
    assert_eq!(replace(&dir.path().join("none.vhd"), false), ErrorKind::Open);
    let same_size = image(dir.path(), "c.vhd", 4 * MIB, 3);
    assert_eq!(replace(&same_size, true), ErrorKind::InvalidOption);
    assert_eq!(first_byte(&mut BlockingDisk::open(&disk, EngineKind::Sync).unwrap()), 1);
}

#[test]
fn a_queue_that_does_not_let_go_undoes_the_replacement() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (
        image(dir.path(), "a.vhd", 4 * MIB, 1),
        image(dir.path(), "b.img", 4 * MIB, 2),
    );
    let disk = Disk::open(&old, &DiskOptions::default()).unwrap();
    let mut blocking = BlockingDisk::open(&disk, EngineKind::Sync).unwrap();
    // Nobody drives the queue meanwhile.
    let error = disk
        .replace(&new, &DiskOptions::default(), Duration::from_millis(20))
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert_eq!(first_byte(&mut blocking), 1);
    blocking.write(&[7; 512], Sector(0), RequestFlags::FUA).unwrap();
    drop(blocking);

    disk.replace(&new, &DiskOptions::default(), Duration::ZERO).unwrap();
    assert_eq!(disk.info().path, new);
    assert_eq!(first_byte(&mut BlockingDisk::open(&disk, EngineKind::Sync).unwrap()), 2);
    // The old image was let go of, and holds what was written.
    let old = Disk::open(
        &old,
        &DiskOptions {
            lock_timeout: Duration::ZERO,
            ..DiskOptions::default()
        },
    )
    .unwrap();
    assert_eq!(first_byte(&mut BlockingDisk::open(&old, EngineKind::Sync).unwrap()), 7);
}
