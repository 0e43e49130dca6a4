//! Numbers, names and structures that the kernel fixes.

mod bytes;
mod command;
mod descriptor;
mod info;
mod params;

pub(crate) use command::{ControlOp, QueueOp, control_command, queue_command, registered_at};
pub use descriptor::Descriptor;
pub use info::{DeviceInfo, DeviceState};
pub use params::{Attributes, DiscardParams, Params};

use std::path::PathBuf;

/// The control device.
pub const CONTROL_PATH: &str = "/dev/ublk-control";

/// Most tags of a queue (`UBLK_MAX_QUEUE_DEPTH`).
pub const MAX_QUEUE_DEPTH: u16 = 4096;

/// Bytes of one request's descriptor in the area that the kernel shares with the server (`struct ublksrv_io_desc`).
pub const IO_DESC_BYTES: u64 = 24;

/// Most sectors of a discard or write-zeroes: its length in bytes, a multiple of 512, has to fit 32 bits.
pub const SECTORS_MAX_DISCARD: u32 = u32::MAX >> 9;

/// The block device that users see.
pub fn block_path(device: u32) -> PathBuf {
    format!("/dev/ublkb{device}").into()
}

/// The character device that the server serves.
pub fn char_path(device: u32) -> PathBuf {
    format!("/dev/ublkc{device}").into()
}

/// Where the descriptors of `queue` begin in the mapping of [`char_path`]. The stride follows the greatest depth, whatever
/// the queue's own is, in whole pages.
pub fn descriptors_offset(queue: u16, page_bytes: u64) -> u64 {
    let stride = (u64::from(MAX_QUEUE_DEPTH) * IO_DESC_BYTES).next_multiple_of(page_bytes);
    u64::from(queue) * stride
}

/// What a request's descriptor asks for (`UBLK_IO_OP_*`): the low 8 bits of its first word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum IoOp {
    /// `UBLK_IO_OP_READ`
    Read = 0,
    /// `UBLK_IO_OP_WRITE`
    Write = 1,
    /// `UBLK_IO_OP_FLUSH`
    Flush = 2,
    /// `UBLK_IO_OP_DISCARD`
    Discard = 3,
    /// `UBLK_IO_OP_WRITE_ZEROES`
    WriteZeroes = 5,
}

impl IoOp {
    /// Reads it out of a descriptor's first word, whose upper bits are flags. `None` for what this server does not do.
    pub fn from_descriptor(op_flags: u32) -> Option<Self> {
        [Self::Read, Self::Write, Self::Flush, Self::Discard, Self::WriteZeroes]
            .into_iter()
            .find(|op| *op as u32 == op_flags & 0xff)
    }

    /// What to commit when all of a request of `bytes` was done: its length where data moved, else 0.
    pub fn success(self, bytes: u32) -> u32 {
        match self {
            Self::Read | Self::Write => bytes,
            Self::Flush | Self::Discard | Self::WriteZeroes => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stride_of_descriptors_follows_the_greatest_depth() {
        assert_eq!(descriptors_offset(1, 4096), 98304);
        assert_eq!(descriptors_offset(3, 65536), 3 * 131_072);
    }

    #[test]
    fn an_op_is_the_low_byte_and_unknown_ones_are_refused() {
        assert_eq!(IoOp::from_descriptor(1 << 13 | 1), Some(IoOp::Write));
        assert_eq!(IoOp::from_descriptor(4), None, "write-same");
        assert_eq!(IoOp::from_descriptor(5), Some(IoOp::WriteZeroes));
    }

    #[test]
    fn only_data_is_committed_with_its_length() {
        assert_eq!(IoOp::Read.success(4096), 4096);
        assert_eq!(IoOp::WriteZeroes.success(4096), 0);
    }

    #[test]
    fn names_carry_the_number() {
        assert_eq!(block_path(7).to_str(), Some("/dev/ublkb7"));
        assert_eq!(char_path(0).to_str(), Some("/dev/ublkc0"));
    }
}
