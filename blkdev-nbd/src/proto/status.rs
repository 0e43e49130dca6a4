//! `BLOCK_STATUS`: the question, and its answer's chunk.

use iomgr_core::{BlockStatus, SectorCount, SectorRange};

use super::meta::ALLOCATION_CONTEXT_ID;
use super::{ChunkHeader, ChunkType, Extents, StateFlags, Writer};

/// A client asks what lies in a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusQuery {
    /// Comes back in the reply.
    pub cookie: u64,
    /// Inside the export, whole blocks, not empty.
    pub range: SectorRange,
    /// The unit of the answer.
    pub block: SectorCount,
    /// One extent is wanted.
    pub one: bool,
}

impl StatusQuery {
    /// Extents in one answer. A client that wants to know more asks again from there.
    pub const EXTENTS_MAX: usize = 512;
    /// Room that [`answer`](Self::answer) needs.
    pub const ANSWER_BYTES_MAX: usize = HEAD_BYTES + EXTENT_BYTES * Self::EXTENTS_MAX;

    /// How often the device is asked for one answer.
    const ASKS_MAX: u32 = 2048;

    /// Writes the answer, one chunk, to the front of `out`; says how long it is. `ask` tells what lies where.
    ///
    /// # Panics
    /// If `out` is shorter than [`ANSWER_BYTES_MAX`](Self::ANSWER_BYTES_MAX).
    pub fn answer(&self, ask: impl FnMut(SectorRange) -> BlockStatus, out: &mut [u8]) -> usize {
        let (head, body) = out.split_at_mut(HEAD_BYTES);
        let extents = Extents::new(self.range, self.block, Self::ASKS_MAX, StateFlags::all(), ask);
        let wanted = if self.one { 1 } else { Self::EXTENTS_MAX };
        let mut writer = Writer::new(body);
        for extent in extents.take(wanted) {
            let len = u32::try_from(extent.range.len_bytes()).expect("no longer than the length asked for, a u32");
            writer.u32(len).u32(extent.state.bits());
        }
        let len = writer.at;
        let header = ChunkHeader {
            is_last: true,
            kind: ChunkType::BlockStatus as u16,
            cookie: self.cookie,
            len: u32::try_from(4 + len).expect("extents are bounded"),
        };
        Writer::new(head).bytes(&header.emit()).u32(ALLOCATION_CONTEXT_ID);
        HEAD_BYTES + len
    }
}

const HEAD_BYTES: usize = ChunkHeader::BYTES + 4;
const EXTENT_BYTES: usize = 8;

#[cfg(test)]
mod tests {
    use iomgr_core::Sector;

    use super::*;

    /// Holes and data in turn, a sector each.
    fn striped(range: SectorRange) -> BlockStatus {
        let one = SectorCount(1);
        if range.start().0.is_multiple_of(2) {
            BlockStatus::hole(one)
        } else {
            BlockStatus::data(one)
        }
    }

    fn answer(sectors: u64, one: bool) -> Vec<u8> {
        let query = StatusQuery {
            cookie: 5,
            range: SectorRange::new(Sector(2), SectorCount(sectors)).unwrap(),
            block: SectorCount(1),
            one,
        };
        let mut out = vec![0; StatusQuery::ANSWER_BYTES_MAX];
        let len = query.answer(striped, &mut out);
        out.truncate(len);
        out
    }

    #[test]
    fn one_chunk_tells_context_lengths_and_states() {
        let bytes = answer(2, false);
        let header = ChunkHeader::parse(bytes.first_chunk().unwrap()).unwrap();
        assert_eq!(
            (header.kind, header.is_last, header.cookie, header.len),
            (5, true, 5, 20)
        );
        let words = [0u32, 0, 0, 1, 0, 0, 2, 0, 0, 0, 0, 3, 0, 0, 2, 0, 0, 0, 0, 0];
        assert!(bytes[20..].iter().map(|byte| u32::from(*byte)).eq(words));
        assert_eq!(
            answer(2, true),
            [&bytes[..19], &[12], &bytes[20..32]].concat(),
            "the first alone"
        );
    }

    #[test]
    fn an_answer_is_bounded() {
        assert_eq!(answer(5000, false).len(), StatusQuery::ANSWER_BYTES_MAX);
    }
}
