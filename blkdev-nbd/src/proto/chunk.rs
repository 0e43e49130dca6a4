//! Structured replies on the wire: one or more chunks, of which the last one says so.
//!
//! ```text
//!  chunk         | magic u32 | flags u16 | type u16 | cookie u64 | length u32 | payload …
//!  OFFSET_DATA   payload: offset u64 | data …
//!  OFFSET_HOLE   payload: offset u64 | length u32
//!  BLOCK_STATUS  payload: context u32 | (length u32 | state u32) …
//!  ERROR         payload: error u32 | length u16 | message …
//!  ERROR_OFFSET  payload: error u32 | length u16 | message … | offset u64
//! ```

use super::{Failure, STRUCTURED_REPLY_MAGIC, Writer, be16, be32, be64};

/// What a chunk carries. Types with bit 15 set are errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum ChunkType {
    /// Nothing: the end of a command that went well.
    None = 0,
    /// Bytes that were read.
    OffsetData = 1,
    /// Bytes that read as zeros.
    OffsetHole = 2,
    /// What lies in a run of blocks.
    BlockStatus = 5,
    /// An error, and where it is, nobody knows.
    Error = 1 << 15 | 1,
    /// An error at a byte of the export.
    ErrorOffset = 1 << 15 | 2,
}

/// The fixed part of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkHeader {
    /// No other chunk of this reply follows.
    pub is_last: bool,
    /// Its number; see [`ChunkType`].
    pub kind: u16,
    /// Whose reply it is.
    pub cookie: u64,
    /// Bytes behind the header.
    pub len: u32,
}

/// The flag of a reply's last chunk.
const DONE: u16 = 1 << 0;

impl ChunkHeader {
    /// Bytes on the wire.
    pub const BYTES: usize = 20;

    /// Reads a header; `None` if the magic is wrong.
    pub fn parse(bytes: &[u8; Self::BYTES]) -> Option<Self> {
        (be32(bytes, 0) == STRUCTURED_REPLY_MAGIC).then(|| Self {
            is_last: be16(bytes, 4) & DONE != 0,
            kind: be16(bytes, 6),
            cookie: be64(bytes, 8),
            len: be32(bytes, 16),
        })
    }

    /// Writes a header.
    pub fn emit(&self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        self.write(&mut Writer::new(&mut out));
        out
    }

    fn write<'a, 'b>(&self, out: &'a mut Writer<'b>) -> &'a mut Writer<'b> {
        out.u32(STRUCTURED_REPLY_MAGIC)
            .u16(if self.is_last { DONE } else { 0 })
            .u16(self.kind)
            .u64(self.cookie)
            .u32(self.len)
    }
}

/// A chunk of a reply, without the bytes of a read, which the caller sends behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chunk {
    /// The command went well, and has nothing to tell.
    None,
    /// `len` bytes from `offset` on follow.
    Data {
        /// First byte on the export.
        offset: u64,
        /// How many.
        len: u32,
    },
    /// `len` bytes from `offset` on are zeros.
    Hole {
        /// First byte on the export.
        offset: u64,
        /// How many.
        len: u32,
    },
    /// The command failed.
    Failed(Failure),
}

impl Chunk {
    /// Room that [`emit`](Self::emit) needs: the header of an error with the longest message.
    pub const BYTES_MAX: usize = ChunkHeader::BYTES + 4 + 2 + Failure::TEXT_BYTES_MAX + 8;

    /// Writes the chunk to the front of `out`, but for a read's bytes; says how long that is.
    ///
    /// # Panics
    /// If `out` is shorter than the chunk.
    pub fn emit(&self, cookie: u64, is_last: bool, out: &mut [u8]) -> usize {
        let mut out = Writer::new(out);
        let header = ChunkHeader {
            is_last,
            kind: self.kind() as u16,
            cookie,
            len: self.len(),
        };
        header.write(&mut out);
        match *self {
            Self::None => {}
            Self::Data { offset, .. } => {
                out.u64(offset);
            }
            Self::Hole { offset, len } => {
                out.u64(offset).u32(len);
            }
            Self::Failed(failure) => {
                let text = failure.text();
                let len = u16::try_from(text.len()).expect("messages are short");
                out.u32(failure.error.code()).u16(len).bytes(text.as_bytes());
                failure.offset.iter().for_each(|offset| {
                    out.u64(*offset);
                });
            }
        }
        out.at
    }

    fn kind(&self) -> ChunkType {
        match self {
            Self::None => ChunkType::None,
            Self::Data { .. } => ChunkType::OffsetData,
            Self::Hole { .. } => ChunkType::OffsetHole,
            Self::Failed(Failure { offset: None, .. }) => ChunkType::Error,
            Self::Failed(Failure { offset: Some(_), .. }) => ChunkType::ErrorOffset,
        }
    }

    /// The length that the header tells.
    fn len(&self) -> u32 {
        match self {
            Self::None => 0,
            Self::Data { len, .. } => 8 + len,
            Self::Hole { .. } => 12,
            Self::Failed(failure) => {
                let text = u32::try_from(failure.text().len()).expect("messages are short");
                6 + text + if failure.offset.is_some() { 8 } else { 0 }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::NbdError;
    use super::*;

    fn emitted(chunk: Chunk) -> Vec<u8> {
        let mut out = [0xee; Chunk::BYTES_MAX];
        let len = chunk.emit(7, true, &mut out);
        out[..len].to_vec()
    }

    #[test]
    fn a_header_survives_the_wire() {
        for is_last in [false, true] {
            let header = ChunkHeader {
                is_last,
                kind: 0x8001,
                cookie: u64::MAX - 1,
                len: 0xdead_beef,
            };
            assert_eq!(ChunkHeader::parse(&header.emit()), Some(header));
        }
        assert_eq!(ChunkHeader::parse(&[0; 20]), None);
    }

    #[test]
    fn chunks_say_how_long_they_are() {
        let failure = |offset| Chunk::Failed(Failure::new(NbdError::Io, "text").at(offset));
        let (offset, len) = (512, 1024);
        for (chunk, follows) in [
            (Chunk::None, 0),
            (Chunk::Data { offset, len }, 1024),
            (Chunk::Hole { offset, len }, 0),
            (failure(None), 0),
            (failure(Some(4096)), 0),
        ] {
            let bytes = emitted(chunk);
            let header = ChunkHeader::parse(bytes.first_chunk().unwrap()).unwrap();
            assert_eq!(header.len as usize + 20, bytes.len() + follows, "{chunk:?}");
        }
    }

    #[test]
    fn an_error_tells_number_message_and_place() {
        let bytes = emitted(Chunk::Failed(Failure::new(NbdError::NoSpc, "full").at(Some(3))));
        assert_eq!(
            bytes[20..],
            [&[0, 0, 0, 28, 0, 4][..], b"full", &[0, 0, 0, 0, 0, 0, 0, 3]].concat()
        );
        assert_eq!(bytes[6..8], [0x80, 2]);
    }
}
