//! Copying a disk into a new image, zeros left out.

use std::path::Path;

use iomgr_core::{Device, RequestFlags, SECTOR_BYTES, Sector};
use serde::Serialize;
use tqueue::EngineKind;

use crate::blocking::BlockingDisk;
use crate::create::{CreateOptions, create};
use crate::disk::{Disk, DiskOptions};
use crate::error::{Error, ErrorKind};
use crate::format::Format;

/// How to convert.
#[derive(Clone, Debug)]
pub struct ConvertOptions {
    /// The source's format, where the extension does not tell it.
    pub from: Option<Format>,
    /// The target's, likewise.
    pub to: Option<Format>,
    /// A fixed VHD instead of a dynamic one.
    pub fixed: bool,
    /// Replace the target.
    pub force: bool,
}

/// What was copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Copied {
    /// Bytes of the disk.
    pub size_bytes: u64,
    /// Bytes that were not zero and were written.
    pub written_bytes: u64,
}

/// A run of zeros shorter than this is copied with its neighbours.
const GRAIN_BYTES: usize = 64 << 10;

/// Copies the disk in `source` into a new image `target`. `progress` is told how many bytes of the disk are done; when it
/// answers false the copy ends with an error. A target that was not finished is removed.
pub fn convert(
    source: &Path,
    target: &Path,
    options: &ConvertOptions,
    progress: &mut dyn FnMut(u64) -> bool,
) -> Result<Copied, Error> {
    let from = Disk::open(
        source,
        &DiskOptions {
            format: options.from,
            read_only: true,
            ..DiskOptions::default()
        },
    )?;
    let size_bytes = from.limits().size.0 * SECTOR_BYTES;
    let made = CreateOptions {
        format: options.to,
        fixed: options.fixed,
        force: options.force,
        ..CreateOptions::new(size_bytes)
    };
    create(target, &made)?;
    let copied = fill(&from, target, options, progress);
    if copied.is_err() && std::fs::metadata(target).is_ok_and(|meta| meta.is_file()) {
        // The error that matters is the first.
        let _ = std::fs::remove_file(target);
    }
    copied
}

fn fill(
    from: &Disk,
    target: &Path,
    options: &ConvertOptions,
    progress: &mut dyn FnMut(u64) -> bool,
) -> Result<Copied, Error> {
    let to = Disk::open(
        target,
        &DiskOptions {
            format: options.to,
            ..DiskOptions::default()
        },
    )?;
    let mut reader = BlockingDisk::open(from, EngineKind::Auto)?;
    let mut writer = BlockingDisk::open(&to, EngineKind::Auto)?;
    let copied = copy(from, &mut reader, &mut writer, progress)
        .map_err(|error| Error::new(ErrorKind::Io, "copying failed").at(target).because(error))?;
    drop(writer);
    to.close()?;
    Ok(copied)
}

fn copy(
    from: &Disk,
    reader: &mut BlockingDisk,
    writer: &mut BlockingDisk,
    progress: &mut dyn FnMut(u64) -> bool,
) -> std::io::Result<Copied> {
    let size = from.limits().size.0;
    let chunk_sectors = BlockingDisk::TRANSFER_BYTES_MAX as u64 / SECTOR_BYTES;
    let mut buf = vec![0; BlockingDisk::TRANSFER_BYTES_MAX];
    let mut copied = Copied {
        size_bytes: size * SECTOR_BYTES,
        written_bytes: 0,
    };
    let mut at = 0;
    while let Some((start, end)) = from.next_data(at)? {
        let sectors = (end - start).min(chunk_sectors);
        let part = &mut buf[..usize::try_from(sectors * SECTOR_BYTES).expect("bounded by the buffer")];
        reader.read(part, Sector(start))?;
        copied.written_bytes += write_sparse(writer, part, start)?;
        at = start + sectors;
        if !progress(at * SECTOR_BYTES) {
            return Err(std::io::ErrorKind::Interrupted.into());
        }
    }
    writer.flush()?;
    progress(copied.size_bytes);
    Ok(copied)
}

/// Writes the runs of `part` that are not zero; says how many bytes those were.
fn write_sparse(writer: &mut BlockingDisk, part: &[u8], start: u64) -> std::io::Result<u64> {
    let mut written = 0;
    let mut run = 0..0;
    for at in (0..part.len()).step_by(GRAIN_BYTES) {
        let grain = at..(at + GRAIN_BYTES).min(part.len());
        if part[grain.clone()].iter().all(|&byte| byte == 0) {
            written += write_run(writer, part, std::mem::take(&mut run), start)?;
        } else if run.is_empty() {
            run = grain;
        } else {
            run.end = grain.end;
        }
    }
    Ok(written + write_run(writer, part, run, start)?)
}

fn write_run(writer: &mut BlockingDisk, part: &[u8], run: std::ops::Range<usize>, start: u64) -> std::io::Result<u64> {
    if run.is_empty() {
        return Ok(0);
    }
    let sector = Sector(start + run.start as u64 / SECTOR_BYTES);
    writer.write(&part[run.clone()], sector, RequestFlags::empty())?;
    Ok(run.len() as u64)
}
