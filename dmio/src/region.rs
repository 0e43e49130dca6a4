//! Regions, and the states in which they end.

use iomgr_core::{Errno, SectorRange};

/// Most regions of one request.
pub const REGIONS_MAX: usize = 64;

/// A device of a client: its place in the list that the client was made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceIndex(pub u16);

/// A run of sectors on one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Region {
    /// On which device.
    pub device: DeviceIndex,
    /// Where.
    pub range: SectorRange,
}

/// Who gave a region up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Somebody with a handle of its request.
    Handle,
    /// Somebody who gave up all that was under way on its device.
    Device,
    /// Its time was up, and the request asked for this.
    Timeout,
    /// Another candidate of a choice was read.
    Unneeded,
}

/// How a region was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cancelled {
    /// By whom.
    pub reason: Reason,
    /// The device has seen nothing of it: nothing was read, nothing will be written.
    pub never_started: bool,
}

/// What a region came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RegionState {
    /// All of it was read or written.
    Ok,
    /// Its time is up and it still runs; one of the others follows.
    Timeout,
    /// It was given up. The caller's memory is free; a write may still reach the device later, unless it was never started.
    Cancelled(Cancelled),
    /// It failed.
    Error(Errno),
}

impl RegionState {
    /// Is the region over, so that nothing follows?
    pub fn is_terminal(self) -> bool {
        self != Self::Timeout
    }

    /// May `next` be notified after this one? At most one timeout, then exactly one end.
    pub fn may_precede(self, next: Self) -> bool {
        !self.is_terminal() && next.is_terminal()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_end_follows_a_timeout_and_nothing_follows_an_end() {
        use RegionState::{Error, Ok, Timeout};
        let cancelled = Cancelled {
            reason: Reason::Handle,
            never_started: true,
        };
        let ends = [Ok, RegionState::Cancelled(cancelled), Error(Errno::IO)];
        for end in ends {
            assert!(Timeout.may_precede(end));
            for next in ends.into_iter().chain([Timeout]) {
                assert!(!end.may_precede(next));
            }
        }
        assert!(!Timeout.may_precede(Timeout));
    }
}
