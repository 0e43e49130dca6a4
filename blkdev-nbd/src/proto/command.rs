//! Commands and simple replies on the wire.
//!
//! ```text
//!  command  | magic u32 | flags u16 | type u16 | cookie u64 | offset u64 | length u32 | a write's payload …
//!  reply    | magic u32 | error u32 | cookie u64 | a good read's payload …
//! ```

use super::{COMMAND_MAGIC, NbdError, SIMPLE_REPLY_MAGIC, Violation, Writer, be16, be32, be64};

/// What a client may ask for during transmission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum CommandType {
    /// Read.
    Read = 0,
    /// Write; the payload follows.
    Write = 1,
    /// Disconnect, without a reply.
    Disc = 2,
    /// Flush.
    Flush = 3,
    /// Discard.
    Trim = 4,
    /// Get into memory what will be read soon.
    Cache = 5,
    /// Write zeros.
    WriteZeroes = 6,
    /// Tell what is a hole and what reads as zeros.
    BlockStatus = 7,
}

impl CommandType {
    /// The command of that number, if it is one that is known here.
    pub fn from_wire(code: u16) -> Option<Self> {
        match code {
            0 => Some(Self::Read),
            1 => Some(Self::Write),
            2 => Some(Self::Disc),
            3 => Some(Self::Flush),
            4 => Some(Self::Trim),
            5 => Some(Self::Cache),
            6 => Some(Self::WriteZeroes),
            7 => Some(Self::BlockStatus),
            _ => None,
        }
    }
}

bitflags::bitflags! {
    /// Modifiers of a command.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct CommandFlags: u16 {
        /// Answer only when what was written survives a power cut.
        const FUA = 1 << 0;
        /// Write-zeroes: keep the space allocated.
        const NO_HOLE = 1 << 1;
        /// Read: one chunk only (structured replies).
        const DF = 1 << 2;
        /// Block status: one extent only.
        const REQ_ONE = 1 << 3;
        /// Write-zeroes: fail rather than be slow.
        const FAST_ZERO = 1 << 4;
        const _ = !0;
    }
}

/// The fixed part of a command, as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandHeader {
    /// Modifiers.
    pub flags: CommandFlags,
    /// Its number; see [`CommandType`].
    pub kind: u16,
    /// Comes back in the reply.
    pub cookie: u64,
    /// First byte on the export.
    pub offset: u64,
    /// How many bytes.
    pub len: u32,
}

impl CommandHeader {
    /// Bytes on the wire.
    pub const BYTES: usize = 28;

    /// Reads a header.
    pub fn parse(bytes: &[u8; Self::BYTES]) -> Result<Self, Violation> {
        match be32(bytes, 0) {
            COMMAND_MAGIC => Ok(Self {
                flags: CommandFlags::from_bits_retain(be16(bytes, 4)),
                kind: be16(bytes, 6),
                cookie: be64(bytes, 8),
                offset: be64(bytes, 16),
                len: be32(bytes, 24),
            }),
            magic => Err(Violation::CommandMagic(magic)),
        }
    }

    /// Writes a header.
    pub fn emit(&self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        Writer::new(&mut out)
            .u32(COMMAND_MAGIC)
            .u16(self.flags.bits())
            .u16(self.kind)
            .u64(self.cookie)
            .u64(self.offset)
            .u32(self.len);
        out
    }

    /// Bytes behind the header that belong to the command.
    pub fn payload_len(&self) -> u32 {
        if self.kind == CommandType::Write as u16 {
            self.len
        } else {
            0
        }
    }
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SimpleReply {
    /// Whose reply it is.
    pub cookie: u64,
    /// Success, or why not.
    pub result: Result<(), NbdError>,
}

impl SimpleReply {
    /// Bytes on the wire.
    pub const BYTES: usize = 16;

    /// Writes the reply's header; a good read's data follows it.
    pub fn emit(&self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        let error = self.result.map_or_else(NbdError::code, |()| 0);
        Writer::new(&mut out)
            .u32(SIMPLE_REPLY_MAGIC)
            .u32(error)
            .u64(self.cookie);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_the_wire_unknown_bits_included() {
        let header = CommandHeader {
            flags: CommandFlags::from_bits_retain(0x8001),
            kind: 0xfffe,
            cookie: 0x0102_0304_0506_0708,
            offset: u64::MAX - 1,
            len: u32::MAX - 2,
        };
        assert_eq!(CommandHeader::parse(&header.emit()), Ok(header));
    }

    #[test]
    fn a_reply_is_magic_error_cookie() {
        let reply = SimpleReply {
            cookie: 7,
            result: Err(NbdError::NoSpc),
        };
        assert_eq!(
            reply.emit(),
            [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 28, 0, 0, 0, 0, 0, 0, 0, 7]
        );
    }

    #[test]
    fn the_numbers_of_commands_agree_both_ways() {
        for code in 0..16 {
            assert!(CommandType::from_wire(code).is_none_or(|kind| kind as u16 == code));
        }
    }
}
