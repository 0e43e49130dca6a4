//! The whole way on a real file, read back by this crate and by qemu-img.

use iomgr_core::Storage;
use vhd::{CreateOptions, create};

use crate::file::DiskFile;
use crate::session::Session;
use crate::tools::qemu_img;

#[test]
fn a_written_image_reads_back_after_close_and_so_does_qemu() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.vhd");
    let size = 37 << 20 | 512;
    create(&DiskFile::create(&path), &CreateOptions::dynamic(size, [7; 16], 1000)).unwrap();
    assert_eq!(DiskFile::open(&path).len_bytes().unwrap() % 4096, 0);

    let mut expected = vec![0u8; size as usize];
    let mut session = Session::open(DiskFile::open(&path), false).unwrap();
    for (at, len) in [
        (0, 4096),
        (5 << 20, 3 << 20),
        (size - 512, 512),
        (11 << 20, 512),
        (30 << 20, 6 << 20),
    ] {
        let data: Vec<u8> = (0..len).map(|byte| (byte * 7 + at / 512) as u8 | 1).collect();
        session.write(at, &data).unwrap();
        expected[at as usize..][..data.len()].copy_from_slice(&data);
    }
    session.flush();
    session.release(3).unwrap();
    expected[6 << 20..8 << 20].fill(0);
    let storage = session.close();
    assert_eq!(storage.len_bytes().unwrap() % 4096, 0);

    let mut session = Session::open(DiskFile::open(&path), true).unwrap();
    assert_eq!(session.size, size);
    let mut read = vec![0; size as usize];
    session.read(0, &mut read).unwrap();
    assert!(read == expected);

    let raw = dir.path().join("a.raw");
    std::fs::write(&raw, &expected).unwrap();
    if let Some(info) = qemu_img(&["info", "--output=json"], &path) {
        assert!(info.contains(&format!("\"virtual-size\": {size}")), "{info}");
        let raw = raw.to_str().unwrap();
        qemu_img(&["compare", "-f", "raw", "-F", "vpc", raw], &path);
    }
}

/// QEMU's layout is another one: data off page boundaries, no batmap.
#[test]
fn an_image_made_by_qemu_is_read_and_written_on() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, path) = (dir.path().join("b.raw"), dir.path().join("b.vhd"));
    let mut expected = vec![0u8; 20 << 20];
    for at in [0, 4 << 20, (9 << 20) + 512, (20 << 20) - 4096] {
        expected[at..at + 4096].fill((at >> 20) as u8 | 0x81);
    }
    std::fs::write(&raw, &expected).unwrap();
    let convert = [
        "convert",
        "-f",
        "raw",
        "-O",
        "vpc",
        "-o",
        "subformat=dynamic,force_size=on",
        raw.to_str().unwrap(),
    ];
    if qemu_img(&convert, &path).is_none() {
        return;
    }
    let mut session = Session::open(DiskFile::open(&path), false).unwrap();
    assert!(!session.map().is_aligned());
    for (at, len) in [(1024, 512), (6 << 20, 4096), (8 << 20, 2 << 20), (11 << 20, 5 << 20)] {
        session.write(at, &vec![0x5A; len]).unwrap();
        expected[at as usize..][..len].fill(0x5A);
    }
    session.release(2).unwrap();
    expected[4 << 20..6 << 20].fill(0);
    session.flush();
    session.close();
    std::fs::write(&raw, &expected).unwrap();
    qemu_img(&["compare", "-f", "raw", "-F", "vpc", raw.to_str().unwrap()], &path);
    let report = vhd::check(&DiskFile::open(&path)).unwrap();
    assert_eq!(report.verdict(), vhd::Verdict::Clean, "{report:?}");
}

#[test]
fn a_fixed_image_is_its_data_and_a_footer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.vhd");
    create(&DiskFile::create(&path), &CreateOptions::fixed(3 << 20, [7; 16], 1000)).unwrap();
    let mut session = Session::open(DiskFile::open(&path), false).unwrap();
    session.write(4096, &[0x77; 512]).unwrap();
    let storage = session.close();
    assert_eq!(storage.len_bytes().unwrap(), (3 << 20) + 512);
    assert_eq!(std::fs::read(&path).unwrap()[4096..4096 + 512], [0x77; 512]);
    if let Some(info) = qemu_img(&["info", "-f", "vpc", "--output=json"], &path) {
        assert!(info.contains("\"virtual-size\": 3145728"), "{info}");
    }
}
