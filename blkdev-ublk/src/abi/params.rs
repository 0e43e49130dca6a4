//! What a block device can take (`struct ublk_params`), made from a device's [`Limits`].
//!
//! ```text
//!   0 length, types │ 8 basic: attributes, shifts, sizes │ 40 discard │ 60 numbers of the nodes, zones │ 108 alignment │ … 120
//! ```

use iomgr_core::{Limits, SECTOR_BYTES, SectorCount};

use super::bytes::{Put, Take};
use crate::SECTORS_MAX_DISCARD;

bitflags::bitflags! {
    /// What the kernel does on account of the device (`UBLK_ATTR_*`).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Attributes: u32 {
        /// Writes are refused.
        const READ_ONLY = 1 << 0;
        /// Seeks cost.
        const ROTATIONAL = 1 << 1;
        /// There is something to flush. Without it no flush is ever sent.
        const VOLATILE_CACHE = 1 << 2;
        /// Writes may ask to be durable; else the kernel sends a flush after them.
        const FUA = 1 << 3;
        const _ = !0;
    }
}

/// What a block device can take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Params {
    /// What the kernel does on its account.
    pub attributes: Attributes,
    /// Smallest unit of I/O, as a power of two.
    pub logical_block_shift: u8,
    /// Unit without read-modify-write, as a power of two.
    pub physical_block_shift: u8,
    /// Best size of I/O, as a power of two; 0 for none.
    pub io_opt_shift: u8,
    /// Smallest size of I/O that is no loss, as a power of two.
    pub io_min_shift: u8,
    /// Sectors of the largest read or write.
    pub max_sectors: u32,
    /// Size.
    pub size: SectorCount,
    /// Discards and write-zeroes; the kernel does without if there is none.
    pub discard: Option<DiscardParams>,
    /// How the memory of requests is aligned, as a mask; the kernel's own choice, if there is none.
    pub dma_alignment: Option<u32>,
}

/// What the kernel may do besides reading and writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiscardParams {
    /// Unit in which space is given back.
    pub granularity_bytes: u32,
    /// Sectors of the largest discard; 0 for none at all.
    pub max_discard_sectors: u32,
    /// Sectors of the largest write-zeroes; 0 for none at all.
    pub max_write_zeroes_sectors: u32,
}

/// `UBLK_PARAM_TYPE_BASIC`.
const TYPE_BASIC: u32 = 1 << 0;
/// `UBLK_PARAM_TYPE_DISCARD`.
const TYPE_DISCARD: u32 = 1 << 1;
const BASIC: usize = 8;
/// `UBLK_PARAM_TYPE_DMA_ALIGN`.
const TYPE_DMA_ALIGNMENT: u32 = 1 << 4;
const DISCARD: usize = 40;
const DMA_ALIGNMENT: usize = 108;

impl Params {
    /// Of the kernel's structure, as far as it is used here; newer kernels have more.
    pub(crate) const BYTES: usize = 120;

    /// What is true of a device with these limits, for requests of at most `buffer_bytes`.
    ///
    /// # Panics
    /// If a block size is no power of two from 512, which [`Limits`] promises.
    pub fn of(limits: &Limits, buffer_bytes: u32) -> Self {
        let physical_block_shift = shift(limits.physical_block_bytes.max(limits.logical_block_bytes));
        let mut attributes = Attributes::empty();
        attributes.set(Attributes::READ_ONLY, limits.read_only);
        attributes.set(Attributes::ROTATIONAL, limits.rotational);
        attributes.set(Attributes::VOLATILE_CACHE | Attributes::FUA, limits.volatile_cache);
        Self {
            attributes,
            logical_block_shift: shift(limits.logical_block_bytes),
            physical_block_shift,
            io_opt_shift: match limits.optimal_io_bytes {
                bytes if bytes.is_power_of_two() => shift(bytes),
                _ => 0,
            },
            io_min_shift: physical_block_shift,
            max_sectors: buffer_bytes / sector_bytes(),
            size: limits.size,
            discard: (!limits.read_only).then(|| DiscardParams::of(limits)),
            dma_alignment: None,
        }
    }

    /// As the kernel takes it.
    pub(crate) fn emit(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[BASIC + 4..BASIC + 8].copy_from_slice(&[
            self.logical_block_shift,
            self.physical_block_shift,
            self.io_opt_shift,
            self.io_min_shift,
        ]);
        let mut put = Put(&mut bytes);
        put.u32(0, u32::try_from(Self::BYTES).expect("it is small"));
        put.u32(BASIC, self.attributes.bits());
        put.u32(BASIC + 8, self.max_sectors);
        put.u64(BASIC + 16, self.size.0);
        let mut types = TYPE_BASIC;
        if let Some(discard) = self.discard {
            types |= TYPE_DISCARD;
            put.u32(DISCARD + 4, discard.granularity_bytes);
            put.u32(DISCARD + 8, discard.max_discard_sectors);
            put.u32(DISCARD + 12, discard.max_write_zeroes_sectors);
            put.u16(DISCARD + 16, u16::from(discard.max_discard_sectors > 0));
        }
        if let Some(mask) = self.dma_alignment {
            types |= TYPE_DMA_ALIGNMENT;
            put.u32(DMA_ALIGNMENT, mask);
        }
        put.u32(4, types);
        bytes
    }

    /// As the kernel tells it.
    ///
    /// # Panics
    /// If there are fewer than [`Self::BYTES`].
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let take = Take(bytes);
        let discard = DiscardParams {
            granularity_bytes: take.u32(DISCARD + 4),
            max_discard_sectors: take.u32(DISCARD + 8),
            max_write_zeroes_sectors: take.u32(DISCARD + 12),
        };
        let types = take.u32(4);
        Self {
            attributes: Attributes::from_bits_retain(take.u32(BASIC)),
            logical_block_shift: bytes[BASIC + 4],
            physical_block_shift: bytes[BASIC + 5],
            io_opt_shift: bytes[BASIC + 6],
            io_min_shift: bytes[BASIC + 7],
            max_sectors: take.u32(BASIC + 8),
            size: SectorCount(take.u64(BASIC + 16)),
            discard: (types & TYPE_DISCARD != 0).then_some(discard),
            dma_alignment: (types & TYPE_DMA_ALIGNMENT != 0).then(|| take.u32(DMA_ALIGNMENT)),
        }
    }
}

impl DiscardParams {
    /// Zeros can always be written; a discard is offered only where it gives something back.
    fn of(limits: &Limits) -> Self {
        let unit = limits
            .discard_granularity_bytes
            .max(limits.optimal_io_bytes)
            .max(limits.physical_block_bytes)
            .max(limits.logical_block_bytes);
        let sectors = unit / sector_bytes();
        // Long ones are cut by the kernel: in whole units, so that none is cut in two.
        let most = SECTORS_MAX_DISCARD / sectors * sectors;
        let can_discard = limits.discard_granularity_bytes > 0;
        Self {
            granularity_bytes: match can_discard {
                true => limits.discard_granularity_bytes,
                // The kernel takes no 0, whatever it is for.
                false => limits.logical_block_bytes,
            },
            max_discard_sectors: if can_discard { most } else { 0 },
            max_write_zeroes_sectors: most,
        }
    }
}

fn shift(bytes: u32) -> u8 {
    assert!(bytes.is_power_of_two(), "block sizes are powers of two");
    u8::try_from(bytes.trailing_zeros()).expect("at most 31")
}

fn sector_bytes() -> u32 {
    u32::try_from(SECTOR_BYTES).expect("512")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits {
            size: SectorCount(2048),
            logical_block_bytes: 512,
            physical_block_bytes: 4096,
            optimal_io_bytes: 2 << 20,
            discard_granularity_bytes: 4096,
            read_only: false,
            volatile_cache: true,
            needs_bytes: false,
            rotational: false,
        }
    }

    #[test]
    fn limits_are_told_as_they_are() {
        let params = Params::of(&limits(), 512 << 10);
        assert_eq!(params.attributes, Attributes::VOLATILE_CACHE | Attributes::FUA);
        assert_eq!((params.logical_block_shift, params.physical_block_shift), (9, 12));
        assert_eq!(
            (params.io_opt_shift, params.max_sectors, params.size.0),
            (21, 1024, 2048)
        );
        assert_eq!(Params::parse(&params.emit()), params);
    }

    /// Without a cache no flush would ever come, and none is asked for; a device that is only read takes nothing else.
    #[test]
    fn what_a_device_does_not_have_is_not_advertised() {
        let bare = Limits {
            volatile_cache: false,
            read_only: true,
            rotational: true,
            ..limits()
        };
        let params = Params::of(&bare, 4096);
        assert_eq!(params.attributes, Attributes::READ_ONLY | Attributes::ROTATIONAL);
        assert_eq!(params.discard, None);
        assert_eq!(Params::parse(&params.emit()), params);
    }

    #[test]
    fn discards_are_cut_in_whole_units_below_the_bound() {
        let discard = Params::of(&limits(), 4096).discard.unwrap();
        assert!(discard.max_discard_sectors <= SECTORS_MAX_DISCARD);
        assert_eq!(discard.max_discard_sectors % 4096, 0, "2 MiB is 4096 sectors");
        assert_eq!(discard.max_write_zeroes_sectors, discard.max_discard_sectors);
    }

    /// The kernel refuses a granularity of 0, also where only zeros are written.
    #[test]
    fn zeros_can_be_written_where_nothing_is_given_back() {
        let limits = Limits {
            discard_granularity_bytes: 0,
            ..limits()
        };
        let discard = Params::of(&limits, 4096).discard.unwrap();
        assert_eq!((discard.max_discard_sectors, discard.granularity_bytes), (0, 512));
        assert!(discard.max_write_zeroes_sectors > 0);
    }
}
