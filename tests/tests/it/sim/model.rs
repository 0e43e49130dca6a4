//! What each sector may hold: the oracle of the power-cut simulation.
//!
//! Every write puts a number of its own onto its sectors, so that a sector's content names the write that it is from. The
//! model has a clock, and notes when each change of a sector was begun and when it was acknowledged. A change is
//! *superseded* once another that was begun after its acknowledgement is certain; any change that is not may be what the
//! sector holds. What makes a change certain depends on who looks:
//!
//! ```text
//!  a read            acknowledged before the read was begun
//!  a dead process    acknowledged
//!  a power cut       durable: acknowledged before a flush was begun that has ended, or with FUA
//! ```

use iomgr_core::SectorRange;

/// A sector's content: the number of the write that it is from; 0 for zeros.
pub(super) type Stamp = u64;

/// A moment of the model's clock. No two things happen at the same.
pub(super) type Moment = u64;

/// One change of a sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Change {
    /// This names it, too.
    begun: Moment,
    /// It was acknowledged then.
    done: Option<Moment>,
    durable: bool,
    stamp: Stamp,
    /// A discard, or what failed: the sector may as well keep what it had.
    soft: bool,
}

/// A sector's changes that are not superseded for everybody; the first is certain.
#[derive(Clone, Debug)]
struct History(Vec<Change>);

/// A flush that is under way: what was acknowledged before will be durable.
#[derive(Clone, Copy, Debug)]
pub(super) struct FlushMark(Moment);

/// All sectors of a disk.
#[derive(Debug)]
pub(super) struct Model {
    sectors: Vec<History>,
    now: Moment,
    /// When the reads that are under way were begun.
    reads: Vec<Moment>,
}

impl Model {
    /// A disk of `sectors` zeros.
    pub(super) fn new(sectors: u64) -> Self {
        Self {
            sectors: vec![History::settled(0); usize::try_from(sectors).expect("simulated disks are small")],
            now: 0,
            reads: Vec::new(),
        }
    }

    /// How many sectors.
    pub(super) fn len(&self) -> usize {
        self.sectors.len()
    }

    fn tick(&mut self) -> Moment {
        self.now += 1;
        self.now
    }

    /// A read begins; its name.
    pub(super) fn read_begin(&mut self) -> Moment {
        let begun = self.tick();
        self.reads.push(begun);
        begun
    }

    /// It has ended, and what it saw was looked at.
    pub(super) fn read_end(&mut self, begun: Moment) {
        self.reads.retain(|&read| read != begun);
    }

    /// A change of `range` is submitted; its name. `soft`: a discard.
    pub(super) fn begin(&mut self, range: SectorRange, stamp: Stamp, soft: bool) -> Moment {
        let begun = self.tick();
        let change = Change {
            begun,
            done: None,
            durable: false,
            stamp,
            soft,
        };
        self.each(range, |history| history.0.push(change));
        begun
    }

    /// The change has ended well; `durable` with FUA.
    pub(super) fn done(&mut self, range: SectorRange, begun: Moment, durable: bool) {
        let (now, oldest) = (self.tick(), self.oldest_read());
        self.each(range, |history| {
            let change = history.0.iter_mut().find(|change| change.begun == begun);
            let change = change.expect("only a change that has ended is superseded");
            (change.done, change.durable) = (Some(now), durable);
            if durable {
                history.forget(oldest);
            }
        });
    }

    /// The change has failed: nobody knows what came of it.
    pub(super) fn failed(&mut self, range: SectorRange, begun: Moment) {
        let now = self.tick();
        self.each(range, |history| {
            let change = history.0.iter_mut().find(|change| change.begun == begun);
            let change = change.expect("only a change that has ended is superseded");
            (change.done, change.soft) = (Some(now), true);
        });
    }

    /// A flush begins.
    pub(super) fn flush_begin(&mut self) -> FlushMark {
        FlushMark(self.tick())
    }

    /// It has ended well.
    pub(super) fn flush_done(&mut self, FlushMark(begun): FlushMark) {
        let oldest = self.oldest_read();
        for history in self.sectors.iter_mut().filter(|history| history.0.len() > 1) {
            for change in &mut history.0 {
                change.durable |= change.done.is_some_and(|done| done < begun);
            }
            history.forget(oldest);
        }
    }

    fn oldest_read(&self) -> Moment {
        self.reads.iter().min().copied().unwrap_or(Moment::MAX)
    }

    /// What may a read see that was begun at `begun` and has ended?
    pub(super) fn readable(&self, sector: usize, begun: Moment) -> Vec<Stamp> {
        self.sectors[sector].stamps(|change| change.done.is_some_and(|done| done < begun))
    }

    /// What may the sector hold after a power cut now?
    pub(super) fn surviving(&self, sector: usize) -> Vec<Stamp> {
        self.sectors[sector].stamps(|change| change.durable)
    }

    /// What may the sector hold after the process died, the machine still running? What was acknowledged is there.
    pub(super) fn outliving(&self, sector: usize) -> Vec<Stamp> {
        self.sectors[sector].stamps(|change| change.done.is_some())
    }

    /// After a restart the sector is known to hold `stamp`, durably.
    pub(super) fn settle(&mut self, sector: usize, stamp: Stamp) {
        self.sectors[sector] = History::settled(stamp);
    }

    /// A process has died, and the sector was read as `stamp` since: what was under way is over, and a power cut may still
    /// take it all back.
    pub(super) fn outlived(&mut self, sector: usize, stamp: Stamp) {
        let (begun, done) = (self.tick(), Some(self.tick()));
        let history = &mut self.sectors[sector].0;
        for change in history.iter_mut().filter(|change| change.done.is_none()) {
            (change.done, change.soft) = (Some(begun), true);
        }
        history.push(Change {
            begun,
            done,
            durable: false,
            stamp,
            soft: false,
        });
    }

    fn each(&mut self, range: SectorRange, change: impl FnMut(&mut History)) {
        let at = |sector: u64| usize::try_from(sector).expect("simulated disks are small");
        self.sectors[at(range.start().0)..at(range.end().0)]
            .iter_mut()
            .for_each(change);
    }
}

impl History {
    fn settled(stamp: Stamp) -> Self {
        Self(vec![Change {
            begun: 0,
            done: Some(0),
            durable: true,
            stamp,
            soft: false,
        }])
    }

    /// When the last change was begun that is certain to have happened.
    fn line(&self, is_certain: impl Fn(&Change) -> bool) -> Moment {
        let certain = self.0.iter().filter(|change| !change.soft && is_certain(change));
        certain.map(|change| change.begun).max().expect("the first is certain")
    }

    fn stamps(&self, is_certain: impl Fn(&Change) -> bool) -> Vec<Stamp> {
        let line = self.line(is_certain);
        let possible = self.0.iter().filter(|change| !change.is_superseded(line));
        possible.map(|change| change.stamp).collect()
    }

    /// Drops what nobody can see any more: no power cut brings it back, and no read has been under way for so long.
    fn forget(&mut self, oldest_read: Moment) {
        let line = self.line(|change| change.durable && change.done.is_some_and(|done| done < oldest_read));
        self.0.retain(|change| !change.is_superseded(line));
    }
}

impl Change {
    /// Was it over when the change was begun that was begun at `line`?
    fn is_superseded(&self, line: Moment) -> bool {
        self.done.is_some_and(|done| done < line)
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
        let first = model.begin(ALL(), 1, false);
        assert_eq!(model.surviving(0), [0, 1]);
        model.done(ALL(), first, false);
        let now = model.read_begin();
        assert_eq!((model.surviving(0), model.readable(0, now)), (vec![0, 1], vec![1]));
        assert_eq!(model.outliving(0), [1]);
        let mark = model.flush_begin();
        model.begin(ALL(), 2, false);
        model.flush_done(mark);
        assert_eq!(model.surviving(0), [1, 2]);
    }

    #[test]
    fn a_flush_covers_only_what_was_done_when_it_began() {
        let mut model = Model::new(1);
        let first = model.begin(ALL(), 1, false);
        let mark = model.flush_begin();
        model.done(ALL(), first, false);
        model.flush_done(mark);
        assert_eq!(model.surviving(0), [0, 1]);
    }

    #[test]
    fn fua_settles_and_a_discard_may_do_nothing() {
        let mut model = Model::new(1);
        let first = model.begin(ALL(), 1, false);
        model.done(ALL(), first, true);
        assert_eq!(model.surviving(0), [1]);
        let second = model.begin(ALL(), 0, true);
        model.done(ALL(), second, false);
        let mark = model.flush_begin();
        model.flush_done(mark);
        let now = model.read_begin();
        assert_eq!((model.surviving(0), model.readable(0, now)), (vec![1, 0], vec![1, 0]));
    }

    #[test]
    fn changes_that_overlap_have_no_order() {
        let mut model = Model::new(1);
        let (first, second) = (model.begin(ALL(), 1, false), model.begin(ALL(), 2, false));
        model.done(ALL(), second, true);
        model.done(ALL(), first, false);
        assert_eq!(model.surviving(0), [1, 2]);
        let third = model.begin(ALL(), 3, false);
        model.done(ALL(), third, true);
        assert_eq!(model.surviving(0), [3]);
    }

    #[test]
    fn a_read_may_see_what_changes_while_it_is_under_way() {
        let mut model = Model::new(1);
        let begun = model.read_begin();
        let first = model.begin(ALL(), 1, false);
        model.done(ALL(), first, true);
        assert_eq!(model.readable(0, begun), [0, 1]);
        model.read_end(begun);
        let begun = model.read_begin();
        assert_eq!(model.readable(0, begun), [1]);
    }

    #[test]
    fn what_failed_may_have_happened_and_makes_nothing_certain() {
        let mut model = Model::new(1);
        let first = model.begin(ALL(), 1, false);
        model.failed(ALL(), first);
        assert_eq!((model.surviving(0), model.outliving(0)), (vec![0, 1], vec![0, 1]));
    }
}
