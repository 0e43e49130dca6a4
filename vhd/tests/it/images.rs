//! Images by a dozen other programs: sizes, types and contents are those of the manifest.

use std::path::Path;

use serde_json::Value;
use sha2::{Digest, Sha256};
use vhd::{ErrorKind, Extent, Image, OpenOptions};

use crate::file::DiskFile;
use crate::session::Session;
use crate::tools::{shared_images, unpack};

/// Images whose disks are larger are known to be empty: their maps are looked at, not every byte.
const HASHED_MAX: u64 = 1 << 30;

#[test]
fn images_by_others_read_as_the_manifest_says() {
    let Some(folder) = shared_images() else { return };
    let manifest: Value = serde_json::from_slice(&std::fs::read(folder.join("manifest.json")).unwrap()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (mut read, mut refused) = (0, 0);
    for image in manifest.as_array().unwrap() {
        let path = dir.path().join("image.vhd");
        if unpack(&folder.join(image["stored"].as_str().unwrap()), &path).is_none() {
            return;
        }
        match image["type"].as_str() {
            Some("fixed" | "dynamic") => {
                compare(image, &path);
                read += 1;
            }
            Some(_) => {
                assert_eq!(open_error(&path), ErrorKind::Unsupported, "{image}");
                let report = vhd::check(&DiskFile::open(&path)).unwrap();
                assert_eq!(report.verdict(), vhd::Verdict::Unsupported, "{image}: {report:?}");
                refused += 1;
            }
            // Both checksums of these are wrong.
            None => assert_eq!(open_error(&path), ErrorKind::Corrupt, "{image}"),
        }
    }
    assert!(read > 20 && refused > 1, "{read} images read, {refused} refused");
}

fn open_error(path: &Path) -> ErrorKind {
    Image::open(&DiskFile::open(path), &OpenOptions { read_only: true })
        .unwrap_err()
        .kind()
}

fn compare(image: &Value, path: &Path) {
    let file = &image["file"];
    let mut session = Session::open(DiskFile::open(path), true).unwrap_or_else(|error| panic!("{file}: {error}"));
    assert_eq!(Some(session.size), image["current_size"].as_u64(), "{file}");
    let info = vhd::info(&DiskFile::open(path)).unwrap();
    assert_eq!(Some(info.disk_type.as_str()), image["type"].as_str(), "{file}");
    assert_eq!(info.allocated_blocks, image["allocated"].as_u64(), "{file}");
    assert_eq!(info.block_bytes, image["block"].as_u64(), "{file}");
    let chs = u64::from(info.geometry.0) * u64::from(info.geometry.1) * u64::from(info.geometry.2) * 512;
    assert_eq!(Some(chs), image["chs_bytes"].as_u64(), "{file}");
    assert_ne!(
        vhd::check(&DiskFile::open(path)).unwrap().verdict(),
        vhd::Verdict::Corrupt,
        "{file}"
    );
    if let Some(expected) = image["content_sha256"].as_str() {
        assert_eq!(sha256(&mut session), expected, "{file}");
    } else if image["content"] == "all zeros" {
        assert!(is_empty(&mut session), "{file}");
    }
}

fn sha256(session: &mut Session<DiskFile>) -> String {
    assert!(session.size <= HASHED_MAX);
    let mut hash = Sha256::new();
    let mut chunk = vec![0; 1 << 20];
    let mut at = 0;
    while at < session.size {
        let part = &mut chunk[..(session.size - at).min(1 << 20) as usize];
        session.read(at, part).unwrap();
        hash.update(&part);
        at += part.len() as u64;
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn is_empty(session: &mut Session<DiskFile>) -> bool {
    let mut sector = 0;
    while sector < session.size / 512 {
        let extent = session.extent(sector, u64::MAX / 1024);
        if !matches!(extent, Extent::Unallocated { .. } | Extent::Zero { .. }) {
            return false;
        }
        sector += extent.count().0;
    }
    true
}
