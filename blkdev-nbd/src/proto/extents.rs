//! What lies where: a device's answers, joined to runs of one kind.
//!
//! A device tells about the first sectors of a range at a time, in pieces of its own size. Clients want few and long
//! runs in units of the block size, and a server wants to know how often it will ask.

use iomgr_core::{BlockStatus, Sector, SectorCount, SectorRange};

bitflags::bitflags! {
    /// The state of a run of blocks, as the context `base:allocation` tells it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct StateFlags: u32 {
        /// No space is taken: a write may fail for want of it.
        const HOLE = 1 << 0;
        /// It reads as zeros.
        const ZERO = 1 << 1;
    }
}

impl StateFlags {
    fn of(status: &BlockStatus) -> Self {
        let mut flags = Self::empty();
        flags.set(Self::HOLE, status.is_hole);
        flags.set(Self::ZERO, status.is_zero);
        flags
    }
}

/// A run of blocks of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Where.
    pub range: SectorRange,
    /// What.
    pub state: StateFlags,
}

/// The extents of a range, from its front on: neighbours differ, and all are whole units.
///
/// It ends early when the device was asked often enough: what it has not covered then is [`rest`](Self::rest).
#[derive(Debug)]
pub struct Extents<A> {
    ask: A,
    rest: SectorRange,
    unit: u64,
    asks: u32,
    mask: StateFlags,
    /// What is known of the front of the rest.
    ahead: Option<(u64, StateFlags)>,
}

impl<A: FnMut(SectorRange) -> BlockStatus> Extents<A> {
    /// The extents of `range`, in multiples of `unit` sectors, by `ask` called about `asks` times at most. Only what `mask`
    /// names counts as a difference, and is told.
    pub fn new(range: SectorRange, unit: SectorCount, asks: u32, mask: StateFlags, ask: A) -> Self {
        Self {
            ask,
            rest: range,
            unit: unit.0.max(1),
            asks,
            mask,
            ahead: None,
        }
    }

    /// What was not covered yet.
    pub fn rest(&self) -> SectorRange {
        self.rest
    }

    /// The front of what is `from` sectors behind the front of the rest: whole units, and what they are.
    fn front(&mut self, from: u64) -> (u64, StateFlags) {
        let left = self.rest.count().0 - from;
        let unit = self.unit.min(left);
        let (mut len, mut state) = self.ask_once(from);
        if len >= unit {
            return (len - len % unit, state);
        }
        // The first unit is of several kinds: it is what all of them are.
        while len < unit {
            let (more, other) = self.ask_once(from + len);
            len += more;
            state &= other;
        }
        (unit, state)
    }

    fn ask_once(&mut self, from: u64) -> (u64, StateFlags) {
        self.asks = self.asks.saturating_sub(1);
        let left = self.rest.count().0 - from;
        let status = (self.ask)(part(self.rest, from, left));
        (status.count.0.clamp(1, left), StateFlags::of(&status) & self.mask)
    }
}

impl<A: FnMut(SectorRange) -> BlockStatus> Iterator for Extents<A> {
    type Item = Extent;

    fn next(&mut self) -> Option<Extent> {
        let all = self.rest.count().0;
        if all == 0 || (self.asks == 0 && self.ahead.is_none()) {
            return None;
        }
        let (mut len, state) = self.ahead.take().unwrap_or_else(|| self.front(0));
        while len < all && self.asks > 0 {
            let (more, other) = self.front(len);
            if other != state {
                self.ahead = Some((more, other));
                break;
            }
            len += more;
        }
        let range = part(self.rest, 0, len);
        self.rest = part(self.rest, len, all - len);
        Some(Extent { range, state })
    }
}

/// `len` sectors of `range`, from its `from`th on.
fn part(range: SectorRange, from: u64, len: u64) -> SectorRange {
    SectorRange::new(Sector(range.start().0 + from), SectorCount(len)).expect("a part of a range is a range")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(start: u64, count: u64) -> SectorRange {
        SectorRange::new(Sector(start), SectorCount(count)).unwrap()
    }

    /// A device of `states`, a sector each, that tells at most `piece` sectors at a time.
    fn ask(states: &[u8], piece: u64) -> impl FnMut(SectorRange) -> BlockStatus {
        move |range| {
            let at = usize::try_from(range.start().0).unwrap();
            let rest = &states[at..at + usize::try_from(range.count().0).unwrap()];
            let run = rest.iter().take_while(|state| **state == rest[0]).count() as u64;
            BlockStatus {
                count: SectorCount(run.min(piece)),
                is_hole: rest[0] & 1 != 0,
                is_zero: rest[0] & 2 != 0,
            }
        }
    }

    #[test]
    fn a_device_that_tells_little_is_asked_no_more_than_allowed() {
        let (states, mut asked) = ([3; 100], 0);
        let mut device = ask(&states, 1);
        let counting = |range| {
            asked += 1;
            device(range)
        };
        let mut extents = Extents::new(range(0, 100), SectorCount(1), 10, StateFlags::all(), counting);
        assert_eq!(extents.next().map(|extent| extent.range), Some(range(0, 10)));
        assert_eq!((extents.next(), extents.rest()), (None, range(10, 90)));
        assert_eq!(asked, 10);
    }

    #[test]
    fn a_unit_of_several_kinds_is_what_all_of_it_is() {
        let states = [3, 3, 3, 3, 3, 3, 2, 3, 0, 3, 3, 3];
        let extents = Extents::new(range(0, 12), SectorCount(4), 100, StateFlags::all(), ask(&states, 100));
        let found: Vec<_> = extents
            .map(|extent| (extent.range.count().0, extent.state.bits()))
            .collect();
        assert_eq!(found, [(4, 3), (4, 2), (4, 0)]);
    }

    proptest! {
        #[test]
        fn they_equal_the_naive_map(
            states in proptest::collection::vec(0u8..4, 1..80).prop_map(|states| {
                states.iter().flat_map(|state| [*state; 4]).collect::<Vec<_>>()
            }),
            noise in proptest::collection::vec(0usize..320, 0..6),
            unit in prop_oneof![Just(1u64), Just(2), Just(8)],
            piece in 1u64..40,
            mask in 0u32..4,
        ) {
            let mut states = states;
            let len = states.len();
            noise.iter().for_each(|at| states[at % len] ^= 1);
            let count = states.len() as u64 / unit * unit;
            prop_assume!(count > 0);
            let mask = StateFlags::from_bits_retain(mask);
            let extents = Extents::new(range(0, count), SectorCount(unit), u32::MAX, mask, ask(&states, piece));
            let mut at = 0;
            let mut last = None;
            for Extent { range, state } in extents {
                prop_assert_eq!(range.start().0, at);
                prop_assert!(range.count().0.is_multiple_of(unit) && last != Some(state));
                for block in (at..at + range.count().0).step_by(usize::try_from(unit).unwrap()) {
                    let block = usize::try_from(block).unwrap();
                    let all = states[block..][..usize::try_from(unit).unwrap()].iter().fold(3, |all, one| all & one);
                    prop_assert_eq!(u32::from(all) & mask.bits(), state.bits());
                }
                at += range.count().0;
                last = Some(state);
            }
            prop_assert_eq!(at, count);
        }
    }
}
