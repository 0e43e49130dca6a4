//! What ublk can do, by kernel, and what goes with what.

use std::fmt;

bitflags::bitflags! {
    /// Feature flags of a ublk device (`UBLK_F_*`), as `GET_FEATURES` answers and `ADD_DEV` takes them.
    ///
    /// The kernel silently drops those that it does not know from `ADD_DEV`: compare what comes back. Bits that have no
    /// name here are kept, so that a newer kernel's answer is not cut.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Features: u64 {
        /// A request's pages are registered as a fixed buffer; the server never sees the bytes.
        const SUPPORT_ZERO_COPY = 1 << 0;
        /// Old; always on.
        const URING_CMD_COMP_IN_TASK = 1 << 1;
        /// Old: ask for the data of a write in a second step.
        const NEED_GET_DATA = 1 << 2;
        /// The disk survives the server's death.
        const USER_RECOVERY = 1 << 3;
        /// Requests in flight at that moment are sent again to the next server.
        const USER_RECOVERY_REISSUE = 1 << 4;
        /// For users who are not root.
        const UNPRIVILEGED_DEV = 1 << 5;
        /// Commands are encoded as for ioctl; always on.
        const CMD_IOCTL_ENCODE = 1 << 6;
        /// Data is read and written on the character device, from any thread.
        const USER_COPY = 1 << 7;
        /// Zoned devices.
        const ZONED = 1 << 8;
        /// Without a server, requests fail at once.
        const USER_RECOVERY_FAIL_IO = 1 << 9;
        /// The size can change while the device is in use.
        const UPDATE_SIZE = 1 << 10;
        /// The kernel registers the buffer when it delivers the request.
        const AUTO_BUF_REG = 1 << 11;
        /// A planned hand-over from one server to the next.
        const QUIESCE = 1 << 12;
        /// Every tag may have a task of its own.
        const PER_IO_DAEMON = 1 << 13;
        /// Buffers may be registered on another ring than the request's.
        const BUF_REG_OFF_DAEMON = 1 << 14;
        /// One command fetches many requests, one commits many.
        const BATCH_IO = 1 << 15;
        /// Integrity data.
        const INTEGRITY = 1 << 16;
        /// Stopping fails while the device is open.
        const SAFE_STOP_DEV = 1 << 17;
        /// The kernel does not look for partitions.
        const NO_AUTO_PART_SCAN = 1 << 18;
        /// Pages that are shared with the server are recognised.
        const SHMEM_ZC = 1 << 19;
        /// The size of descriptors is negotiated.
        const IO_DESC_SIZE = 1 << 20;
        const _ = !0;
    }
}

/// A kernel release, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KernelVersion {
    /// The 6 of 6.12.
    pub major: u16,
    /// The 12 of 6.12.
    pub minor: u16,
}

/// Two features that do not go together, or one that lacks another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// What was asked for.
    pub feature: Features,
    /// What it excludes, or lacks.
    pub other: Features,
    /// Does it lack it, rather than exclude it?
    pub lacking: bool,
}

/// Which kernel brought which feature. Only what its own `GET_FEATURES` says counts; this is for telling people.
const SINCE: [(Features, u16, u16); 21] = [
    (Features::SUPPORT_ZERO_COPY, 6, 15),
    (Features::URING_CMD_COMP_IN_TASK, 6, 0),
    (Features::NEED_GET_DATA, 6, 0),
    (Features::USER_RECOVERY, 6, 1),
    (Features::USER_RECOVERY_REISSUE, 6, 1),
    (Features::UNPRIVILEGED_DEV, 6, 3),
    (Features::CMD_IOCTL_ENCODE, 6, 4),
    (Features::USER_COPY, 6, 5),
    (Features::ZONED, 6, 6),
    (Features::USER_RECOVERY_FAIL_IO, 6, 13),
    (Features::UPDATE_SIZE, 6, 16),
    (Features::AUTO_BUF_REG, 6, 16),
    (Features::QUIESCE, 6, 16),
    (Features::PER_IO_DAEMON, 6, 16),
    (Features::BUF_REG_OFF_DAEMON, 6, 17),
    (Features::BATCH_IO, 7, 0),
    (Features::INTEGRITY, 7, 0),
    (Features::SAFE_STOP_DEV, 7, 0),
    (Features::NO_AUTO_PART_SCAN, 7, 0),
    (Features::SHMEM_ZC, 7, 1),
    (Features::IO_DESC_SIZE, 7, 3),
];

impl Features {
    /// All that have a name here, each with it, in the order of their bits.
    pub fn all_named() -> impl Iterator<Item = (&'static str, Self)> {
        let named = |feature: &bitflags::Flag<Self>| feature.is_named().then(|| (feature.name(), *feature.value()));
        <Self as bitflags::Flags>::FLAGS.iter().filter_map(named)
    }

    /// The kernel that brought all of these; `None` if one of them has no name here, or there are none.
    pub fn since(self) -> Option<KernelVersion> {
        let one = |bit: Features| SINCE.iter().find(|(feature, ..)| *feature == bit);
        let versions = self
            .bits_alone()
            .map(|bit| one(bit).map(|(_, major, minor)| (*major, *minor)));
        let newest = versions.collect::<Option<Vec<_>>>()?.into_iter().max()?;
        Some(KernelVersion {
            major: newest.0,
            minor: newest.1,
        })
    }

    /// Do they go together?
    pub fn check(self) -> Result<(), Conflict> {
        let recovery = Self::USER_RECOVERY;
        let unsafe_for_users = Self::USER_COPY | Self::SUPPORT_ZERO_COPY | Self::AUTO_BUF_REG | recovery;
        self.excludes(Self::UNPRIVILEGED_DEV, unsafe_for_users)?;
        self.demands(Self::QUIESCE, recovery)?;
        self.demands(Self::USER_RECOVERY_REISSUE, recovery)?;
        self.demands(Self::USER_RECOVERY_FAIL_IO, recovery)
    }

    fn excludes(self, feature: Self, others: Self) -> Result<(), Conflict> {
        let other = self & others;
        match self.contains(feature) && !other.is_empty() {
            true => Err(Conflict {
                feature,
                other,
                lacking: false,
            }),
            false => Ok(()),
        }
    }

    fn demands(self, feature: Self, other: Self) -> Result<(), Conflict> {
        match self.contains(feature) && !self.contains(other) {
            true => Err(Conflict {
                feature,
                other,
                lacking: true,
            }),
            false => Ok(()),
        }
    }

    fn bits_alone(self) -> impl Iterator<Item = Self> {
        (0..u64::BITS)
            .map(|bit| Self::from_bits_retain(1 << bit))
            .filter(move |bit| self.contains(*bit))
    }
}

impl fmt::Display for KernelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Linux {}.{}", self.major, self.minor)
    }
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.lacking { "needs" } else { "excludes" };
        bitflags::parser::to_writer(&self.feature, &mut *f)?;
        write!(f, " {verb} ")?;
        bitflags::parser::to_writer(&self.other, &mut *f)
    }
}

impl std::error::Error for Conflict {}

#[cfg(test)]
mod tests {
    use super::*;

    const fn linux(major: u16, minor: u16) -> KernelVersion {
        KernelVersion { major, minor }
    }

    /// What `GET_FEATURES` answered on these kernels.
    #[test]
    fn measured_answers_are_what_the_table_says() {
        for (answer, kernel) in [(0x1fe, linux(6, 12)), (0x1f_ffff, linux(7, 3))] {
            let by_table = SINCE.iter().filter(|(_, major, minor)| linux(*major, *minor) <= kernel);
            let known: Features = by_table.map(|(feature, ..)| *feature).collect();
            assert_eq!(known, Features::from_bits_retain(answer), "{kernel}");
        }
    }

    #[test]
    fn the_newest_feature_says_which_kernel_it_takes() {
        let features = Features::USER_RECOVERY | Features::UPDATE_SIZE;
        assert_eq!(features.since(), Some(linux(6, 16)));
        assert_eq!(
            (Features::empty().since(), Features::from_bits_retain(1 << 40).since()),
            (None, None)
        );
    }

    #[test]
    fn what_does_not_go_together_is_named() {
        assert_eq!((Features::USER_RECOVERY | Features::QUIESCE).check(), Ok(()));
        let conflict = Features::QUIESCE.check().unwrap_err();
        assert_eq!(conflict.to_string(), "QUIESCE needs USER_RECOVERY");
        let conflict = (Features::UNPRIVILEGED_DEV | Features::USER_COPY).check().unwrap_err();
        assert_eq!(conflict.to_string(), "UNPRIVILEGED_DEV excludes USER_COPY");
    }

    #[test]
    fn bits_of_newer_kernels_are_kept() {
        assert_eq!(Features::from_bits_retain(1 << 40).bits(), 1 << 40);
        assert_eq!(Features::from_bits_truncate(1 << 40).bits(), 1 << 40);
    }
}
