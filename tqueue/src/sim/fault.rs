//! What goes wrong with the ops on one file: which ops, how often, and how.
//!
//! A fault that is not set draws no random number, so that a seed of a test without it stays the run that it was.

use std::ops::Range;
use std::time::Duration;

use fastrand::Rng;
use rustix::io::Errno;

bitflags::bitflags! {
    /// What ops do, as the disk sees it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct OpKinds: u8 {
        /// Reads.
        const READ = 1 << 0;
        /// Writes, durable ones and zeros that are written included.
        const WRITE = 1 << 1;
        /// Flushes.
        const FLUSH = 1 << 2;
        /// Holes and zeroed ranges: discards and write-zeroes that the file system does.
        const ZERO = 1 << 3;
    }
}

/// Something that goes wrong with ops that are issued while it is set ([`SimDisk::inject`](super::SimDisk::inject)).
///
/// Made from what happens, then narrowed down; at first it is about every op of the file. Several faults may hit one op:
/// of errors the first counts, times add up.
///
/// ```
/// use std::time::Duration;
/// use tqueue::Errno;
/// use tqueue::sim::{Fault, OpKinds, SimConfig, SimHandle};
///
/// let disk = SimHandle::new(SimConfig::new(1)).create_file();
/// disk.inject(Fault::error(Errno::IO).on(OpKinds::READ).within(4096..8192));
/// disk.inject(Fault::error(Errno::AGAIN).one_in(10));
/// disk.inject(Fault::late(Duration::from_secs(30)).on(OpKinds::WRITE).times(1));
/// ```
#[derive(Clone, Debug)]
pub struct Fault {
    effect: Effect,
    kinds: OpKinds,
    bytes: Range<u64>,
    one_in: u32,
    left: u32,
}

#[derive(Clone, Copy, Debug)]
enum Effect {
    Error(Failure),
    Delay(Duration),
    Late(Duration),
    Hold,
}

/// How an op fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) errno: Errno,
    /// It may have done some of its work.
    pub(crate) partly: bool,
}

/// What an op meets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mishap {
    pub(crate) failure: Option<Failure>,
    /// The op itself takes so much longer.
    pub(crate) delay: Duration,
    /// Its completion takes so much longer.
    pub(crate) late: Duration,
    /// It begins only when it is released.
    pub(crate) held: bool,
}

impl Fault {
    /// Ops fail with this, having done nothing.
    ///
    /// A flush is different, as on Linux: unless the error says that nothing was tried (`EINTR`, `EAGAIN`, `EBUSY`, `ENOMEM`),
    /// what it covered is in part durable and in part lost for good.
    pub fn error(errno: Errno) -> Self {
        Self::new(Effect::Error(Failure { errno, partly: false }))
    }

    /// Writes fail with this, having written some of their sectors, or all, or none. Other ops fail as by
    /// [`error`](Self::error).
    pub fn torn_error(errno: Errno) -> Self {
        Self::new(Effect::Error(Failure { errno, partly: true }))
    }

    /// Ops take so much longer.
    pub fn delay(time: Duration) -> Self {
        Self::new(Effect::Delay(time))
    }

    /// Ops are done in time, and that is told so much later.
    pub fn late(time: Duration) -> Self {
        Self::new(Effect::Late(time))
    }

    /// Ops do not begin until they are released ([`SimDisk::release`](super::SimDisk::release)).
    pub fn hold() -> Self {
        Self::new(Effect::Hold)
    }

    fn new(effect: Effect) -> Self {
        Self {
            effect,
            kinds: OpKinds::all(),
            bytes: 0..u64::MAX,
            one_in: 1,
            left: u32::MAX,
        }
    }

    /// Only ops of these kinds.
    #[must_use]
    pub fn on(self, kinds: OpKinds) -> Self {
        Self { kinds, ..self }
    }

    /// Only ops that touch these bytes. A flush touches all.
    #[must_use]
    pub fn within(self, bytes: Range<u64>) -> Self {
        Self { bytes, ..self }
    }

    /// Only one op in this many, at random; 0 for none.
    #[must_use]
    pub fn one_in(self, n: u32) -> Self {
        Self { one_in: n, ..self }
    }

    /// Only so many times.
    #[must_use]
    pub fn times(self, n: u32) -> Self {
        Self { left: n, ..self }
    }

    /// Does it hit an op of this kind on these bytes? Counts it if so.
    fn hits(&mut self, kind: OpKinds, bytes: &Range<u64>, rng: &mut Rng) -> bool {
        let touches = kind == OpKinds::FLUSH || (self.bytes.start < bytes.end && bytes.start < self.bytes.end);
        let hit = self.left > 0 && self.kinds.contains(kind) && touches && one_in(rng, self.one_in);
        // No limit is a number that is never used up.
        self.left -= u32::from(hit && self.left < u32::MAX);
        hit
    }
}

/// What an op of this kind on these bytes meets.
pub(crate) fn mishap(faults: &mut [Fault], kind: OpKinds, bytes: &Range<u64>, rng: &mut Rng) -> Mishap {
    let mut mishap = Mishap::default();
    for fault in faults {
        if !fault.hits(kind, bytes, rng) {
            continue;
        }
        match fault.effect {
            Effect::Error(failure) => mishap.failure = mishap.failure.or(Some(failure)),
            Effect::Delay(time) => mishap.delay += time,
            Effect::Late(time) => mishap.late += time,
            Effect::Hold => mishap.held = true,
        }
    }
    mishap
}

impl Failure {
    /// Does the error say that nothing was tried?
    pub(crate) fn is_refusal(self) -> bool {
        [Errno::INTR, Errno::AGAIN, Errno::BUSY, Errno::NOMEM].contains(&self.errno)
    }
}

/// A lot; none is drawn where the outcome is certain.
pub(crate) fn one_in(rng: &mut Rng, n: u32) -> bool {
    n == 1 || (n > 0 && rng.u32(..n) == 0)
}
