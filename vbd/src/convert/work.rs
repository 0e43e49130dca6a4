//! What there is to copy, piece by piece, in the order of the disk.

use iomgr_core::{Device, SECTOR_BYTES, Sector, SectorCount, SectorRange};

use super::offload::{Means, Offload};
use crate::disk::Disk;
use crate::error::Error;
use crate::extents::{Extent, ExtentKind, Extents};
use crate::pair::{CHUNK_BYTES, Fault};

/// Zeros that one request writes at most, so that progress is seen.
const ZEROS_BYTES: u64 = 64 << 20;

/// What to do with some sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// Read them and write what is not zeros.
    Copy(SectorRange),
    /// Write zeros: the target holds something else.
    Zero(SectorRange),
    /// Nothing: the kernel has brought them over.
    Offloaded(SectorRange),
}

/// The pieces, from some sector to the end of the target.
#[derive(Debug)]
pub(crate) struct Work {
    extents: Extents,
    current: Option<Extent>,
    at: u64,
    /// Behind the last sector to be dealt with.
    end: u64,
    /// Does the target hold old bytes, where a new file has zeros?
    old_bytes: bool,
    offload: Option<Offload>,
}

impl Work {
    /// `old_bytes`: the whole of the target is dealt with, holes and what lies behind the source's end too.
    pub(crate) fn new(from: &Disk, to: &Disk, start: Sector, old_bytes: bool, offload: Option<Offload>) -> Self {
        let of_source = from.limits().size.0;
        Self {
            extents: from.extents(start),
            current: None,
            at: start.0,
            end: if old_bytes { to.limits().size.0 } else { of_source },
            old_bytes,
            offload,
        }
    }

    /// By which means data comes over.
    pub(crate) fn means(&self) -> Means {
        self.offload.as_ref().map_or(Means::Copy, Offload::means)
    }

    /// Everything before has been handed out.
    pub(crate) fn position(&self) -> u64 {
        self.at
    }

    /// Has everything been handed out?
    pub(crate) fn is_done(&self) -> bool {
        self.at >= self.end
    }

    /// The next piece; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Piece>, Error> {
        while self.at < self.end {
            let extent = self.extent()?;
            let left = extent.range.end().0 - self.at;
            if extent.kind.is_zero() && !self.old_bytes {
                self.at = extent.range.end().0;
                continue;
            }
            return Ok(Some(if extent.kind.is_zero() {
                Piece::Zero(self.take(left.min(ZEROS_BYTES / SECTOR_BYTES)))
            } else {
                self.data(&extent, left)
            }));
        }
        Ok(None)
    }

    /// The extent at the cursor. What lies behind the source's end is a hole.
    fn extent(&mut self) -> Result<Extent, Error> {
        while self.current.is_none_or(|extent| extent.range.end().0 <= self.at) {
            let rest = SectorRange::new(Sector(self.at), SectorCount(self.end - self.at));
            let behind = Extent {
                range: rest.expect("it lies on the target"),
                kind: ExtentKind::Hole,
                file_offset: None,
            };
            let found = self.extents.next().transpose().map_err(Fault::metadata)?;
            self.current = Some(found.unwrap_or(behind).readable()?);
        }
        Ok(self.current.expect("the loop ends with one"))
    }

    /// Data that the kernel brings over, or that must be read: a chunk, or what lies before the next part for the kernel.
    fn data(&mut self, extent: &Extent, left: u64) -> Piece {
        let chunk = left.min(u64::from(CHUNK_BYTES) / SECTOR_BYTES);
        match self.offload_from(extent, left) {
            Some((0, sectors)) => Piece::Offloaded(self.take(sectors)),
            Some((before, _)) => Piece::Copy(self.take(before.min(chunk))),
            None => Piece::Copy(self.take(chunk)),
        }
    }

    /// How many sectors to read before the kernel's part; if none, how many it has brought over.
    fn offload_from(&mut self, extent: &Extent, left: u64) -> Option<(u64, u64)> {
        let offload = self.offload.as_ref()?;
        let from = extent.file_offset? + (self.at - extent.range.start().0) * SECTOR_BYTES;
        let to = self.at * SECTOR_BYTES;
        let (before, len) = offload.part(from, to, left * SECTOR_BYTES)?;
        if before > 0 {
            return Some((before / SECTOR_BYTES, 0));
        }
        match offload.copy(from, to, len) {
            // Less than a sector more than whole sectors: that sector is read and written.
            Ok(copied) if copied >= SECTOR_BYTES => Some((0, copied / SECTOR_BYTES)),
            Ok(_) => None,
            Err(error) => {
                tracing::info!(%error, at = self.at, "offload_ended: the rest is read and written");
                self.offload = None;
                None
            }
        }
    }

    fn take(&mut self, sectors: u64) -> SectorRange {
        let range = SectorRange::new(Sector(self.at), SectorCount(sectors)).expect("it lies on the disk");
        self.at += sectors;
        range
    }
}
