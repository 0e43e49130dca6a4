//! What a client is made from.

use std::sync::Arc;
use std::time::Duration;

use iomgr_core::{Device, Lease, SectorCount, Waker};
use tqueue::{Config, EngineKind, Queue};

use super::deliver::Entry;
use crate::core::Clock;
use crate::{Error, ErrorKind, Runner, RunnerConfig};

/// Replaced devices that may owe answers at the same time.
const REPLACED_MAX: u16 = 64;
/// The least that a queue's arena has.
const ARENA_MIN: usize = 1 << 20;
const PAGE: usize = 4096;
/// The most that a queue takes.
const OPS_MAX: u32 = 16384;
const FILES_MAX: u32 = 32768;

/// How large a client is, and what it works on.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// The devices that regions name, by their place in this list.
    pub devices: Vec<Arc<dyn Device>>,
    /// Requests with bounce memory on one device that always make progress, whatever other devices do. There is bounce memory for
    /// so many on each.
    pub min_ios: u32,
    /// The longest region that is read or written.
    pub max_size: SectorCount,
    /// Requests that are under way, or that somebody has a handle of, at most.
    pub requests: u32,
    /// Regions of them, at most.
    pub regions: u32,
    /// Regions given up that a device still owes an answer for, with which it is degraded: more fail at once. Each keeps its request's
    /// place among `requests`: with far fewer than `requests` by the number of devices, one that stalls takes no other's places.
    pub orphans_max: u32,
    /// Bytes of the pool, from which [`Client::alloc`](crate::Client::alloc) leases.
    pub pool_bytes: usize,
    /// Parts of a list of owned or borrowed memory, 64 at most.
    pub list_max: u32,
    /// Owned or borrowed buffers under way, 1024 at most; and parts of them at devices, as many again.
    pub lent: u16,
    /// What runs the ops.
    pub engine: EngineKind,
    /// How long dropping the client waits for what devices have.
    pub drain_max: Duration,
}

impl Default for ClientConfig {
    /// No devices; 16 requests of 256 KiB and 32 orphans on each, and a pool of 16 MiB.
    fn default() -> Self {
        Self {
            devices: Vec::new(),
            min_ios: 16,
            max_size: SectorCount(512),
            requests: 256,
            regions: 1024,
            orphans_max: 32,
            pool_bytes: 16 << 20,
            list_max: 64,
            lent: 256,
            engine: EngineKind::Auto,
            drain_max: Duration::from_millis(500),
        }
    }
}

impl ClientConfig {
    /// The queue of ops for it.
    pub(super) fn queue(&self) -> Result<Config, Error> {
        // All that can be under way goes to the kernel at once: what waited for a place there would wait for a device that stalls.
        let devices = u32::try_from(self.devices.len()).unwrap_or(OPS_MAX);
        let ops = self
            .regions
            .saturating_add(devices)
            .saturating_add(self.lent.into())
            .clamp(64, OPS_MAX);
        Ok(Config {
            size: ops,
            max_ops: ops,
            net_ops: 8,
            sends: 0,
            arena_bytes: self.pool_bytes.next_multiple_of(PAGE).max(ARENA_MIN),
            large_bytes: self.bounce_bytes()?,
            lent: self.lent,
            workers: ops,
            engine: self.engine.clone(),
            files: (64 + 2 * devices).min(FILES_MAX),
            drain_max: self.drain_max,
            ..Config::default()
        })
    }

    /// Bytes of all cells: each is a run of a power of two of pages.
    fn bounce_bytes(&self) -> Result<usize, Error> {
        let cell = usize::try_from(self.max_size.0.saturating_mul(512)).unwrap_or(usize::MAX);
        let cell = cell.checked_next_power_of_two().map(|cell| cell.max(PAGE));
        let cells = self.devices.len().checked_mul(self.min_ios as usize);
        let bytes = cell.zip(cells).and_then(|(cell, cells)| cell.checked_mul(cells));
        bytes.filter(|&bytes| bytes <= 4 << 30).ok_or_else(|| {
            let what = format!(
                "bounce memory for {} devices, {} requests each of {} sectors is more than 4 GiB: less of one of them",
                self.devices.len(),
                self.min_ios,
                self.max_size.0
            );
            Error::new(ErrorKind::Config, what)
        })
    }

    /// The runner for it.
    pub(super) fn runner(&self, waker: Waker, is_simulated: bool) -> RunnerConfig {
        let devices = u16::try_from(self.devices.len()).unwrap_or(u16::MAX - REPLACED_MAX - 1);
        RunnerConfig {
            requests: self.requests,
            regions: self.regions,
            min_ios: self.min_ios,
            orphans_max: self.orphans_max,
            max_size: self.max_size,
            parts: self.lent.into(),
            list_max: self.list_max,
            owners: 1..devices.saturating_add(1 + REPLACED_MAX),
            clock: if is_simulated { Clock::Passes } else { Clock::Monotonic },
            waker,
        }
    }

    /// Opens the devices.
    pub(super) fn open(&self, runner: RunnerConfig, queue: &mut Queue) -> Result<Runner<Entry>, Error> {
        // All at once, as the queue is borrowed for the devices then.
        let bytes = u32::try_from(self.max_size.0.saturating_mul(512)).unwrap_or(u32::MAX);
        let count = self.devices.len() * self.min_ios as usize;
        let mut cells: Vec<Lease> = (0..count).map_while(|_| queue.alloc_large(bytes)).collect();
        Runner::new(runner, &self.devices, queue, |_, _| cells.pop())
    }
}
