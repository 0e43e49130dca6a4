//! What each sector may hold: the oracle of the power-cut simulation.
//!
//! Every write puts a number of its own onto its sectors, so that a sector's content names the write that it is from. The
//! runner never has two changes of one sector under way together, so a sector's history is a line:
//!
//! ```text
//!  settled ──► change ──► change ──► change      a power cut may leave any of these …
//!                 ▲
//!                 └ completed when a flush was begun that has ended: … but nothing before it
//! ```

use iomgr_core::SectorRange;

/// A sector's content: the number of the write that it is from; 0 for zeros.
pub(super) type Stamp = u64;

/// One change of a sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Change {
    id: u64,
    stamp: Stamp,
    /// A discard: the sector may as well keep what it had.
    soft: bool,
    done: bool,
}

/// A sector's history since it was last certain.
#[derive(Clone, Debug)]
struct History {
    /// The first is the certain one; it is always done and hard.
    changes: Vec<Change>,
}

/// What a flush that is under way will have made durable: per sector, the last change that was done when it began.
#[derive(Debug)]
pub(super) struct FlushMark(Vec<(usize, u64)>);

/// All sectors of a disk.
#[derive(Debug)]
pub(super) struct Model {
    sectors: Vec<History>,
    next_id: u64,
}

impl Model {
    /// A disk of `sectors` zeros.
    pub(super) fn new(sectors: u64) -> Self {
        let zero = History {
            changes: vec![Change {
                id: 0,
                stamp: 0,
                soft: false,
                done: true,
            }],
        };
        Self {
            sectors: vec![zero; usize::try_from(sectors).expect("simulated disks are small")],
            next_id: 1,
        }
    }

    /// How many sectors.
    pub(super) fn len(&self) -> usize {
        self.sectors.len()
    }

    /// A change of `range` was submitted. `soft`: a discard.
    pub(super) fn begin(&mut self, range: SectorRange, stamp: Stamp, soft: bool) {
        let id = self.next_id;
        self.next_id += 1;
        self.each(range, |history| {
            history.changes.push(Change {
                id,
                stamp,
                soft,
                done: false,
            })
        });
    }

    /// It has ended well; `durable` with FUA.
    pub(super) fn done(&mut self, range: SectorRange, durable: bool) {
        self.each(range, |history| {
            history.changes.last_mut().expect("begun before").done = true;
            if durable {
                history.settle_from(history.changes.len() - 1);
            }
        });
    }

    /// A flush begins.
    pub(super) fn flush_begin(&self) -> FlushMark {
        let uncertain = self
            .sectors
            .iter()
            .enumerate()
            .filter(|(_, history)| history.changes.len() > 1);
        FlushMark(uncertain.map(|(at, history)| (at, history.last_done())).collect())
    }

    /// It has ended well.
    pub(super) fn flush_done(&mut self, FlushMark(marks): FlushMark) {
        for (at, id) in marks {
            let history = &mut self.sectors[at];
            // A durable write meanwhile may have dropped it.
            if let Some(index) = history.changes.iter().position(|change| change.id == id) {
                history.settle_from(index);
            }
        }
    }

    /// May a read that no change of the sector overlaps see `stamp`?
    pub(super) fn may_read(&self, sector: usize, stamp: Stamp) -> bool {
        let changes = &self.sectors[sector].changes;
        debug_assert!(changes.iter().all(|change| change.done), "reads do not overlap changes");
        let hard = changes
            .iter()
            .rposition(|change| !change.soft)
            .expect("the first is hard");
        changes[hard..].iter().any(|change| change.stamp == stamp)
    }

    /// May the sector hold `stamp` after a power cut now?
    pub(super) fn may_survive(&self, sector: usize, stamp: Stamp) -> bool {
        self.sectors[sector].changes.iter().any(|change| change.stamp == stamp)
    }

    /// May the sector hold `stamp` after the process died, the machine still running? What was acknowledged is there.
    pub(super) fn may_outlive(&self, sector: usize, stamp: Stamp) -> bool {
        let changes = &self.sectors[sector].changes;
        let acknowledged = changes
            .iter()
            .rposition(|change| change.done && !change.soft)
            .expect("the first is both");
        changes[acknowledged..].iter().any(|change| change.stamp == stamp)
    }

    /// What may be there, for messages.
    pub(super) fn allowed(&self, sector: usize) -> Vec<Stamp> {
        self.sectors[sector].changes.iter().map(|change| change.stamp).collect()
    }

    /// After a restart the sector is known to hold `stamp`, durably.
    pub(super) fn settle(&mut self, sector: usize, stamp: Stamp) {
        self.sectors[sector].changes = vec![Change {
            id: 0,
            stamp,
            soft: false,
            done: true,
        }];
    }

    fn each(&mut self, range: SectorRange, change: impl FnMut(&mut History)) {
        let at = |sector: u64| usize::try_from(sector).expect("simulated disks are small");
        self.sectors[at(range.start().0)..at(range.end().0)]
            .iter_mut()
            .for_each(change);
    }
}

impl History {
    fn last_done(&self) -> u64 {
        self.changes
            .iter()
            .rfind(|change| change.done)
            .expect("the first is done")
            .id
    }

    /// The change at `index` is durable: what came before cannot come back, unless the change is soft and may not have
    /// happened at all.
    fn settle_from(&mut self, index: usize) {
        let certain = self.changes[..=index]
            .iter()
            .rposition(|change| !change.soft)
            .expect("the first is hard");
        self.changes.drain(..certain);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use iomgr_core::{Sector, SectorCount};

    const ALL: fn() -> SectorRange = || SectorRange::new(Sector(0), SectorCount(1)).unwrap();

    #[test]
    fn old_or_new_until_flushed() {
        let mut model = Model::new(1);
        model.begin(ALL(), 1, false);
        assert!(model.may_survive(0, 0) && model.may_survive(0, 1));
        model.done(ALL(), false);
        assert!(model.may_survive(0, 0) && model.may_read(0, 1) && !model.may_read(0, 0));
        let mark = model.flush_begin();
        model.begin(ALL(), 2, false);
        model.flush_done(mark);
        assert_eq!(model.allowed(0), [1, 2]);
    }

    #[test]
    fn a_flush_covers_only_what_was_done_when_it_began() {
        let mut model = Model::new(1);
        model.begin(ALL(), 1, false);
        let mark = model.flush_begin();
        model.done(ALL(), false);
        model.flush_done(mark);
        assert_eq!(model.allowed(0), [0, 1]);
    }

    #[test]
    fn fua_settles_and_a_discard_may_do_nothing() {
        let mut model = Model::new(1);
        model.begin(ALL(), 1, false);
        model.done(ALL(), true);
        assert_eq!(model.allowed(0), [1]);
        model.begin(ALL(), 0, true);
        model.done(ALL(), false);
        let mark = model.flush_begin();
        model.flush_done(mark);
        assert_eq!(model.allowed(0), [1, 0]);
        assert!(model.may_read(0, 1) && model.may_read(0, 0));
    }
}
