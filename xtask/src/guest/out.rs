//! What the guest leaves in `/out` comes back as an archive on a disk.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Result, cmd};

/// As much as the guest can give back; the file is sparse.
const DISK_BYTES: u64 = 1 << 30;

/// A disk for the guest's archive.
pub(super) fn disk(path: PathBuf) -> Result<PathBuf> {
    File::create(&path)?.set_len(DISK_BYTES)?;
    Ok(path)
}

/// Unpacks the guest's archive; a guest that did not come so far left zeros, which are an empty archive.
pub(super) fn unpack(disk: &Path, folder: &Path) -> Result {
    fs::create_dir_all(folder)?;
    let mut tar = Command::new("tar");
    tar.arg("--extract")
        .arg("--no-same-owner")
        .arg("--file")
        .arg(disk)
        .arg("--directory")
        .arg(folder);
    cmd::capture(&mut tar).map(drop)
}
