//! Options and their replies on the wire.
//!
//! ```text
//!  option   | IHAVEOPT u64 | option u32 | length u32 | data …
//!  reply    | magic u64    | option u32 | type u32   | length u32 | data …
//! ```

use super::{OPTION_MAGIC, OPTION_REPLY_MAGIC, Violation, Writer, be32, be64};

/// The longest name or description, in bytes (the specification's bound on strings).
pub const NAME_BYTES_MAX: usize = 4096;

/// The longest data of an option that is looked at: a name and a good many information requests.
pub const OPTION_BYTES_MAX: usize = 2 * NAME_BYTES_MAX;

/// What a client may ask for before transmission; other numbers exist and are answered `ERR_UNSUP`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum OptionCode {
    /// Go on to transmission, the old way: no reply but the export itself.
    ExportName = 1,
    /// End the session.
    Abort = 2,
    /// List the exports.
    List = 3,
    /// Begin TLS.
    StartTls = 5,
    /// Tell about an export.
    Info = 6,
    /// Tell about an export, and go on to transmission.
    Go = 7,
    /// Answer commands by chunks.
    StructuredReply = 8,
    /// List the metadata contexts of an export.
    ListMetaContext = 9,
    /// Choose metadata contexts of an export.
    SetMetaContext = 10,
}

impl OptionCode {
    /// The option of that number, if it is one that is known here.
    pub fn from_wire(code: u32) -> Option<Self> {
        [
            Self::ExportName,
            Self::Abort,
            Self::List,
            Self::StartTls,
            Self::Info,
            Self::Go,
            Self::StructuredReply,
            Self::ListMetaContext,
            Self::SetMetaContext,
        ]
        .into_iter()
        .find(|known| *known as u32 == code)
    }
}

/// Why an option was refused: the reply types with bit 31 set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum OptionError {
    /// Not known here.
    Unsup = 1 << 31 | 1,
    /// Known, but not allowed here.
    Policy = 1 << 31 | 2,
    /// Malformed.
    Invalid = 1 << 31 | 3,
    /// No such export.
    Unknown = 1 << 31 | 6,
    /// Longer than is looked at.
    TooBig = 1 << 31 | 9,
}

/// Reply types that are no errors.
pub(super) const REP_ACK: u32 = 1;
pub(super) const REP_SERVER: u32 = 2;
pub(super) const REP_INFO: u32 = 3;
pub(super) const REP_META_CONTEXT: u32 = 4;

/// What an information reply is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum InfoType {
    /// Size and transmission flags.
    Export = 0,
    /// The canonical name.
    Name = 1,
    /// The description.
    Description = 2,
    /// The block size constraints.
    BlockSize = 3,
}

/// The fixed part of an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionHeader {
    /// Its number.
    pub option: u32,
    /// Bytes of data behind the header.
    pub len: u32,
}

impl OptionHeader {
    /// Bytes on the wire.
    pub const BYTES: usize = 16;

    /// Reads a header.
    pub fn parse(bytes: &[u8; Self::BYTES]) -> Result<Self, Violation> {
        match be64(bytes, 0) {
            OPTION_MAGIC => Ok(Self {
                option: be32(bytes, 8),
                len: be32(bytes, 12),
            }),
            magic => Err(Violation::OptionMagic(magic)),
        }
    }

    /// Writes a header.
    pub fn emit(&self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        Writer::new(&mut out).u64(OPTION_MAGIC).u32(self.option).u32(self.len);
        out
    }
}

/// The fixed part of a reply to an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionReplyHeader {
    /// The option that is answered.
    pub option: u32,
    /// Reply type; bit 31 is set in errors.
    pub kind: u32,
    /// Bytes of data behind the header.
    pub len: u32,
}

impl OptionReplyHeader {
    /// Bytes on the wire.
    pub const BYTES: usize = 20;

    /// Reads a header; `None` if the magic is wrong.
    pub fn parse(bytes: &[u8; Self::BYTES]) -> Option<Self> {
        (be64(bytes, 0) == OPTION_REPLY_MAGIC).then(|| Self {
            option: be32(bytes, 8),
            kind: be32(bytes, 12),
            len: be32(bytes, 16),
        })
    }

    /// Writes a header.
    pub fn emit(&self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        Writer::new(&mut out)
            .u64(OPTION_REPLY_MAGIC)
            .u32(self.option)
            .u32(self.kind)
            .u32(self.len);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_survive_the_wire() {
        let header = OptionHeader {
            option: 7,
            len: 0xdead_beef,
        };
        assert_eq!(OptionHeader::parse(&header.emit()), Ok(header));
        let reply = OptionReplyHeader {
            option: 7,
            kind: OptionError::TooBig as u32,
            len: 3,
        };
        assert_eq!(OptionReplyHeader::parse(&reply.emit()), Some(reply));
    }

    #[test]
    fn a_wrong_magic_is_named() {
        assert_eq!(
            OptionHeader::parse(&[1; 16]),
            Err(Violation::OptionMagic(0x0101_0101_0101_0101))
        );
    }
}
