//! Which ops are under way, in all queues, and which of them a write has come in the way of.

use std::ops::Range;

/// An op: of which queue, and which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Who {
    pub(super) queue: u32,
    pub(super) place: u32,
}

/// What an op does.
#[derive(Clone, Debug)]
pub(super) struct Trip {
    pub(super) file: u8,
    pub(super) sectors: Range<u64>,
    pub(super) writes: bool,
}

impl Trip {
    fn meets(&self, other: &Self) -> bool {
        let start = self.sectors.start.max(other.sectors.start);
        self.file == other.file && start < self.sectors.end.min(other.sectors.end)
    }
}

/// An op under way.
#[derive(Debug)]
struct UnderWay {
    who: Who,
    trip: Trip,
    /// No write to its sectors was under way at the same time.
    alone: bool,
}

/// All ops under way; a list, as there are seldom many.
#[derive(Debug, Default)]
pub(super) struct Traffic(Vec<UnderWay>);

impl Traffic {
    /// Makes room for `more` ops.
    pub(super) fn reserve(&mut self, more: usize) {
        // Not beside what other queues have in the list now, but beside all that they may have.
        let room = self.0.capacity() + more;
        self.0.reserve_exact(room - self.0.len());
    }

    /// An op begins.
    pub(super) fn enter(&mut self, who: Who, trip: Trip) {
        let mut alone = true;
        for other in self.0.iter_mut().filter(|other| other.trip.meets(&trip)) {
            other.alone &= !trip.writes;
            alone &= !other.trip.writes;
        }
        self.0.push(UnderWay { who, trip, alone });
    }

    /// An op ends. True: no write to its sectors was under way at the same time.
    pub(super) fn leave(&mut self, who: Who) -> bool {
        let at = self.0.iter().position(|other| other.who == who);
        at.is_some_and(|at| self.0.swap_remove(at).alone)
    }

    /// A queue is gone.
    pub(super) fn forget(&mut self, queue: u32) {
        self.0.retain(|other| other.who.queue != queue);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(place: u32) -> Who {
        Who { queue: 1, place }
    }

    fn trip(writes: bool, sectors: Range<u64>) -> Trip {
        Trip {
            file: 1,
            sectors,
            writes,
        }
    }

    #[test]
    fn reads_meet_without_harm_and_writes_do_not() {
        let mut traffic = Traffic::default();
        traffic.enter(who(1), trip(false, 0..8));
        traffic.enter(who(2), trip(false, 0..8));
        assert!(traffic.leave(who(1)));
        traffic.enter(who(3), trip(true, 7..9));
        assert!(!traffic.leave(who(2)), "a write began while it was under way");
        traffic.enter(who(4), trip(true, 9..10));
        traffic.enter(who(5), trip(false, 8..9));
        assert!(traffic.leave(who(3)), "a read does not disturb a write");
        assert!(!traffic.leave(who(5)), "a write was under way when it began");
        assert!(traffic.leave(who(4)), "side by side is not overlapping");
        assert!(!traffic.leave(who(4)), "nobody is not alone");
    }

    #[test]
    fn two_writes_disturb_each_other_also_after_one_has_ended() {
        let mut traffic = Traffic::default();
        traffic.enter(who(1), trip(true, 0..4));
        traffic.enter(Who { queue: 2, place: 1 }, trip(true, 3..5));
        assert!(!traffic.leave(who(1)));
        assert!(!traffic.leave(Who { queue: 2, place: 1 }));
        traffic.enter(who(1), trip(true, 0..4));
        traffic.enter(
            who(2),
            Trip {
                file: 2,
                ..trip(true, 0..4)
            },
        );
        assert!(
            traffic.leave(who(1)) && traffic.leave(who(2)),
            "files have nothing to do with each other"
        );
    }
}
