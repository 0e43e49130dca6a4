//! The map: where each sector of the disk lies. Shared by all queue threads, changed by the allocator alone.
//!
//! One word per block: the BAT entry and flags. Readers load it once per lookup and decide by that; the allocator
//! publishes a word only after the metadata behind it was written, so whatever a reader sees is on the disk already.
//!
//! ```text
//!  63               35 34     33    32 31               0
//!  ┌──────────────────┬────┬───┬────┬──────────────────┐
//!  │ 0                │held│bad│full│ BAT entry        │
//!  └──────────────────┴────┴───┴────┴──────────────────┘
//! ```
//!
//! # Contract
//! An extent holds for as long as its reader keeps the epoch that it entered before the lookup: the slot is not reused
//! before every queue has left that epoch.

use std::sync::atomic::{AtomicU64, Ordering};

use iomgr_core::{SECTOR_BYTES, Sector, SectorCount, SectorRange};

use crate::bitmap::{self, Run};
use crate::layout::BAT_UNUSED;
use crate::shape::{PAGE, Shape};

const FULL: u64 = 1 << 32;
const BAD: u64 = 1 << 33;
const HELD: u64 = 1 << 34;

/// A run of sectors within one block, and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// In the file, from byte `file_offset`. May be written in place.
    Data {
        /// Bytes from the file's start.
        file_offset: u64,
        /// How many sectors.
        count: SectorCount,
    },
    /// Zeros, in a block that is allocated and holds other data too. To write here, make the block full first.
    Zero {
        /// How many sectors.
        count: SectorCount,
    },
    /// Zeros: the block has no slot.
    Unallocated {
        /// Which block.
        block: u64,
        /// How many sectors.
        count: SectorCount,
    },
    /// The block has a slot, and its bitmap says what is in it. To write here, make the block full first.
    NeedBitmap {
        /// Which bitmap.
        bitmap: BitmapRef,
        /// How many sectors, data and zeros mixed.
        count: SectorCount,
    },
    /// The block's BAT entry cannot be right; its data cannot be had.
    Bad {
        /// Which block.
        block: u64,
        /// How many sectors.
        count: SectorCount,
    },
}

/// A block's bitmap: where it lies, and of which mapping it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BitmapRef {
    /// The block.
    pub block: u64,
    /// Where the bitmap lies, in bytes.
    pub offset: u64,
    /// The bitmap's bytes.
    pub len: usize,
    /// The block's word when this was made. While a block has one and the same word its bitmap does not change.
    pub(crate) word: u64,
}

impl Extent {
    /// How many sectors.
    pub fn count(&self) -> SectorCount {
        match *self {
            Self::Data { count, .. }
            | Self::Zero { count }
            | Self::Unallocated { count, .. }
            | Self::NeedBitmap { count, .. }
            | Self::Bad { count, .. } => count,
        }
    }
}

/// A block's word, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    Unallocated,
    Partial(u32),
    Full(u32),
    /// Nobody knows whether the disk's entry still says so: a write that should have cleared it failed. To be read as
    /// its bitmap says; not to be written in place before its entry is certain again.
    Held {
        entry: u32,
        full: bool,
    },
    Bad(u32),
}

impl Slot {
    #[inline]
    pub(crate) fn entry(self) -> u32 {
        match self {
            Self::Unallocated => BAT_UNUSED,
            Self::Partial(entry) | Self::Full(entry) | Self::Held { entry, .. } | Self::Bad(entry) => entry,
        }
    }

    fn word(self) -> u64 {
        let flags = match self {
            Self::Unallocated | Self::Partial(_) => 0,
            Self::Full(_) => FULL,
            Self::Held { full: true, .. } => HELD | FULL,
            Self::Held { full: false, .. } => HELD,
            Self::Bad(_) => BAD,
        };
        u64::from(self.entry()) | flags
    }

    #[inline]
    fn from_word(word: u64) -> Self {
        let entry = u32::try_from(word & 0xFFFF_FFFF).expect("masked to 32 bits");
        match (word & BAD != 0, word & HELD != 0, word & FULL != 0) {
            _ if entry == BAT_UNUSED => Self::Unallocated,
            (true, _, _) => Self::Bad(entry),
            (_, true, full) => Self::Held { entry, full },
            (_, _, true) => Self::Full(entry),
            _ => Self::Partial(entry),
        }
    }
}

/// Where each sector of a dynamic disk lies.
#[derive(Debug)]
pub struct Map {
    shape: Shape,
    words: Box<[AtomicU64]>,
    meta_written: AtomicU64,
}

impl Map {
    /// A map of `entries`, one per block of `shape`.
    pub(crate) fn new(shape: Shape, entries: impl Iterator<Item = u32>) -> Self {
        let words: Box<[AtomicU64]> = entries.map(|entry| AtomicU64::new(u64::from(entry))).collect();
        debug_assert_eq!(words.len() as u64, shape.blocks());
        Self {
            shape,
            words,
            // What a process that is gone wrote may not be durable yet: it counts as one write.
            meta_written: AtomicU64::new(1),
        }
    }

    /// The image's measures.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Do all of `range` lie in one full block? The short answer to what is asked most.
    ///
    /// # Panics
    /// If `range` begins behind the disk's end.
    #[inline]
    pub fn is_full(&self, range: SectorRange) -> bool {
        let (block, within) = self.shape.split_sector(range.start().0);
        within + range.count().0 <= self.shape.block_sectors() && matches!(self.slot(block), Slot::Full(_))
    }

    /// Where the run of sectors from `sector`, at most `max` and within one block, lies.
    ///
    /// # Panics
    /// If `sector` is behind the disk's end or `max` is 0: the caller checks requests against the disk's size.
    #[inline]
    pub fn lookup(&self, sector: Sector, max: SectorCount) -> Extent {
        let (block, within) = self.shape.split_sector(sector.0);
        let left = self
            .shape
            .sectors_in(block)
            .checked_sub(within)
            .filter(|&left| left > 0);
        let count = SectorCount(left.expect("a lookup lies on the disk").min(max.0));
        assert!(!count.is_zero(), "a lookup is of at least one sector");
        let slot = self.slot(block);
        let file_offset = self.shape.data_at(slot.entry()) + within * SECTOR_BYTES;
        match slot {
            Slot::Unallocated => Extent::Unallocated { block, count },
            Slot::Full(_) => Extent::Data { file_offset, count },
            Slot::Partial(_) | Slot::Held { .. } => {
                let bitmap = self.bitmap_ref(block, slot);
                Extent::NeedBitmap { bitmap, count }
            }
            Slot::Bad(_) => Extent::Bad { block, count },
        }
    }

    /// Resolves a [`NeedBitmap`](Extent::NeedBitmap) of `sector`, given the bytes of that bitmap: data or zeros. For
    /// reading only: to be written in place, a block must be full by [`lookup`](Self::lookup).
    pub fn extent_in(&self, of: BitmapRef, bytes: &[u8], sector: Sector, max: SectorCount) -> Extent {
        let (block, within) = self.shape.split_sector(sector.0);
        assert!(
            block == of.block && bytes.len() == of.len,
            "a bitmap answers for its own block"
        );
        let end = self.shape.sectors_in(block).min(within + max.0);
        let Run { set, count } = bitmap::run_at(bytes, within, end);
        let (count, file_offset) = (SectorCount(count), of.offset + of.len as u64 + within * SECTOR_BYTES);
        match set {
            true => Extent::Data { file_offset, count },
            false => Extent::Zero { count },
        }
    }

    /// Tells the map what a bitmap holds: one without a clear bit makes its block full, if its slot is still the same.
    pub fn learn(&self, of: BitmapRef, bytes: &[u8]) {
        let sectors = self.shape.sectors_in(of.block);
        if bitmap::run_at(bytes, 0, sectors)
            != (Run {
                set: true,
                count: sectors,
            })
        {
            return;
        }
        let Slot::Partial(entry) = Slot::from_word(of.word) else {
            return;
        };
        let full = Slot::Full(entry).word();
        // A failed exchange means that the allocator was faster; what it published is newer than our bitmap.
        let _ = self.words[index(of.block)].compare_exchange(of.word, full, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// How many metadata writes were completed since the image was opened, those of whoever had it before taken as one. A
    /// FUA write looks at it to know whether an image flush must follow: yes, if it has moved since the last flush that
    /// succeeded was *started*, or if there was none.
    pub fn meta_written(&self) -> u64 {
        self.meta_written.load(Ordering::Acquire)
    }

    /// How many blocks are allocated. Counts: for reports, not for the data path.
    pub fn allocated_blocks(&self) -> u64 {
        let used = |word: &&AtomicU64| Slot::from_word(word.load(Ordering::Relaxed)) != Slot::Unallocated;
        self.words.iter().filter(used).count() as u64
    }

    /// Do all slots have their data on 4096 boundaries? Goes over all blocks: for reports and for choosing direct I/O.
    pub fn is_aligned(&self) -> bool {
        let slots = self
            .words
            .iter()
            .map(|word| Slot::from_word(word.load(Ordering::Relaxed)));
        slots
            .filter(|slot| *slot != Slot::Unallocated)
            .all(|slot| self.shape.data_at(slot.entry()).is_multiple_of(PAGE))
    }

    fn bitmap_ref(&self, block: u64, slot: Slot) -> BitmapRef {
        BitmapRef {
            block,
            offset: Shape::bitmap_at(slot.entry()),
            len: self.shape.bitmap_bytes(),
            word: slot.word(),
        }
    }

    /// Is the block's mapping still the one that `of` was made of?
    pub(crate) fn still_has(&self, of: BitmapRef) -> bool {
        self.slot(of.block).word() == of.word
    }

    #[inline]
    pub(crate) fn slot(&self, block: u64) -> Slot {
        Slot::from_word(self.words[index(block)].load(Ordering::Acquire))
    }

    pub(crate) fn bitmap_of(&self, block: u64) -> BitmapRef {
        self.bitmap_ref(block, self.slot(block))
    }

    /// Makes `slot` what readers see of `block`. The allocator's alone.
    pub(crate) fn publish(&self, block: u64, slot: Slot) {
        self.words[index(block)].store(slot.word(), Ordering::Release);
    }

    pub(crate) fn count_meta_write(&self) {
        self.meta_written.fetch_add(1, Ordering::AcqRel);
    }
}

#[inline]
fn index(block: u64) -> usize {
    usize::try_from(block).expect("block numbers are bounded by the map's length")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(entries: &[u32]) -> Map {
        Map::new(
            Shape::new(entries.len() as u64 * 4096 - 512, 4096),
            entries.iter().copied(),
        )
    }

    fn look(map: &Map, sector: u64, max: u64) -> Extent {
        map.lookup(Sector(sector), SectorCount(max))
    }

    #[test]
    fn metadata_found_at_open_may_not_be_durable() {
        assert_eq!(map(&[BAT_UNUSED]).meta_written(), 1);
    }

    #[test]
    fn a_lookup_ends_with_its_block_and_with_the_disk() {
        let map = map(&[BAT_UNUSED, BAT_UNUSED]);
        assert_eq!(
            look(&map, 3, 100),
            Extent::Unallocated {
                block: 0,
                count: SectorCount(5)
            }
        );
        assert_eq!(
            look(&map, 8, 100),
            Extent::Unallocated {
                block: 1,
                count: SectorCount(7)
            }
        );
        assert_eq!(
            look(&map, 14, 100),
            Extent::Unallocated {
                block: 1,
                count: SectorCount(1)
            }
        );
    }

    #[test]
    fn a_full_block_is_data_behind_its_bitmap() {
        let map = map(&[9, BAT_UNUSED]);
        map.publish(0, Slot::Full(9));
        assert_eq!(
            look(&map, 2, 3),
            Extent::Data {
                file_offset: 12 * 512,
                count: SectorCount(3)
            }
        );
    }

    #[test]
    fn only_what_lies_in_one_full_block_is_full() {
        let map = map(&[9, 20, BAT_UNUSED]);
        map.publish(0, Slot::Full(9));
        let is_full = |at, count| map.is_full(SectorRange::new(Sector(at), SectorCount(count)).unwrap());
        assert!(is_full(0, 8) && is_full(7, 1));
        assert!(!is_full(7, 2), "it reaches into the next block");
        assert!(!is_full(8, 1), "its bitmap is not known");
        assert!(!is_full(16, 1), "it has no block");
    }

    #[test]
    fn a_partial_block_asks_for_its_bitmap_and_learns_from_a_full_one() {
        let map = map(&[9, 20]);
        let Extent::NeedBitmap { bitmap, count } = look(&map, 8, 9) else {
            panic!("not partial")
        };
        assert_eq!((bitmap.block, bitmap.offset, count.0), (1, 20 * 512, 7));
        let mut bytes = [0u8; 512];
        bytes[0] = 0b0111_0000;
        map.learn(bitmap, &bytes);
        assert_eq!(
            map.extent_in(bitmap, &bytes, Sector(8), count),
            Extent::Zero { count: SectorCount(1) }
        );
        let data = Extent::Data {
            file_offset: 22 * 512,
            count: SectorCount(3),
        };
        assert_eq!(map.extent_in(bitmap, &bytes, Sector(9), SectorCount(6)), data);
        assert!(matches!(look(&map, 8, 1), Extent::NeedBitmap { .. }));
        bytes[0] = 0b1111_1110; // the eighth sector is behind the disk's end
        map.learn(bitmap, &bytes);
        assert!(matches!(look(&map, 8, 1), Extent::Data { .. }));
    }

    #[test]
    fn a_bitmap_of_an_older_slot_teaches_nothing() {
        let map = map(&[9, 20]);
        let bitmap = map.bitmap_of(1);
        map.publish(1, Slot::Partial(40));
        map.learn(bitmap, &[0xFF; 512]);
        assert_eq!(map.slot(1), Slot::Partial(40));
    }
}
