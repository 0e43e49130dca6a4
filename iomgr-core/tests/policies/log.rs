//! What became of a device's requests.

use std::ops::Range;
use std::time::Duration;

use iomgr_core::Timestamp;
use iomgr_core::manager::Head;

/// Every start and every end, in the order of time.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) starts: Vec<Start>,
    pub(crate) ends: Vec<End>,
    /// Requests handed back by a detach.
    pub(crate) handed_back: u64,
    pub(crate) in_flight: u64,
    pub(crate) in_flight_max: u64,
}

/// A request that was granted and started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start {
    pub(crate) at: Timestamp,
    pub(crate) head: Head,
}

/// A request that ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End {
    pub(crate) at: Timestamp,
    pub(crate) head: Head,
}

impl Start {
    /// How long it was held.
    pub(crate) fn wait(&self) -> Duration {
        self.at.since(self.head.arrival)
    }
}

impl Log {
    pub(super) fn start(&mut self, at: Timestamp, head: Head) {
        self.starts.push(Start { at, head });
        self.in_flight += 1;
        self.in_flight_max = self.in_flight_max.max(self.in_flight);
    }

    pub(super) fn end(&mut self, at: Timestamp, head: Head) {
        self.ends.push(End { at, head });
        self.in_flight -= 1;
    }

    /// What started at an instant of `span`.
    pub(crate) fn started(&self, span: Range<Timestamp>) -> &[Start] {
        let from = self.starts.partition_point(|start| start.at < span.start);
        let to = self.starts.partition_point(|start| start.at < span.end);
        &self.starts[from..to]
    }

    /// What ended at an instant of `span`.
    pub(crate) fn ended(&self, span: Range<Timestamp>) -> &[End] {
        let from = self.ends.partition_point(|end| end.at < span.start);
        let to = self.ends.partition_point(|end| end.at < span.end);
        &self.ends[from..to]
    }

    /// Bytes of what started in `span`.
    pub(crate) fn bytes(&self, span: Range<Timestamp>) -> u64 {
        self.started(span)
            .iter()
            .map(|start| start.head.range.len_bytes())
            .sum()
    }

    /// Of what ended in `span`, the time that `percent` of 100 took at most, from arrival to end.
    pub(crate) fn latency(&self, span: Range<Timestamp>, percent: usize) -> Option<Duration> {
        let latency = |end: &End| end.at.since(end.head.arrival);
        let mut all: Vec<Duration> = self.ended(span).iter().map(latency).collect();
        all.sort_unstable();
        all.get((all.len() * percent).div_ceil(100).saturating_sub(1)).copied()
    }
}

/// The instant so many milliseconds after the start.
pub(crate) fn at_ms(ms: u64) -> Timestamp {
    Timestamp::from_nanos(ms * 1_000_000)
}

/// Jain's index of fairness: 1 when all are the same, 1/n when one has everything.
pub(crate) fn jain(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    sum * sum / (squares * shares.len() as f64)
}
