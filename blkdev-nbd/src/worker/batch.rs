//! The replies of one send: headers side by side in one buffer, and between them the data where it lies.
//!
//! ```text
//!  headers  | a | b | c | d |        parts:  [header][data a] [header][data b] [header header]
//!                                             a               b                c      d
//! ```
//!
//! Replies without data share a part.

use iomgr_core::{BlockStatus, Data, SECTOR_BYTES, SectorCount, SectorRange};
use tqueue::MAX_SEND_PARTS;

use super::conn::{Outcome, Reply};
use crate::config::HEADER_BYTES;
use crate::proto::{Chunk, Piece, Session, SimpleReply, SparseRead, StatusQuery};

/// One send in the making.
pub(super) struct Batch<'a> {
    /// Where `out` lies.
    headers: Data,
    out: &'a mut [u8],
    /// Bytes of headers so far.
    len: u32,
    parts: &'a mut Parts,
}

/// The parts of one send.
pub(super) struct Parts {
    parts: [Data; MAX_SEND_PARTS],
    count: usize,
}

/// Parts, and bytes of headers, that the longest replies of their kind take.
const SPARSE_PARTS: usize = 2 * PIECES_MAX;
const SPARSE_BYTES: usize = Chunk::BYTES_MAX * PIECES_MAX;
const PIECES_MAX: usize = SparseRead::<fn(SectorRange) -> BlockStatus>::PIECES_MAX;

const _: () = assert!(SPARSE_PARTS <= MAX_SEND_PARTS && SPARSE_BYTES <= HEADER_BYTES as usize);
const _: () = assert!(StatusQuery::ANSWER_BYTES_MAX <= HEADER_BYTES as usize);

impl<'a> Batch<'a> {
    /// A batch whose headers go to `out`, which is the memory of `headers`.
    pub(super) fn new(headers: Data, out: &'a mut [u8], parts: &'a mut Parts) -> Self {
        Self {
            headers,
            out,
            len: 0,
            parts,
        }
    }

    /// Room for one more reply of this kind? There is, for any kind, in an empty batch.
    pub(super) fn has_room(&self, outcome: &Outcome) -> bool {
        let (parts, bytes) = match outcome {
            Outcome::ReadSparse(_) => (SPARSE_PARTS, SPARSE_BYTES),
            Outcome::Status(_) => (1, StatusQuery::ANSWER_BYTES_MAX),
            _ => (2, Chunk::BYTES_MAX),
        };
        self.parts.count + parts <= MAX_SEND_PARTS && self.len as usize + bytes <= self.out.len()
    }

    /// Adds a simple reply.
    pub(super) fn simple(&mut self, reply: &Reply) {
        let result = match reply.outcome {
            Outcome::Failed(failure) => Err(failure.error),
            _ => Ok(()),
        };
        let header = SimpleReply {
            cookie: reply.cookie,
            result,
        };
        self.header(|out| {
            out[..SimpleReply::BYTES].copy_from_slice(&header.emit());
            SimpleReply::BYTES
        });
        reply.data.iter().for_each(|lease| self.parts.add(lease.data()));
    }

    /// Adds a structured reply. `ask` tells what lies where on the export.
    pub(super) fn chunks(&mut self, reply: &Reply, session: &Session, ask: impl FnMut(SectorRange) -> BlockStatus) {
        match reply.outcome {
            Outcome::Done => self.chunk(reply.cookie, Chunk::None, true),
            Outcome::Failed(failure) => self.chunk(reply.cookie, Chunk::Failed(failure), true),
            Outcome::Read(range) => self.piece(reply, range, Piece::whole(range, false)),
            Outcome::ReadZeros(range) => self.piece(reply, range, Piece::whole(range, true)),
            Outcome::ReadSparse(range) => {
                let unit = SectorCount(u64::from(session.facts.blocks.min) / SECTOR_BYTES);
                SparseRead::new(range, unit, ask).for_each(|piece| self.piece(reply, range, piece));
            }
            Outcome::Status(query) => self.header(|out| query.answer(ask, out)),
        }
    }

    /// Adds a piece of a read of `range`.
    fn piece(&mut self, reply: &Reply, range: SectorRange, piece: Piece) {
        let (offset, len) = (piece.range.offset_bytes(), len32(piece.range.len_bytes()));
        if piece.is_zero {
            return self.chunk(reply.cookie, Chunk::Hole { offset, len }, piece.is_last);
        }
        self.chunk(reply.cookie, Chunk::Data { offset, len }, piece.is_last);
        let lease = reply.data.as_ref().expect("a read that is not all zeros has data");
        self.parts
            .add(lease.data().slice(len32(offset - range.offset_bytes()), len));
    }

    fn chunk(&mut self, cookie: u64, chunk: Chunk, is_last: bool) {
        self.header(|out| chunk.emit(cookie, is_last, out));
    }

    /// Adds what `write` writes, and says how long it is; to the part before it where they touch.
    fn header(&mut self, write: impl FnOnce(&mut [u8]) -> usize) {
        let len = len32(write(&mut self.out[self.len as usize..]) as u64);
        self.parts.join(self.headers.slice(self.len, len));
        self.len += len;
    }
}

impl Parts {
    pub(super) fn new() -> Self {
        Self {
            parts: [Data::NONE; MAX_SEND_PARTS],
            count: 0,
        }
    }

    pub(super) fn as_slice(&self) -> &[Data] {
        &self.parts[..self.count]
    }

    fn join(&mut self, data: Data) {
        match self.parts[..self.count].last_mut() {
            Some(last) if last.home == data.home && last.offset + last.len == data.offset => last.len += data.len,
            _ => self.add(data),
        }
    }

    fn add(&mut self, data: Data) {
        self.parts[self.count] = data;
        self.count += 1;
    }
}

fn len32(len: u64) -> u32 {
    u32::try_from(len).expect("payloads and headers are bounded")
}
