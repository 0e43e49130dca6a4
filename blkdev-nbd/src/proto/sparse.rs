//! Reads that leave zeros out: which pieces of a read are worth a chunk of their own.

use iomgr_core::{BlockStatus, Sector, SectorCount, SectorRange};

use super::{Extents, StateFlags};

/// A piece of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where.
    pub range: SectorRange,
    /// It reads as zeros, which need not be sent.
    pub is_zero: bool,
    /// It is the last one.
    pub is_last: bool,
}

impl Piece {
    /// All of a read in one piece.
    pub fn whole(range: SectorRange, is_zero: bool) -> Self {
        Self {
            range,
            is_zero,
            is_last: true,
        }
    }
}

/// The pieces of a read, in order and without gaps.
#[derive(Debug)]
pub struct SparseRead<A> {
    zeros: Extents<A>,
    /// From the first byte that no piece covers to the end.
    rest: SectorRange,
    /// Zeros behind the data that was yielded last.
    held: Option<SectorRange>,
    pieces_left: usize,
}

/// How often the device is asked about one read; what lies behind is sent as data.
const ASKS_MAX: u32 = 128;

/// Zeros shorter than this are sent: leaving them out costs more than they do.
const ZEROS_MIN: u64 = 4096 / iomgr_core::SECTOR_BYTES;

impl<A: FnMut(SectorRange) -> BlockStatus> SparseRead<A> {
    /// Pieces of one read, however long: so many headers and runs of memory go into one send.
    pub const PIECES_MAX: usize = 16;

    /// The pieces of a read of `range`, where `ask` tells what lies there. Pieces are whole blocks of `unit` sectors.
    pub fn new(range: SectorRange, unit: SectorCount, ask: A) -> Self {
        Self {
            zeros: Extents::new(range, unit, ASKS_MAX, StateFlags::ZERO, ask),
            rest: range,
            held: None,
            pieces_left: Self::PIECES_MAX,
        }
    }

    /// The next run of zeros that is worth a piece.
    fn next_zeros(&mut self) -> Option<SectorRange> {
        let worth = |range: &SectorRange| range.count().0 >= ZEROS_MIN;
        let held = self.held.take();
        held.or_else(|| {
            let mut zeros = self
                .zeros
                .by_ref()
                .filter(|extent| extent.state.contains(StateFlags::ZERO));
            zeros.find(|extent| worth(&extent.range)).map(|extent| extent.range)
        })
    }

    /// Yields what lies before `end`.
    fn take(&mut self, end: Sector, is_zero: bool) -> Piece {
        let upto = |from: Sector, to: Sector| {
            SectorRange::new(from, SectorCount(to.0 - from.0)).expect("a part of a range is a range")
        };
        let range = upto(self.rest.start(), end);
        self.rest = upto(end, self.rest.end());
        self.pieces_left -= 1;
        Piece {
            range,
            is_zero,
            is_last: self.rest.is_empty(),
        }
    }
}

impl<A: FnMut(SectorRange) -> BlockStatus> Iterator for SparseRead<A> {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        if self.rest.is_empty() {
            return None;
        }
        // The last piece that there may be is all the rest.
        let zeros = if self.pieces_left > 1 { self.next_zeros() } else { None };
        Some(match zeros {
            Some(zeros) if zeros.start() == self.rest.start() => self.take(zeros.end(), true),
            Some(zeros) => {
                self.held = Some(zeros);
                self.take(zeros.start(), false)
            }
            None => self.take(self.rest.end(), false),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Zeros where `map` says so, a sector each.
    fn pieces(map: &[bool]) -> Vec<Piece> {
        let ask = |range: SectorRange| {
            let at = usize::try_from(range.start().0).unwrap();
            let run = map[at..].iter().take_while(|zero| **zero == map[at]).count() as u64;
            BlockStatus {
                count: SectorCount(run.min(range.count().0)),
                is_hole: false,
                is_zero: map[at],
            }
        };
        let range = SectorRange::new(Sector(0), SectorCount(map.len() as u64)).unwrap();
        SparseRead::new(range, SectorCount(1), ask).collect()
    }

    fn lens(map: &[bool]) -> Vec<(u64, bool)> {
        pieces(map)
            .iter()
            .map(|piece| (piece.range.count().0, piece.is_zero))
            .collect()
    }

    #[test]
    fn short_zeros_are_data() {
        let (zero, data) = ([true; 8], [false; 3]);
        assert_eq!(
            lens(&[&data[..], &zero, &data].concat()),
            [(3, false), (8, true), (3, false)]
        );
        assert_eq!(lens(&[&data[..], &zero[1..], &data].concat()), [(13, false)]);
        assert_eq!(lens(&zero), [(8, true)]);
    }

    #[test]
    fn the_last_piece_takes_what_is_left() {
        let map: Vec<_> = (0..40).flat_map(|at| [at % 2 == 0; 8]).collect();
        let lens = lens(&map);
        assert_eq!(lens.len(), 16);
        assert_eq!(lens[15], (320 - 15 * 8, false));
    }

    proptest! {
        #[test]
        fn pieces_cover_the_read_and_only_zeros_are_left_out(
            runs in proptest::collection::vec((any::<bool>(), 1usize..24), 1..60),
        ) {
            let map: Vec<_> = runs.iter().flat_map(|(zero, len)| vec![*zero; *len]).collect();
            let pieces = pieces(&map);
            let mut at = 0;
            for piece in &pieces {
                prop_assert_eq!(piece.range.start().0, at);
                let end = piece.range.end().0;
                let run = &map[usize::try_from(at).unwrap()..usize::try_from(end).unwrap()];
                prop_assert!(!run.is_empty() && (!piece.is_zero || run.iter().all(|zero| *zero)));
                prop_assert_eq!(piece.is_last, end == map.len() as u64);
                at = end;
            }
            prop_assert_eq!(at, map.len() as u64);
            prop_assert!(pieces.len() <= 16);
        }
    }
}
