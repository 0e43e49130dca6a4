//! What a client is told about an export: size, flags, block sizes.

use std::fmt;

use iomgr_core::Limits;

use super::PAYLOAD_BYTES_MAX;

bitflags::bitflags! {
    /// What the server offers for an export during transmission.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct TransmissionFlags: u16 {
        /// Always set.
        const HAS_FLAGS = 1 << 0;
        /// Writes are refused with `EPERM`.
        const READ_ONLY = 1 << 1;
        /// `FLUSH` is served.
        const SEND_FLUSH = 1 << 2;
        /// The FUA flag is honoured.
        const SEND_FUA = 1 << 3;
        /// Seeks cost.
        const ROTATIONAL = 1 << 4;
        /// `TRIM` is served.
        const SEND_TRIM = 1 << 5;
        /// `WRITE_ZEROES` is served.
        const SEND_WRITE_ZEROES = 1 << 6;
        /// The DF flag is honoured (structured replies only).
        const SEND_DF = 1 << 7;
        /// A flush on one connection covers the writes acknowledged on all of them.
        const CAN_MULTI_CONN = 1 << 8;
        /// `CACHE` is served.
        const SEND_CACHE = 1 << 10;
        /// `WRITE_ZEROES` with the `FAST_ZERO` flag is served.
        const SEND_FAST_ZERO = 1 << 11;
    }
}

/// Block size constraints, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockSizes {
    /// Offsets and lengths are multiples of it.
    pub min: u32,
    /// Best unit.
    pub preferred: u32,
    /// The largest payload.
    pub max: u32,
}

/// What is announced of an export when a client asks, and holds for the connection from then on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExportFacts {
    /// Size in bytes.
    pub size_bytes: u64,
    /// What is served.
    pub flags: TransmissionFlags,
    /// Block size constraints.
    pub blocks: BlockSizes,
}

impl ExportFacts {
    /// The facts of a device, for a server that takes payloads up to `payload_max` bytes.
    ///
    /// `SEND_FAST_ZERO` says that the question may be asked: a device that cannot zero without writing answers `ENOTSUP`.
    pub fn of_device(limits: &Limits, payload_max: u32) -> Self {
        let mut flags = TransmissionFlags::HAS_FLAGS
            | TransmissionFlags::SEND_FLUSH
            | TransmissionFlags::SEND_FUA
            | TransmissionFlags::SEND_CACHE
            | TransmissionFlags::CAN_MULTI_CONN;
        flags.set(TransmissionFlags::READ_ONLY, limits.read_only);
        flags.set(TransmissionFlags::ROTATIONAL, limits.rotational);
        let zeroes = TransmissionFlags::SEND_WRITE_ZEROES | TransmissionFlags::SEND_FAST_ZERO;
        flags.set(zeroes, !limits.read_only);
        let trims = !limits.read_only && limits.discard_granularity_bytes > 0;
        flags.set(TransmissionFlags::SEND_TRIM, trims);
        Self {
            // A size that does not fit 64 bits cannot be announced, so it is cut; no device is that large.
            size_bytes: limits.size.bytes().unwrap_or(1 << 63),
            flags,
            blocks: BlockSizes::of_device(limits, payload_max.min(PAYLOAD_BYTES_MAX)),
        }
    }
}

/// What a handshake came to: the export of a connection, and how it is spoken of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// Which export.
    pub export: ExportId,
    /// What was announced of it.
    pub facts: ExportFacts,
    /// Replies are structured.
    pub structured: bool,
    /// The context `base:allocation` was chosen: `BLOCK_STATUS` is served.
    pub allocation: bool,
}

impl BlockSizes {
    fn of_device(limits: &Limits, max: u32) -> Self {
        let min = limits.logical_block_bytes.max(512);
        // The preferred size must be a power of two between the other two.
        let physical = limits.physical_block_bytes.max(4096).next_power_of_two();
        Self {
            min,
            preferred: physical.clamp(min, max.max(min)),
            max: max.max(min),
        }
    }
}

/// The number of an export: those that come later have larger ones, and none is ever used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExportId(pub usize);

/// The exports of a server, as the handshake sees them. They may come and go from one call to the next; of one that is gone,
/// nothing is known. The first is the default: the empty name finds it.
pub trait Catalog {
    /// How many exports there are.
    fn count(&self) -> usize;

    /// The first export from this number on.
    fn next(&self, from: ExportId) -> Option<ExportId>;

    /// The name of an export, at most [`NAME_BYTES_MAX`](super::NAME_BYTES_MAX) bytes.
    fn name(&self, id: ExportId) -> Option<&str>;

    /// Its description for people, empty where there is none; at most [`NAME_BYTES_MAX`](super::NAME_BYTES_MAX) bytes.
    fn description(&self, id: ExportId) -> Option<&str>;

    /// Its facts as of now.
    fn facts(&self, id: ExportId) -> Option<ExportFacts>;

    /// The export of that name.
    fn find(&self, name: &[u8]) -> Option<ExportId> {
        let first = self.next(ExportId(0));
        let mut all = std::iter::successors(first, |id| self.next(id.after()));
        let exact = all.find(|id| self.name(*id).is_some_and(|other| other.as_bytes() == name));
        exact.or(first.filter(|_| name.is_empty()))
    }
}

impl ExportId {
    /// The number that the next export may have.
    pub fn after(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for ExportId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "export {}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use iomgr_core::SectorCount;

    const LIMITS: Limits = Limits {
        size: SectorCount(2048),
        logical_block_bytes: 512,
        physical_block_bytes: 512,
        optimal_io_bytes: 0,
        discard_granularity_bytes: 0,
        read_only: false,
        volatile_cache: true,
        needs_bytes: false,
        rotational: false,
    };

    #[test]
    fn a_device_without_discard_offers_no_trim() {
        let facts = ExportFacts::of_device(&LIMITS, u32::MAX);
        assert!(!facts.flags.contains(TransmissionFlags::SEND_TRIM));
        assert!(facts.flags.contains(TransmissionFlags::SEND_WRITE_ZEROES));
        let blocks = BlockSizes {
            min: 512,
            preferred: 4096,
            max: 32 << 20,
        };
        assert_eq!(facts.blocks, blocks);
    }

    #[test]
    fn a_read_only_device_offers_nothing_that_writes() {
        let limits = Limits {
            read_only: true,
            discard_granularity_bytes: 512,
            ..LIMITS
        };
        let flags = ExportFacts::of_device(&limits, 1 << 20).flags;
        assert!(flags.contains(TransmissionFlags::READ_ONLY));
        assert!(!flags.intersects(TransmissionFlags::SEND_TRIM | TransmissionFlags::SEND_WRITE_ZEROES));
        assert!(!flags.contains(TransmissionFlags::SEND_FAST_ZERO));
    }

    #[test]
    fn the_preferred_size_lies_between_the_others() {
        let limits = Limits {
            logical_block_bytes: 8192,
            physical_block_bytes: 3 << 20,
            ..LIMITS
        };
        let blocks = ExportFacts::of_device(&limits, 1 << 20).blocks;
        assert_eq!(
            blocks,
            BlockSizes {
                min: 8192,
                preferred: 1 << 20,
                max: 1 << 20
            }
        );
    }
}
