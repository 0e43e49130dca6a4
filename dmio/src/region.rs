//! Regions, and the states in which they end.

use iomgr_core::{Errno, SectorCount, SectorRange};

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

/// What a region came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RegionState {
    /// All of it was read or written.
    Ok,
    /// Its time is up and it still runs; one of the others follows.
    Timeout,
    /// It was given up. The caller's memory is free; a write may still reach the device later.
    Cancelled,
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

/// Checks the regions of a request against the sizes of the client's devices: 1 to 64 of them, none empty, each on a device
/// that is there, and on it as a whole. `EINVAL` otherwise.
pub fn check_regions(regions: &[Region], sizes: &[SectorCount]) -> Result<(), Errno> {
    let lies_on_its_device = |region: &Region| {
        let size = sizes.get(usize::from(region.device.0));
        !region.range.is_empty() && size.is_some_and(|size| region.range.fits(*size))
    };
    let count = (1..=REGIONS_MAX).contains(&regions.len());
    (count && regions.iter().all(lies_on_its_device))
        .then_some(())
        .ok_or(Errno::INVAL)
}

#[cfg(test)]
mod tests {
    use iomgr_core::Sector;

    use super::*;

    const SIZES: [SectorCount; 2] = [SectorCount(100), SectorCount(10)];

    fn region(device: u16, start: u64, count: u64) -> Region {
        let range = SectorRange::new(Sector(start), SectorCount(count)).unwrap();
        Region {
            device: DeviceIndex(device),
            range,
        }
    }

    #[test]
    fn regions_lie_on_their_own_device() {
        assert_eq!(check_regions(&[region(0, 92, 8), region(1, 2, 8)], &SIZES), Ok(()));
        for bad in [region(1, 3, 8), region(0, 100, 1), region(2, 0, 1), region(0, 5, 0)] {
            assert_eq!(
                check_regions(&[region(0, 0, 1), bad], &SIZES),
                Err(Errno::INVAL),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn there_are_one_to_64_regions() {
        assert_eq!(check_regions(&[], &SIZES), Err(Errno::INVAL));
        assert_eq!(check_regions(&[region(0, 0, 1); REGIONS_MAX], &SIZES), Ok(()));
        assert_eq!(
            check_regions(&[region(0, 0, 1); REGIONS_MAX + 1], &SIZES),
            Err(Errno::INVAL)
        );
    }

    #[test]
    fn only_an_end_follows_a_timeout_and_nothing_follows_an_end() {
        use RegionState::{Cancelled, Error, Ok, Timeout};
        let ends = [Ok, Cancelled, Error(Errno::IO)];
        for end in ends {
            assert!(Timeout.may_precede(end));
            for next in ends.into_iter().chain([Timeout]) {
                assert!(!end.may_precede(next));
            }
        }
        assert!(!Timeout.may_precede(Timeout));
    }
}
