//! What a client knows of its writes: which were acknowledged, which were in flight when the server died.

use std::collections::{BTreeMap, HashMap};

/// The writes of one client over several lives of a server.
#[derive(Debug, Default)]
pub(crate) struct History {
    /// The write that each sector holds for certain; none: zeros.
    held: BTreeMap<u64, Option<u64>>,
    /// Sent and not answered, by cookie.
    in_flight: HashMap<u64, Write>,
    /// In flight when a server died: may have landed or not.
    unknown: Vec<Write>,
    writes: u64,
}

#[derive(Debug, Clone, Copy)]
struct Write {
    number: u64,
    first: u64,
    sectors: u64,
}

impl Write {
    fn covers(&self, sector: u64) -> bool {
        (self.first..self.first + self.sectors).contains(&sector)
    }
}

impl History {
    /// The number of the next write; numbers start at 1.
    pub(crate) fn next_write(&mut self) -> u64 {
        self.writes += 1;
        self.writes
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// The number of sectors ever written.
    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }

    /// Two writes in flight over one sector may end in either order: tests that need to know avoid that.
    pub(crate) fn overlaps_in_flight(&self, first: u64, sectors: u64) -> bool {
        self.in_flight
            .values()
            .any(|write| first < write.first + write.sectors && write.first < first + sectors)
    }

    pub(crate) fn sent(&mut self, cookie: u64, number: u64, first: u64, sectors: u64) {
        self.in_flight.insert(cookie, Write { number, first, sectors });
        for sector in first..first + sectors {
            self.held.entry(sector).or_insert(None);
        }
    }

    pub(crate) fn acknowledged(&mut self, cookie: u64) {
        let write = self
            .in_flight
            .remove(&cookie)
            .expect("a reply to a write that was sent");
        for sector in write.first..write.first + write.sectors {
            self.held.insert(sector, Some(write.number));
        }
    }

    /// Runs of neighbouring sectors that were ever written, at most 64 KiB long. What was in flight is unknown now.
    pub(crate) fn runs(&mut self) -> Vec<(u64, u64)> {
        self.unknown.extend(self.in_flight.drain().map(|(_, write)| write));
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for &sector in self.held.keys() {
            match runs.last_mut() {
                Some((first, sectors)) if *first + *sectors == sector && *sectors < 128 => *sectors += 1,
                _ => runs.push((sector, 1)),
            }
        }
        runs
    }

    /// A sector was read: it must hold its last acknowledged write, or one that was in flight.
    pub(crate) fn found(&mut self, sector: u64, write: Option<u64>) {
        let held = self.held.get_mut(&sector).expect("only written sectors are read");
        if *held == write {
            return;
        }
        let unknown = self
            .unknown
            .iter()
            .find(|unknown| unknown.covers(sector) && Some(unknown.number) == write);
        assert!(
            unknown.is_some(),
            "sector {sector} holds write {write:?}, acknowledged was {held:?}"
        );
        *held = write;
    }

    /// All sectors were read: nothing is unknown any more.
    pub(crate) fn settle(&mut self) {
        self.unknown.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn killed_with_one_in_flight() -> History {
        let mut history = History::default();
        let (first, second) = (history.next_write(), history.next_write());
        history.sent(1, first, 10, 2);
        history.acknowledged(1);
        history.sent(2, second, 11, 2);
        assert_eq!(history.runs(), [(10, 3)]);
        history
    }

    #[test]
    fn old_and_new_are_both_right_for_what_was_in_flight() {
        let mut history = killed_with_one_in_flight();
        history.found(10, Some(1));
        history.found(11, Some(2));
        history.found(12, None);
    }

    #[test]
    fn a_lost_acknowledged_write_is_found_out() {
        let lost = || killed_with_one_in_flight().found(10, None);
        assert!(std::panic::catch_unwind(lost).is_err());
        let foreign = || killed_with_one_in_flight().found(10, Some(2));
        assert!(std::panic::catch_unwind(foreign).is_err());
    }
}
