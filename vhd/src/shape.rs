//! A dynamic image's measures: how its blocks, bitmaps and slots are sized.
//!
//! ```text
//!  a slot as this crate lays it (4096-aligned)            a slot as others may have laid it
//!  ┌──────────┬────────┬──────────────────┐               ┌────────┬──────────────────┐
//!  │ pad      │ bitmap │ data             │               │ bitmap │ data             │
//!  └──────────┴────────┴──────────────────┘               └────────┴──────────────────┘
//!  start      entry    data: 4096-aligned                 entry
//! ```

use iomgr_core::SECTOR_BYTES;

/// The page that slots, and the file's end, are aligned to.
pub(crate) const PAGE: u64 = 4096;
/// The same, as a length in memory.
pub(crate) const PAGE_BYTES: usize = 4096;

/// The smallest block that this crate opens and makes.
pub const MIN_BLOCK_BYTES: u32 = 4096;
/// The largest.
pub const MAX_BLOCK_BYTES: u32 = 256 << 20;
/// The largest dynamic disk: 2040 GiB.
pub const MAX_DYNAMIC_BYTES: u64 = 2040 << 30;
/// The most blocks that a map is made for: 128 MiB of memory. Only small blocks on large disks come near.
pub const MAX_BLOCKS: u64 = 1 << 24;

/// Sizes of a dynamic image. All of them checked at open: the arithmetic below cannot overflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    sectors: u64,
    block_shift: u32,
}

impl Shape {
    /// `size_bytes` is a multiple of 512, `block_bytes` a legal power of two, both checked by the caller.
    pub(crate) fn new(size_bytes: u64, block_bytes: u32) -> Self {
        debug_assert!(block_bytes.is_power_of_two() && (MIN_BLOCK_BYTES..=MAX_BLOCK_BYTES).contains(&block_bytes));
        Self {
            sectors: size_bytes / SECTOR_BYTES,
            block_shift: (block_bytes / 512).trailing_zeros(),
        }
    }

    /// Is this a block size that can be opened and made?
    pub(crate) fn legal_block(block_bytes: u32) -> bool {
        block_bytes.is_power_of_two() && (MIN_BLOCK_BYTES..=MAX_BLOCK_BYTES).contains(&block_bytes)
    }

    /// The disk's size in sectors.
    pub fn sectors(self) -> u64 {
        self.sectors
    }

    /// Sectors in a block.
    #[inline]
    pub fn block_sectors(self) -> u64 {
        1 << self.block_shift
    }

    /// Bytes in a block.
    #[inline]
    pub fn block_bytes(self) -> u64 {
        SECTOR_BYTES << self.block_shift
    }

    /// How many blocks the disk has.
    pub fn blocks(self) -> u64 {
        self.sectors.div_ceil(self.block_sectors())
    }

    /// Bytes of a block's bitmap: whole sectors.
    #[inline]
    pub fn bitmap_bytes(self) -> usize {
        usize::try_from((self.block_sectors() / 8).next_multiple_of(SECTOR_BYTES)).expect("at most 64 KiB")
    }

    /// The block that `sector` lies in, and the sector's number within it.
    #[inline]
    pub fn split_sector(self, sector: u64) -> (u64, u64) {
        (sector >> self.block_shift, sector & (self.block_sectors() - 1))
    }

    /// How many of a block's sectors the disk has: fewer in the last block.
    #[inline]
    pub fn sectors_in(self, block: u64) -> u64 {
        self.sectors
            .saturating_sub(block << self.block_shift)
            .min(self.block_sectors())
    }

    /// Where `entry`'s bitmap lies.
    #[inline]
    pub(crate) fn bitmap_at(entry: u32) -> u64 {
        u64::from(entry) * SECTOR_BYTES
    }

    /// Where `entry`'s data lie.
    #[inline]
    pub(crate) fn data_at(self, entry: u32) -> u64 {
        Self::bitmap_at(entry) + self.bitmap_bytes() as u64
    }

    /// Where `entry`'s slot ends.
    pub(crate) fn slot_end(self, entry: u32) -> u64 {
        self.data_at(entry) + self.block_bytes()
    }

    /// Bytes of the page or pages that pad and bitmap share in a slot of ours.
    pub(crate) fn head_bytes(self) -> u64 {
        (self.bitmap_bytes() as u64).next_multiple_of(PAGE)
    }

    /// Bytes from one slot of ours to the next.
    pub(crate) fn stride(self) -> u64 {
        self.head_bytes() + self.block_bytes()
    }

    /// The entry for a slot of ours at `start`; `None` where it does not fit an entry.
    pub(crate) fn entry_of(self, start: u64) -> Option<u32> {
        let entry = (start + self.head_bytes() - self.bitmap_bytes() as u64) / SECTOR_BYTES;
        u32::try_from(entry)
            .ok()
            .filter(|&entry| entry != crate::layout::BAT_UNUSED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bitmaps_are_whole_sectors() {
        assert_eq!(Shape::new(1 << 20, 4096).bitmap_bytes(), 512);
        assert_eq!(Shape::new(1 << 20, 2 << 20).bitmap_bytes(), 512);
        assert_eq!(Shape::new(1 << 20, 4 << 20).bitmap_bytes(), 1024);
        assert_eq!(Shape::new(1 << 30, 256 << 20).bitmap_bytes(), 64 << 10);
    }

    #[test]
    fn the_last_block_may_be_partial() {
        let shape = Shape::new((5 << 20) + 512, 2 << 20);
        assert_eq!(shape.blocks(), 3);
        assert_eq!(shape.sectors_in(1), 4096);
        assert_eq!(shape.sectors_in(2), 2049);
        assert_eq!(shape.sectors_in(3), 0);
    }

    #[test]
    fn our_slots_put_their_data_on_a_page() {
        for block in [4096, 1 << 16, 2 << 20, 32 << 20, 256 << 20] {
            let shape = Shape::new(1 << 30, block);
            let entry = shape.entry_of(3 * PAGE).unwrap();
            assert_eq!(shape.data_at(entry) % PAGE, 0, "{block}");
            assert_eq!(shape.slot_end(entry), 3 * PAGE + shape.stride());
        }
    }

    #[test]
    fn no_entry_reaches_past_2_tib() {
        let shape = Shape::new(1 << 30, 2 << 20);
        assert_eq!(shape.entry_of((1 << 41) - 4096), None);
        assert_eq!(shape.entry_of((1 << 41) - 8192), Some(0xFFFF_FFF7));
    }
}
