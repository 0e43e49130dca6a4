//! What lies where on a disk, without reading data: by the map of a dynamic VHD, else by what the file knows of its holes.
//!
//! # Contract
//! What is called zero reads as zeros. What is called data may be anything, so what is not known is data.

use std::io;
use std::ops::Range;
use std::sync::atomic::Ordering;

use iomgr_core::{BlockStatus, SECTOR_BYTES, Sector, SectorCount, SectorRange};
use vhd::Extent;

use crate::file::FileExtent;
use crate::generation::Shared;
use crate::layout::Layout;

impl Shared {
    /// What is known about the first sectors of `range`, which lies on the disk.
    pub(crate) fn block_status(&self, range: SectorRange) -> io::Result<BlockStatus> {
        match &self.layout {
            Layout::Plain(plain) => {
                let from = plain.offset_bytes + range.offset_bytes();
                Ok(plain_status(range, from, self.medium.extent_at(from)?))
            }
            Layout::Blocks(blocks) => Ok(mapped_status(range, |at, most| blocks.map.lookup(at, most))),
        }
    }
}

/// Runs of data that a queue found in the file of a plain disk. To find where data end costs time by their length on some
/// file systems (tmpfs walks all pages), and a frontend may ask before every read; so as long as the disk makes no holes, an
/// answer holds.
#[derive(Debug, Default)]
pub(crate) struct FoundData {
    runs: [Range<u64>; RUNS],
    /// The run to forget next.
    oldest: usize,
    /// See [`Shared::holes_made`].
    holes_made: u64,
}

const RUNS: usize = 8;

impl FoundData {
    /// What is known about `range`, which begins at byte `from` of the file.
    pub(crate) fn status(&mut self, shared: &Shared, range: SectorRange, from: u64) -> io::Result<BlockStatus> {
        let holes_made = shared.holes_made.load(Ordering::Acquire);
        if self.holes_made != holes_made {
            *self = Self {
                holes_made,
                ..Self::default()
            };
        }
        let extent = match self.runs.iter().find(|run| run.contains(&from)) {
            Some(run) => FileExtent::Data { end: run.end },
            None => self.learn(from, shared.medium.extent_at(from)?),
        };
        Ok(plain_status(range, from, extent))
    }

    /// Remembers data that were found; a known run that they reach back from grows.
    fn learn(&mut self, from: u64, extent: FileExtent) -> FileExtent {
        if let FileExtent::Data { end } = extent {
            let known = self.runs.iter().position(|run| run.end == end);
            let at = known.unwrap_or(self.oldest);
            self.runs[at] = from..end;
            self.oldest = if known.is_some() { self.oldest } else { (at + 1) % RUNS };
        }
        extent
    }
}

/// Of a disk that is one run of its file. Sectors that the file has only a part of are data.
fn plain_status(range: SectorRange, from: u64, extent: FileExtent) -> BlockStatus {
    let most = range.count();
    match extent {
        FileExtent::Hole { end } => match SectorCount::from_bytes_floor(end - from).min(most) {
            SectorCount::ZERO => BlockStatus::data(SectorCount(1)),
            count => BlockStatus::hole(count),
        },
        FileExtent::Data { end } => BlockStatus::data(SectorCount((end - from).div_ceil(SECTOR_BYTES)).min(most)),
    }
}

/// Of a disk of blocks, as `lookup` finds them: runs of one kind are merged, to the end of `range`.
pub(crate) fn mapped_status(range: SectorRange, mut lookup: impl FnMut(Sector, SectorCount) -> Extent) -> BlockStatus {
    let mut status_at = |at: u64| status_of(lookup(Sector(at), SectorCount(range.end().0 - at)));
    let mut status = status_at(range.start().0);
    while status.count < range.count() {
        let next = status_at(range.start().0 + status.count.0);
        if (next.is_hole, next.is_zero) != (status.is_hole, status.is_zero) {
            break;
        }
        status.count.0 += next.count.0;
    }
    status
}

fn status_of(extent: Extent) -> BlockStatus {
    match extent {
        Extent::Unallocated { count, .. } => BlockStatus::hole(count),
        Extent::Zero { count } => BlockStatus::zero(count),
        Extent::Data { count, .. } | Extent::NeedBitmap { count, .. } | Extent::Bad { count, .. } => {
            BlockStatus::data(count)
        }
    }
}
