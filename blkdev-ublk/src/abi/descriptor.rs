//! A request, as the kernel hands it over (`struct ublksrv_io_desc`).

use iomgr_core::{Operation, RequestFlags, Sector, SectorCount, SectorRange};

use super::bytes::{Put, Take};
use crate::{IO_DESC_BYTES, IoOp};

/// A request. Its data lie in the buffer that was given when it was fetched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Descriptor {
    /// `UBLK_IO_OP_*`, and flags above it.
    pub op_flags: u32,
    /// How many sectors, of 512 bytes whatever the logical block size is.
    pub sectors: u32,
    /// The first of them.
    pub start_sector: u64,
}

const _: () = assert!(Descriptor::BYTES as u64 == IO_DESC_BYTES);

/// `UBLK_IO_F_FUA`.
const FUA: u32 = 1 << 13;
/// `UBLK_IO_F_NOUNMAP`.
const NO_UNMAP: u32 = 1 << 15;

impl Descriptor {
    /// Of the kernel's structure.
    pub(crate) const BYTES: usize = 24;

    /// As the kernel tells it.
    pub(crate) fn parse(bytes: &[u8; Self::BYTES]) -> Self {
        let take = Take(bytes);
        Self {
            op_flags: take.u32(0),
            sectors: take.u32(4),
            start_sector: take.u64(8),
        }
    }

    /// As the kernel would tell it.
    #[cfg_attr(not(test), expect(dead_code, reason = "only a kernel writes one"))]
    pub(crate) fn emit(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let mut put = Put(&mut bytes);
        put.u32(0, self.op_flags);
        put.u32(4, self.sectors);
        put.u64(8, self.start_sector);
        bytes
    }

    /// What is asked for; `None` for what this server does not do.
    pub(crate) fn op(&self) -> Option<IoOp> {
        IoOp::from_descriptor(self.op_flags)
    }

    /// How.
    pub(crate) fn flags(&self) -> RequestFlags {
        let mut flags = RequestFlags::empty();
        flags.set(RequestFlags::FUA, self.op_flags & FUA != 0);
        flags.set(RequestFlags::NO_UNMAP, self.op_flags & NO_UNMAP != 0);
        flags
    }

    /// Where; `None` if that is nowhere. A flush has no sectors.
    pub(crate) fn range(&self) -> Option<SectorRange> {
        match self.op() {
            Some(IoOp::Flush) => SectorRange::new(Sector(0), SectorCount::ZERO),
            _ => SectorRange::new(Sector(self.start_sector), SectorCount(self.sectors.into())),
        }
    }
}

impl From<IoOp> for Operation {
    fn from(op: IoOp) -> Self {
        match op {
            IoOp::Read => Self::Read,
            IoOp::Write => Self::Write,
            IoOp::Flush => Self::Flush,
            IoOp::Discard => Self::Discard,
            IoOp::WriteZeroes => Self::WriteZeroes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_is_op_flags_and_sectors_of_512_bytes() {
        let descriptor = Descriptor {
            op_flags: IoOp::WriteZeroes as u32 | NO_UNMAP | 1 << 11,
            sectors: 8,
            start_sector: 16,
        };
        assert_eq!(Descriptor::parse(&descriptor.emit()), descriptor);
        assert_eq!(
            descriptor.flags(),
            RequestFlags::NO_UNMAP,
            "what is not known is no flag"
        );
        let range = descriptor.range().unwrap();
        assert_eq!((range.offset_bytes(), range.len_bytes()), (8192, 4096));
    }

    #[test]
    fn a_flush_has_no_sectors_and_a_range_must_exist() {
        let flush = Descriptor {
            op_flags: IoOp::Flush as u32,
            sectors: 8,
            start_sector: u64::MAX,
        };
        assert!(flush.range().unwrap().is_empty());
        let nowhere = Descriptor { op_flags: 0, ..flush };
        assert_eq!(nowhere.range(), None);
    }
}
