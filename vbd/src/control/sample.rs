//! `stats`: what was done between two looks.
//!
//! Counts only grow, so what was done since the last look is a difference, latencies included: histograms can be subtracted.
//! The last look is the connection's, so that each client gets its own intervals.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use iomgr_core::manager::{DeviceId, ManagedDevice, WaitTimes};
use iomgr_core::stats::Figures;
use serde::{Deserialize, Serialize};

use super::Service;
use crate::error::Error;
use crate::server::Served;
use crate::stats::Stats;

/// What was done since a connection last asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sample {
    /// The current manager.
    pub manager: String,
    /// Requests pending over all disks, now.
    pub pending: u64,
    /// The disks.
    pub disks: Vec<DiskSample>,
}

/// What was done on a disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DiskSample {
    /// The disk.
    pub name: String,
    /// Seconds that this is about: since this connection last asked for the disk, or since the disk was opened.
    pub interval_s: f64,
    /// Requests that started and have not ended, now.
    pub pending: u64,
    /// Requests that the manager let wait and then allowed.
    pub waits: u64,
    /// How long 99 of 100 of them waited at most, in microseconds, within 12.5 %.
    pub wait_p99_us: f64,
    /// What ended.
    #[serde(flatten)]
    pub stats: Stats,
}

/// What a connection has seen last.
#[derive(Debug, Default)]
pub(super) struct Looks(HashMap<DeviceId, Look>);

#[derive(Debug)]
struct Look {
    at: Instant,
    /// Since when the disk has counted. Devices' numbers are used again: this tells disks apart.
    since: Instant,
    figures: [Figures; 4],
    waits: BTreeMap<Duration, u64>,
}

impl Looks {
    /// A sample of the disk of that name, or of all.
    pub(super) fn sample(&mut self, service: &dyn Service, disk: Option<&str>) -> Result<Sample, Error> {
        let served = match disk {
            Some(name) => vec![service.find(name)?],
            None => service.disks(),
        };
        let registry = service.governor().registry();
        let devices = registry.devices();
        let is_there = |id: &DeviceId| devices.iter().any(|device| device.info().id() == *id);
        self.0.retain(|id, _| is_there(id));
        // One that is detached meanwhile is none.
        let managed = |name: &str| devices.iter().find(|device| device.info().name() == name);
        let disks = served
            .iter()
            .filter_map(|served| Some(self.disk(served, managed(&served.name())?)));
        Ok(Sample {
            disks: disks.collect(),
            manager: service.governor().name(),
            pending: registry.pending_total(),
        })
    }

    fn disk(&mut self, served: &Served, device: &ManagedDevice) -> DiskSample {
        let look = Look {
            at: Instant::now(),
            since: served.since(),
            figures: served.figures(),
            waits: by_bound(&device.wait_times()),
        };
        let last = self.0.get(&device.info().id());
        let last = last.filter(|last| last.since == look.since);
        let since = last.map_or(look.since, |last| last.at);
        let waits = look.waits_after(last);
        let sample = DiskSample {
            name: served.name(),
            interval_s: look.at.duration_since(since).as_secs_f64(),
            pending: device.pending(),
            waits: waits.values().sum(),
            wait_p99_us: p99_us(&waits),
            stats: Stats::new(&look.figures_after(last)),
        };
        self.0.insert(device.info().id(), look);
        sample
    }
}

impl Look {
    fn figures_after(&self, last: Option<&Self>) -> [Figures; 4] {
        let mut figures = self.figures.clone();
        if let Some(last) = last {
            figures
                .iter_mut()
                .zip(&last.figures)
                .for_each(|(all, past)| all.subtract(past));
        }
        figures
    }

    fn waits_after(&self, last: Option<&Self>) -> BTreeMap<Duration, u64> {
        let before = |bound: &Duration| last.and_then(|last| last.waits.get(bound)).copied().unwrap_or(0);
        let since = |(bound, count): (&Duration, &u64)| (*bound, count.saturating_sub(before(bound)));
        self.waits.iter().map(since).filter(|(_, count)| *count > 0).collect()
    }
}

fn by_bound(waits: &WaitTimes) -> BTreeMap<Duration, u64> {
    waits.buckets().collect()
}

/// The bound that 99 of 100 do not exceed.
fn p99_us(waits: &BTreeMap<Duration, u64>) -> f64 {
    let rank = (waits.values().sum::<u64>() * 99).div_ceil(100);
    let mut below = 0;
    let reached = waits.iter().find(|(_, count)| {
        below += **count;
        below >= rank
    });
    reached.map_or(0.0, |(bound, _)| bound.as_secs_f64() * 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_those_since_the_last_look() {
        let us = Duration::from_micros;
        let look = |waits: &[(u64, u64)]| Look {
            at: Instant::now(),
            since: Instant::now(),
            figures: std::array::from_fn(|_| Figures::new(iomgr_core::stats::Precision::Percent)),
            waits: waits.iter().map(|&(bound, count)| (us(bound), count)).collect(),
        };
        let (first, second) = (look(&[(8, 1000)]), look(&[(8, 1098), (64, 2)]));
        assert_eq!(p99_us(&first.waits_after(None)), 8.0);
        let since = second.waits_after(Some(&first));
        assert_eq!(since, BTreeMap::from([(us(8), 98), (us(64), 2)]));
        assert_eq!(p99_us(&since), 64.0);
        assert_eq!(p99_us(&second.waits_after(Some(&second))), 0.0);
    }
}
