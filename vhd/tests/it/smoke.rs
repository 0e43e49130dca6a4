//! The whole way on a real file, read back by this crate and by qemu-img.

use std::path::Path;
use std::process::Command;

use iomgr_core::Storage;
use vhd::{CreateOptions, create};

use crate::file::DiskFile;
use crate::session::Session;

fn qemu_img(args: &[&str], path: &Path) -> Option<String> {
    let output = Command::new("qemu-img").args(args).arg(path).output();
    let Ok(output) = output else {
        eprintln!("skipped: qemu-img is not installed");
        return None;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

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
