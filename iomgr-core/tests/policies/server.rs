//! What requests are served by: so many at a time, each for some time. Devices that share a server compete for it.

use std::collections::VecDeque;
use std::time::Duration;

use fastrand::Rng;
use iomgr_core::manager::Head;

use crate::sim::Place;

/// How a server works.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Service {
    /// Requests at a time; those besides wait, first come, first served.
    pub(crate) parallel: usize,
    /// What each takes.
    pub(crate) time: ServiceTime,
    /// What each takes besides for each KiB.
    pub(crate) per_kib: Duration,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum ServiceTime {
    Always(Duration),
    Between(Duration, Duration),
    /// Exponential, with this mean.
    Random(Duration),
}

impl Service {
    /// Any number at a time, each for so long.
    pub(crate) fn constant(time: Duration) -> Self {
        Self::shared(usize::MAX, time)
    }

    /// So many at a time, each for so long.
    pub(crate) fn shared(parallel: usize, time: Duration) -> Self {
        Self {
            parallel,
            time: ServiceTime::Always(time),
            per_kib: Duration::ZERO,
        }
    }

    /// Any service.
    pub(crate) fn random(rng: &mut Rng) -> Self {
        let mut micros = || Duration::from_micros(rng.u64(0..3000));
        let (one, other) = (micros(), micros());
        let time = match rng.u8(0..3) {
            0 => ServiceTime::Always(one),
            1 => ServiceTime::Between(one.min(other), one.max(other)),
            _ => ServiceTime::Random(one),
        };
        Self {
            parallel: [1, 4, 32, usize::MAX][rng.usize(0..4)],
            time,
            per_kib: Duration::from_nanos(rng.u64(0..500)),
        }
    }

    fn time(&self, rng: &mut Rng, head: &Head) -> Duration {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap();
        let kib = u32::try_from(head.range.len_bytes() / 1024).unwrap();
        let base = match self.time {
            ServiceTime::Always(time) => time,
            ServiceTime::Between(from, to) => Duration::from_nanos(rng.u64(nanos(from)..=nanos(to))),
            ServiceTime::Random(mean) => mean.mul_f64(-(1.0 - rng.f64()).ln()),
        };
        base + self.per_kib * kib
    }
}

/// A server at work.
#[derive(Debug)]
pub(crate) struct Server {
    service: Service,
    busy: usize,
    waiting: VecDeque<(Place, Head)>,
}

/// A request that is being served, for so long.
pub(crate) type Serving = (Place, Duration);

impl Server {
    pub(crate) fn new(service: Service) -> Self {
        Self {
            service,
            busy: 0,
            waiting: VecDeque::new(),
        }
    }

    /// Takes a request; says if it begins now.
    pub(crate) fn begin(&mut self, rng: &mut Rng, place: Place, head: Head) -> Option<Serving> {
        self.waiting.push_back((place, head));
        self.next(rng)
    }

    /// A request was served; says which begins now.
    pub(crate) fn end(&mut self, rng: &mut Rng) -> Option<Serving> {
        self.busy -= 1;
        self.next(rng)
    }

    fn next(&mut self, rng: &mut Rng) -> Option<Serving> {
        if self.busy >= self.service.parallel {
            return None;
        }
        let (place, head) = self.waiting.pop_front()?;
        self.busy += 1;
        Some((place, self.service.time(rng, &head)))
    }
}
