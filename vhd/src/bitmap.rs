//! Sector bitmaps: most significant bit first, 1 for a sector that is in the block; and a cache of them per queue.

use iomgr_core::{Sector, SectorCount};

use crate::map::{BitmapRef, Extent, Map};

/// A run of equal bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) set: bool,
    pub(crate) count: u64,
}

/// The run of equal bits that begins at bit `from`; it ends at `end` at the latest.
pub(crate) fn run_at(bits: &[u8], from: u64, end: u64) -> Run {
    let set = bit(bits, from);
    let same = if set { 0xFF } else { 0 };
    let mut at = from;
    while at < end {
        // Whole bytes at once where they are all the same.
        if at.is_multiple_of(8) && at + 8 <= end && bits[byte_index(at)] == same {
            at += 8;
        } else if bit(bits, at) == set {
            at += 1;
        } else {
            break;
        }
    }
    Run { set, count: at - from }
}

fn bit(bits: &[u8], at: u64) -> bool {
    bits[byte_index(at)] & (0x80 >> (at % 8)) != 0
}

fn byte_index(bit: u64) -> usize {
    usize::try_from(bit / 8).expect("bit numbers are bounded by a bitmap's 64 KiB")
}

/// Bitmaps that one queue thread has read, in a fixed amount of memory; the one not used for longest makes room.
///
/// A bitmap is found only for the mapping that it was read of: a block that got another slot since misses. Bitmaps of
/// full blocks are not asked for any more, so only foreign, partly written blocks take places here.
#[derive(Debug)]
pub struct BitmapCache {
    refs: Box<[Option<BitmapRef>]>,
    used: Box<[u64]>,
    bytes: Box<[u8]>,
    each: usize,
    clock: u64,
}

impl BitmapCache {
    /// Room for as many bitmaps of `map` as `bytes` hold, and for one at least. Nothing is allocated afterwards.
    pub fn new(map: &Map, bytes: usize) -> Self {
        let each = map.shape().bitmap_bytes();
        let places = (bytes / each).max(1);
        Self {
            refs: vec![None; places].into(),
            used: vec![0; places].into(),
            bytes: vec![0; places * each].into(),
            each,
            clock: 0,
        }
    }

    /// [`Map::lookup`], answered further where the bitmap is here: `NeedBitmap` comes back only for one that is not.
    /// For reading; who writes asks the map itself.
    #[inline]
    pub fn lookup(&mut self, map: &Map, sector: Sector, max: SectorCount) -> Extent {
        let extent = map.lookup(sector, max);
        let Extent::NeedBitmap { bitmap, count } = extent else {
            return extent;
        };
        match self.find(bitmap) {
            Some(bytes) => map.extent_in(bitmap, bytes, sector, count),
            None => extent,
        }
    }

    /// Takes in the bytes of a bitmap that was read. One without a clear bit goes to the map, and needs no place.
    ///
    /// # Panics
    /// If there are not `of.len` bytes.
    pub fn insert(&mut self, map: &Map, of: BitmapRef, bytes: &[u8]) {
        map.learn(of, bytes);
        if !map.still_has(of) {
            return; // full, or of another slot by now: nobody will ask
        }
        let place = self.place_for(of);
        self.clock += 1;
        self.refs[place] = Some(of);
        self.used[place] = self.clock;
        self.bytes[place * self.each..][..self.each].copy_from_slice(bytes);
    }

    fn find(&mut self, of: BitmapRef) -> Option<&[u8]> {
        let place = self.refs.iter().position(|held| *held == Some(of))?;
        self.clock += 1;
        self.used[place] = self.clock;
        Some(&self.bytes[place * self.each..][..self.each])
    }

    fn place_for(&self, of: BitmapRef) -> usize {
        let same_block = |held: &Option<BitmapRef>| held.is_some_and(|held| held.block == of.block);
        let oldest = || (0..self.used.len()).min_by_key(|&place| self.used[place]);
        self.refs
            .iter()
            .position(same_block)
            .or_else(oldest)
            .expect("a cache has a place")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::Slot;
    use crate::shape::Shape;

    #[test]
    fn runs_end_at_a_change_or_at_the_end() {
        let bits = [0b0000_1110, 0xFF, 0xFF, 0b1000_0000];
        assert_eq!(run_at(&bits, 0, 32), Run { set: false, count: 4 });
        assert_eq!(run_at(&bits, 4, 32), Run { set: true, count: 3 });
        assert_eq!(run_at(&bits, 7, 32), Run { set: false, count: 1 });
        assert_eq!(run_at(&bits, 8, 32), Run { set: true, count: 17 });
        assert_eq!(run_at(&bits, 8, 20), Run { set: true, count: 12 });
        assert_eq!(run_at(&bits, 25, 32), Run { set: false, count: 7 });
    }

    fn map() -> Map {
        Map::new(Shape::new(3 * 4096, 4096), [9, 20, 40].into_iter())
    }

    fn bits(first: u8) -> [u8; 512] {
        let mut bits = [0; 512];
        bits[0] = first;
        bits
    }

    #[test]
    fn a_held_bitmap_answers_and_a_new_slot_misses() {
        let map = map();
        let mut cache = BitmapCache::new(&map, 1024);
        cache.insert(&map, map.bitmap_of(0), &bits(0x80));
        let count = SectorCount(1);
        assert_eq!(
            cache.lookup(&map, Sector(0), SectorCount(8)),
            Extent::Data {
                file_offset: 5120,
                count
            }
        );
        map.publish(0, Slot::Partial(60));
        assert!(matches!(
            cache.lookup(&map, Sector(0), SectorCount(8)),
            Extent::NeedBitmap { .. }
        ));
    }

    #[test]
    fn the_least_recently_used_makes_room() {
        let map = map();
        let mut cache = BitmapCache::new(&map, 1024);
        cache.insert(&map, map.bitmap_of(0), &bits(0x80));
        cache.insert(&map, map.bitmap_of(1), &bits(0x80));
        cache.lookup(&map, Sector(0), SectorCount(1));
        cache.insert(&map, map.bitmap_of(2), &bits(0x80));
        assert!(matches!(
            cache.lookup(&map, Sector(0), SectorCount(1)),
            Extent::Data { .. }
        ));
        assert!(matches!(
            cache.lookup(&map, Sector(8), SectorCount(1)),
            Extent::NeedBitmap { .. }
        ));
        assert!(matches!(
            cache.lookup(&map, Sector(16), SectorCount(1)),
            Extent::Data { .. }
        ));
    }

    #[test]
    fn a_cache_smaller_than_a_bitmap_still_holds_one() {
        let map = map();
        let mut cache = BitmapCache::new(&map, 0);
        cache.insert(&map, map.bitmap_of(2), &bits(0x40));
        assert_eq!(
            cache.lookup(&map, Sector(16), SectorCount(9)),
            Extent::Zero { count: SectorCount(1) }
        );
    }
}
