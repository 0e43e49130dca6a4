//! How a machine behaves in general; what goes wrong with one file is a [`Fault`](super::Fault).

use std::ops::Range;
use std::time::Duration;

/// How a simulated machine behaves.
///
/// ```
/// use std::time::Duration;
/// use tqueue::sim::SimConfig;
///
/// let moody = SimConfig::new(42);
/// let calm = SimConfig::calm(42).latency(Duration::from_micros(100)..Duration::from_micros(100));
/// # let _ = (moody, calm);
/// ```
#[derive(Clone, Debug)]
pub struct SimConfig {
    /// Everything random comes from here.
    pub seed: u64,
    /// How long an op takes.
    pub latency: Range<Duration>,
    /// One op in this many takes a hundred times as long; 0 for none.
    pub stall_every: u32,
    /// One transfer in this many comes short; 0 for none.
    pub short_every: u32,
    /// One op in this many is interrupted (`EINTR`) before it did anything; 0 for none.
    pub interrupt_every: u32,
    /// One submission in this many finds no room in the ring, and nothing happens to it; 0 for none.
    pub refuse_every: u32,
    /// One write in this many takes its bytes from memory when it is done, as disks may, and not when it is issued; 0 for none.
    pub take_late_every: u32,
}

impl SimConfig {
    /// A machine with the moods of any machine: it is slow at times, transfers come short, ops are interrupted.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            latency: Duration::from_micros(20)..Duration::from_millis(2),
            stall_every: 100,
            short_every: 20,
            interrupt_every: 100,
            refuse_every: 0,
            take_late_every: 0,
        }
    }

    /// A machine without moods: ops take their time, which is random, and are done.
    pub fn calm(seed: u64) -> Self {
        Self {
            stall_every: 0,
            short_every: 0,
            interrupt_every: 0,
            ..Self::new(seed)
        }
    }

    /// Sets [`latency`](Self#structfield.latency); both ends are possible.
    #[must_use]
    pub fn latency(self, latency: Range<Duration>) -> Self {
        Self { latency, ..self }
    }

    /// Sets [`stall_every`](Self#structfield.stall_every).
    #[must_use]
    pub fn stall_every(self, stall_every: u32) -> Self {
        Self { stall_every, ..self }
    }

    /// Sets [`short_every`](Self#structfield.short_every).
    #[must_use]
    pub fn short_every(self, short_every: u32) -> Self {
        Self { short_every, ..self }
    }

    /// Sets [`interrupt_every`](Self#structfield.interrupt_every).
    #[must_use]
    pub fn interrupt_every(self, interrupt_every: u32) -> Self {
        Self {
            interrupt_every,
            ..self
        }
    }

    /// Sets [`refuse_every`](Self#structfield.refuse_every).
    #[must_use]
    pub fn refuse_every(self, refuse_every: u32) -> Self {
        Self { refuse_every, ..self }
    }

    /// Sets [`take_late_every`](Self#structfield.take_late_every).
    #[must_use]
    pub fn take_late_every(self, take_late_every: u32) -> Self {
        Self {
            take_late_every,
            ..self
        }
    }
}
