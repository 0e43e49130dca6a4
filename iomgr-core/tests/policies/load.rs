//! What a device is asked to do.

use std::ops::RangeInclusive;
use std::time::Duration;

use fastrand::Rng;
use iomgr_core::manager::Head;
use iomgr_core::{Operation, SECTOR_BYTES, Sector, SectorCount, SectorRange, Timestamp};

/// The work of one device. Made by [`closed`](Self::closed) or [`open`](Self::open), then shaped.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) arrivals: Arrivals,
    /// Queues of the device, each on a thread of its own.
    pub(crate) queues: u32,
    /// Requests that each queue takes at a time; what comes besides stays outside, not received yet.
    pub(crate) depth: u32,
    /// On for so long, off for so long, and again; always on if not given.
    pub(crate) phases: Option<(Duration, Duration)>,
    /// Which operations, and how many of the sum of these weights.
    pub(crate) mix: Vec<(Operation, u32)>,
    /// Bytes of a request, in whole sectors.
    pub(crate) bytes: RangeInclusive<u64>,
}

/// When requests come.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Arrivals {
    /// As many as the depth are outstanding on each queue, always.
    Closed,
    /// One after such a time on the whole device, whatever becomes of those before.
    Every(Duration),
    /// As `Every` on average, at random.
    Random(Duration),
}

impl Load {
    /// Reads of 4 KiB on one queue, with so many outstanding.
    pub(crate) fn closed(depth: u32) -> Self {
        Self {
            arrivals: Arrivals::Closed,
            queues: 1,
            depth,
            phases: None,
            mix: vec![(Operation::Read, 1)],
            bytes: 4096..=4096,
        }
    }

    /// Reads of 4 KiB on one queue, so many a second, evenly.
    pub(crate) fn open(per_second: u64) -> Self {
        Self {
            arrivals: Arrivals::Every(Duration::from_nanos(1_000_000_000 / per_second)),
            ..Self::closed(128)
        }
    }

    pub(crate) fn queues(mut self, queues: u32) -> Self {
        self.queues = queues;
        self
    }

    pub(crate) fn mix(mut self, mix: &[(Operation, u32)]) -> Self {
        self.mix = mix.to_vec();
        self
    }

    pub(crate) fn bytes(mut self, bytes: RangeInclusive<u64>) -> Self {
        self.bytes = bytes;
        self
    }

    pub(crate) fn phases(mut self, on: Duration, off: Duration) -> Self {
        self.phases = Some((on, off));
        self
    }

    /// Any load.
    pub(crate) fn random(rng: &mut Rng) -> Self {
        let every = Duration::from_micros(rng.u64(50..20_000));
        let arrivals = match rng.u8(0..4) {
            0 => Arrivals::Every(every),
            1 => Arrivals::Random(every),
            _ => Arrivals::Closed,
        };
        let mut ms = || Duration::from_millis(rng.u64(1..400));
        let phases = Some((ms(), ms()));
        let most = 1 << rng.u32(9..20);
        Self {
            arrivals,
            queues: rng.u32(1..4),
            depth: rng.u32(1..33),
            phases: phases.filter(|_| rng.bool()),
            mix: random_mix(rng),
            bytes: rng.u64(512..=most)..=most,
        }
    }

    /// The next request, received now.
    pub(crate) fn head(&self, rng: &mut Rng, now: Timestamp) -> Head {
        let op = self.op(rng);
        let bytes = rng.u64(self.bytes.clone());
        let sectors = match op {
            Operation::Flush => 0,
            _ => (bytes / SECTOR_BYTES).max(1),
        };
        let range = SectorRange::new(Sector(rng.u64(0..1 << 30)), SectorCount(sectors)).unwrap();
        Head::new(op, range, now)
    }

    fn op(&self, rng: &mut Rng) -> Operation {
        let mut choice = rng.u32(0..self.mix.iter().map(|(_, weight)| weight).sum());
        for (op, weight) in &self.mix {
            match choice.checked_sub(*weight) {
                Some(rest) => choice = rest,
                None => return *op,
            }
        }
        unreachable!("the choice is below the sum")
    }

    /// How long until the next request of an open load.
    pub(crate) fn gap(&self, rng: &mut Rng) -> Option<Duration> {
        match self.arrivals {
            Arrivals::Closed => None,
            Arrivals::Every(gap) => Some(gap),
            Arrivals::Random(mean) => Some(mean.mul_f64(-(1.0 - rng.f64()).ln())),
        }
    }
}

fn random_mix(rng: &mut Rng) -> Vec<(Operation, u32)> {
    let mut weight = |op, most| (op, rng.u32(0..most));
    let mut mix = vec![
        weight(Operation::Read, 10),
        weight(Operation::Write, 10),
        weight(Operation::Flush, 3),
        weight(Operation::Discard, 2),
        weight(Operation::WriteZeroes, 2),
        weight(Operation::Prefetch, 2),
    ];
    mix[0].1 += 1;
    mix
}
