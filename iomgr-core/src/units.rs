//! Sectors: positions, lengths and ranges. A sector is 512 bytes, always, whatever a device's logical block size is.

use std::fmt;

/// Bytes in a sector.
pub const SECTOR_BYTES: u64 = 1 << SECTOR_SHIFT;
/// log2 of [`SECTOR_BYTES`].
pub const SECTOR_SHIFT: u32 = 9;

/// A position on a device, in sectors from its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sector(pub u64);

/// A length, in sectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SectorCount(pub u64);

/// A run of sectors on one device. `start + count` never overflows: [`SectorRange::new`] refuses such a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SectorRange {
    start: Sector,
    count: SectorCount,
}

impl Sector {
    /// The sector that holds byte `offset`, if `offset` is the first byte of a sector.
    pub fn from_bytes(offset: u64) -> Option<Self> {
        offset
            .is_multiple_of(SECTOR_BYTES)
            .then_some(Self(offset >> SECTOR_SHIFT))
    }

    /// The position in bytes; `None` where it does not fit 64 bits.
    pub fn bytes(self) -> Option<u64> {
        self.0.checked_mul(SECTOR_BYTES)
    }
}

impl SectorCount {
    /// No sectors.
    pub const ZERO: Self = Self(0);

    /// The count that `bytes` make, if they are whole sectors.
    pub fn from_bytes(bytes: u64) -> Option<Self> {
        bytes
            .is_multiple_of(SECTOR_BYTES)
            .then_some(Self(bytes >> SECTOR_SHIFT))
    }

    /// The count that fits whole into `bytes`; a tail shorter than a sector is cut off.
    pub fn from_bytes_floor(bytes: u64) -> Self {
        Self(bytes >> SECTOR_SHIFT)
    }

    /// The length in bytes; `None` where it does not fit 64 bits.
    pub fn bytes(self) -> Option<u64> {
        self.0.checked_mul(SECTOR_BYTES)
    }

    /// Is it no sector at all?
    pub fn is_zero(self) -> bool {
        self.0 == 0
    }
}

impl SectorRange {
    /// `count` sectors from `start`; `None` where the end, in bytes, does not fit 64 bits.
    pub fn new(start: Sector, count: SectorCount) -> Option<Self> {
        Sector(start.0.checked_add(count.0)?).bytes()?;
        Some(Self { start, count })
    }

    /// The first sector.
    pub fn start(self) -> Sector {
        self.start
    }

    /// How many sectors.
    pub fn count(self) -> SectorCount {
        self.count
    }

    /// The first sector behind the range.
    pub fn end(self) -> Sector {
        Sector(self.start.0 + self.count.0)
    }

    /// The start in bytes.
    pub fn offset_bytes(self) -> u64 {
        self.start.0 << SECTOR_SHIFT
    }

    /// The length in bytes.
    pub fn len_bytes(self) -> u64 {
        self.count.0 << SECTOR_SHIFT
    }

    /// Is it empty?
    pub fn is_empty(self) -> bool {
        self.count.is_zero()
    }

    /// Does any sector belong to both?
    pub fn overlaps(self, other: Self) -> bool {
        !self.is_empty() && !other.is_empty() && self.start < other.end() && other.start < self.end()
    }

    /// Does all of it lie on a device of `size`?
    pub fn fits(self, size: SectorCount) -> bool {
        self.end().0 <= size.0
    }
}

impl fmt::Display for Sector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sector {}", self.0)
    }
}

impl fmt::Display for SectorRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sectors {}+{}", self.start.0, self.count.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, count: u64) -> SectorRange {
        SectorRange::new(Sector(start), SectorCount(count)).unwrap()
    }

    #[test]
    fn a_range_past_64_bits_of_bytes_is_refused() {
        assert_eq!(SectorRange::new(Sector(u64::MAX), SectorCount(1)), None);
        assert_eq!(SectorRange::new(Sector((u64::MAX >> 9) + 1), SectorCount(0)), None);
        assert!(SectorRange::new(Sector(u64::MAX >> 9), SectorCount(0)).is_some());
    }

    #[test]
    fn touching_ranges_do_not_overlap() {
        assert!(!range(0, 8).overlaps(range(8, 8)));
        assert!(range(0, 9).overlaps(range(8, 8)));
        assert!(!range(4, 0).overlaps(range(0, 8)));
    }

    #[test]
    fn only_whole_sectors_convert() {
        assert_eq!(SectorCount::from_bytes(1000), None);
        assert_eq!(SectorCount::from_bytes_floor(1000), SectorCount(1));
        assert_eq!(Sector::from_bytes(1024), Some(Sector(2)));
    }

    #[test]
    fn a_range_fits_up_to_the_last_sector() {
        assert!(range(6, 2).fits(SectorCount(8)));
        assert!(!range(7, 2).fits(SectorCount(8)));
    }
}
