//! Where a device was found to hold data, so that it need not be asked before every read.
//!
//! Asking can be dear: a file on tmpfs walks through all pages up to the next hole. "Data" is never wrong, so what is
//! remembered needs no care when it becomes stale: zeros are sent then that might have been left out.

use iomgr_core::{Sector, SectorCount, SectorRange};

/// A few runs of data, the latest found.
#[derive(Debug, Default)]
pub(super) struct KnownData {
    runs: [SectorRange; RUNS],
    /// The run to forget next.
    oldest: usize,
}

const RUNS: usize = 8;

impl KnownData {
    /// Is all of `range` known to be data?
    pub(super) fn covers(&self, range: SectorRange) -> bool {
        let around = |run: &SectorRange| run.start() <= range.start() && range.end() <= run.end();
        self.runs.iter().any(around)
    }

    /// `range` was found to be data.
    pub(super) fn learn(&mut self, range: SectorRange) {
        self.runs[self.oldest] = range;
        self.oldest = (self.oldest + 1) % RUNS;
    }

    /// `range` was made zeros: of the runs that it cuts, the longer part stays.
    pub(super) fn forget(&mut self, range: SectorRange) {
        for run in self.runs.iter_mut().filter(|run| run.overlaps(range)) {
            let before = upto(run.start(), range.start());
            let behind = upto(range.end(), run.end());
            *run = if before.count() > behind.count() {
                before
            } else {
                behind
            };
        }
    }
}

/// From one sector up to another; nothing if that is not behind it.
fn upto(start: Sector, end: Sector) -> SectorRange {
    let count = SectorCount(end.0.saturating_sub(start.0));
    SectorRange::new(start, count).expect("a part of a range is a range")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> SectorRange {
        upto(Sector(start), Sector(end))
    }

    #[test]
    fn what_was_found_is_known_until_it_is_zeroed() {
        let mut known = KnownData::default();
        assert!(!known.covers(range(0, 8)));
        known.learn(range(100, 200));
        assert!(known.covers(range(100, 200)) && known.covers(range(150, 151)));
        assert!(!known.covers(range(99, 101)) && !known.covers(range(199, 201)));
        known.forget(range(110, 120));
        assert!(known.covers(range(120, 200)), "the longer part stays");
        assert!(!known.covers(range(119, 121)) && !known.covers(range(100, 110)));
        known.forget(range(0, 1000));
        assert!(!known.covers(range(120, 121)));
    }

    #[test]
    fn the_oldest_makes_way() {
        let mut known = KnownData::default();
        (0..9).for_each(|n| known.learn(range(n * 10, n * 10 + 5)));
        assert!(!known.covers(range(0, 5)));
        assert!((1..9).all(|n| known.covers(range(n * 10, n * 10 + 5))));
    }
}
