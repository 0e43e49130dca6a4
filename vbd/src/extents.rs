//! What a disk is made of, in order: data, zeros, holes. Told from metadata alone.
//!
//! ```text
//!  raw, fixed VHD:  SEEK_DATA, SEEK_HOLE            dynamic VHD:  the map, and a bitmap where a block is not known to be full
//! ```
//!
//! # Contract
//! Extents come in order, without gaps, each sector of the disk in exactly one; neighbours that could be one are one. They hold
//! while nobody writes: on a disk that is open for reading only, its lock sees to that. Memory is bounded by one bitmap.

use std::io;
use std::sync::Arc;

use iomgr_core::{Errno, SECTOR_BYTES, Sector, SectorCount, SectorRange};
use serde::Serialize;
use vhd::BitmapRef;

use crate::error::{Error, ErrorKind};
use crate::file::FileExtent;
use crate::generation::{Medium, Shared};
use crate::layout::{BlockLayout, Layout, PlainLayout};

/// A run of sectors of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Which sectors of the disk.
    pub range: SectorRange,
    /// What they are.
    pub kind: ExtentKind,
    /// Where they lie in the file, in bytes, if they have a place there. One place for the whole run.
    pub file_offset: Option<u64>,
}

/// What the sectors of an extent are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ExtentKind {
    /// They may hold anything.
    Data,
    /// They read as zeros and take space: the rest of a block that holds data too.
    Zero,
    /// They read as zeros and take none.
    Hole,
    /// The image says where they are, and it cannot be right: they cannot be read.
    Bad,
}

impl ExtentKind {
    /// Do they read as zeros?
    pub fn is_zero(self) -> bool {
        matches!(self, Self::Zero | Self::Hole)
    }
}

impl Extent {
    fn new(start: u64, count: u64, kind: ExtentKind, file_offset: Option<u64>) -> Self {
        let range = SectorRange::new(Sector(start), SectorCount(count)).expect("an extent lies on the disk");
        Self {
            range,
            kind,
            file_offset,
        }
    }

    /// Refuses one that cannot be read.
    pub(crate) fn readable(self) -> Result<Self, Error> {
        if self.kind != ExtentKind::Bad {
            return Ok(self);
        }
        let what = format!(
            "names an impossible place for byte {} of the disk",
            self.range.offset_bytes()
        );
        let error = Error::new(ErrorKind::Image, what).field("BAT entry");
        Err(error.hint("`iomgr check` names all such entries"))
    }

    /// Both as one, if `next` goes on where this ends, on the disk and in the file.
    fn join(self, next: Self) -> Option<Self> {
        let goes_on = match (self.file_offset, next.file_offset) {
            (Some(offset), Some(following)) => offset + self.range.len_bytes() == following,
            (None, None) => true,
            _ => false,
        };
        let count = self.range.count().0 + next.range.count().0;
        (goes_on && self.kind == next.kind).then(|| Self::new(self.range.start().0, count, self.kind, self.file_offset))
    }
}

/// The extents of a disk, from some sector on; [`Disk::extents`](crate::Disk::extents) makes them.
#[derive(Debug)]
pub struct Extents {
    /// Nothing while the disk is paused.
    shared: Option<Arc<Shared>>,
    at: u64,
    /// Found, and not joined with what follows yet.
    ahead: Option<Extent>,
    bitmap: Option<(BitmapRef, Vec<u8>)>,
}

impl Extents {
    pub(crate) fn new(shared: Option<Arc<Shared>>, from: Sector) -> Self {
        Self {
            shared,
            at: from.0,
            ahead: None,
            bitmap: None,
        }
    }

    /// The next piece of the disk, as the layout tells it; `None` at the end.
    fn piece(&mut self) -> io::Result<Option<Extent>> {
        let shared = self.shared.clone().ok_or(Errno::BUSY)?;
        let left = shared.size().0.saturating_sub(self.at);
        if left == 0 {
            return Ok(None);
        }
        let extent = match &shared.layout {
            Layout::Plain(plain) => plain_extent(&shared.medium, plain, self.at, left)?,
            Layout::Blocks(blocks) => self.block_extent(&shared.medium, blocks, left)?,
        };
        self.at = extent.range.end().0;
        Ok(Some(extent))
    }

    fn block_extent(&mut self, medium: &Medium, blocks: &BlockLayout, left: u64) -> io::Result<Extent> {
        let (at, max) = (Sector(self.at), SectorCount(left));
        let mut extent = blocks.map.lookup(at, max);
        if let vhd::Extent::NeedBitmap { bitmap, .. } = extent {
            let bytes = self.bitmap(medium, bitmap)?;
            blocks.map.learn(bitmap, bytes);
            extent = blocks.map.extent_in(bitmap, bytes, at, max);
        }
        let (kind, file_offset) = match extent {
            vhd::Extent::Data { file_offset, .. } => (ExtentKind::Data, Some(file_offset)),
            vhd::Extent::Zero { .. } => (ExtentKind::Zero, None),
            vhd::Extent::Unallocated { .. } => (ExtentKind::Hole, None),
            vhd::Extent::Bad { .. } => (ExtentKind::Bad, None),
            vhd::Extent::NeedBitmap { .. } => unreachable!("its bitmap was asked"),
        };
        Ok(Extent::new(self.at, extent.count().0, kind, file_offset))
    }

    /// The bytes of a block's bitmap; the last one is kept, as a block may have many runs.
    fn bitmap(&mut self, medium: &Medium, wanted: BitmapRef) -> io::Result<&[u8]> {
        if self.bitmap.as_ref().is_none_or(|(held, _)| *held != wanted) {
            let mut bytes = self.bitmap.take().map(|(_, bytes)| bytes).unwrap_or_default();
            bytes.resize(wanted.len, 0);
            medium.storage().read_at(&mut bytes, wanted.offset)?;
            self.bitmap = Some((wanted, bytes));
        }
        Ok(&self.bitmap.as_ref().expect("just put there").1)
    }

    fn joined(&mut self) -> io::Result<Option<Extent>> {
        let mut extent = match self.ahead.take() {
            Some(extent) => extent,
            None => match self.piece()? {
                Some(extent) => extent,
                None => return Ok(None),
            },
        };
        while let Some(next) = self.piece()? {
            match extent.join(next) {
                Some(both) => extent = both,
                None => {
                    self.ahead = Some(next);
                    break;
                }
            }
        }
        Ok(Some(extent))
    }
}

impl Iterator for Extents {
    type Item = io::Result<Extent>;

    fn next(&mut self) -> Option<Self::Item> {
        self.joined().transpose()
    }
}

/// Holes of the file are holes of the disk. They have a place in the file all the same.
fn plain_extent(medium: &Medium, plain: &PlainLayout, at: u64, left: u64) -> io::Result<Extent> {
    let place = plain.offset_bytes + at * SECTOR_BYTES;
    let sectors = |kind, count: u64| Extent::new(at, count.min(left), kind, Some(place));
    Ok(match medium.extent_at(place)? {
        // A sector with a byte of data is data.
        FileExtent::Hole { end } => match (end - place) / SECTOR_BYTES {
            0 => sectors(ExtentKind::Data, 1),
            hole => sectors(ExtentKind::Hole, hole),
        },
        FileExtent::Data { end } => sectors(ExtentKind::Data, (end - place).div_ceil(SECTOR_BYTES)),
    })
}
