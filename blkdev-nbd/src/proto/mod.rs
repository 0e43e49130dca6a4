//! The NBD protocol without any I/O: bytes in, commands out; replies in, bytes out.
//!
//! Two machines follow each other on every connection. Both are fed by whoever owns the socket, with whatever pieces
//! the socket yields; neither allocates, blocks or reads a clock.
//!
//! ```text
//!  accept ─► Handshake ───────────── Go ────────────► Transmission ── Disconnect ─► close
//!            handle_bytes(input)     (Session)        handle_bytes(input) ─► Command, Status, Payload, Refused
//!            poll_transmit(output)                    SimpleReply, Chunk    ◄─ how it ended
//!              │                                        │
//!              └── Violation: drop the connection ◄─────┘
//! ```
//!
//! # Contract
//! - How the input is cut into pieces changes nothing: every cut gives the same events and the same output.
//! - No length that the peer sends makes anything grow: options are bounded by [`OPTION_BYTES_MAX`], payloads stay with
//!   the caller, and what is refused is skipped, not stored.
//!
//! # Errors
//! A [`Violation`] means that the peer and we no longer agree where a message begins: the connection must be dropped.
//! Everything else is answered: an option with an [`OptionError`], a command with an [`NbdError`].
//!
//! # References
//! "The NBD protocol", doc/proto.md of the `nbd` project; the names below are that document's.

mod chunk;
mod command;
mod errno;
mod extents;
mod facts;
mod handshake;
mod meta;
mod option;
mod sparse;
mod status;
mod transmission;

pub use chunk::{Chunk, ChunkHeader, ChunkType};
pub use command::{CommandFlags, CommandHeader, CommandType, SimpleReply};
pub use errno::{Failure, NbdError};
pub use extents::{Extent, Extents, StateFlags};
pub use facts::{BlockSizes, Catalog, ExportFacts, ExportId, Session, TransmissionFlags};
pub use handshake::{Handshake, HandshakeOutcome};
pub use meta::{ALLOCATION_CONTEXT, ALLOCATION_CONTEXT_ID};
pub use option::{
    InfoType, NAME_BYTES_MAX, OPTION_BYTES_MAX, OptionCode, OptionError, OptionHeader, OptionReplyHeader,
};
pub use sparse::{Piece, SparseRead};
pub use status::StatusQuery;
pub use transmission::{Command, Event, Refusal, Transmission, Zeros};

use std::fmt;

/// First word of the greeting: `NBDMAGIC`.
pub const NBD_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// Second word of the greeting, and first of every option: `IHAVEOPT`.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// First word of every reply to an option.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// First word of a command.
pub const COMMAND_MAGIC: u32 = 0x2560_9513;
/// First word of a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// First word of every chunk of a structured reply.
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;
/// The largest payload of a read or a write that is served, in bytes.
pub const PAYLOAD_BYTES_MAX: u32 = 32 << 20;

/// What a peer did that leaves no way to go on: its connection is dropped, nobody else's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Violation {
    /// The client's flags hold one that was not offered.
    ClientFlags(u32),
    /// An option does not begin with its magic.
    OptionMagic(u64),
    /// An option other than `EXPORT_NAME` came from a client that does not speak the fixed newstyle.
    NotFixedNewstyle(u32),
    /// An option is longer than anybody would skip.
    OptionLength(u32),
    /// More options than any client needs.
    TooManyOptions,
    /// `EXPORT_NAME` asked for an export that is not there; that option has no error reply.
    UnknownExport,
    /// A command does not begin with its magic.
    CommandMagic(u32),
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClientFlags(flags) => write!(f, "client flags {flags:#x} were not offered"),
            Self::OptionMagic(magic) => write!(f, "option magic is {magic:#x}"),
            Self::NotFixedNewstyle(option) => write!(f, "option {option} without fixed newstyle"),
            Self::OptionLength(len) => write!(f, "option of {len} bytes"),
            Self::TooManyOptions => f.write_str("more options than any client needs"),
            Self::UnknownExport => write!(f, "no export of the name asked for"),
            Self::CommandMagic(magic) => write!(f, "command magic is {magic:#x}"),
        }
    }
}

impl std::error::Error for Violation {}

/// Big-endian integers at fixed places of short headers.
fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from(be16(bytes, at)) << 16 | u32::from(be16(bytes, at + 2))
}

fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from(be32(bytes, at)) << 32 | u64::from(be32(bytes, at + 4))
}

/// Writes messages into a slice whose size was checked before.
struct Writer<'a> {
    out: &'a mut [u8],
    at: usize,
}

impl<'a> Writer<'a> {
    fn new(out: &'a mut [u8]) -> Self {
        Self { out, at: 0 }
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.out[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
        self
    }

    fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }
}
