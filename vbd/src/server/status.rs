//! What a running server says of itself.

use std::sync::{Arc, PoisonError};
use std::time::Instant;

use iomgr_core::manager::Registry;
use serde::{Deserialize, Serialize};

use super::{Address, Frontend};
use crate::disk::{Disk, DiskInfo};
use crate::stats::Stats;

/// How a server is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Process id.
    pub pid: u32,
    /// The server's version.
    pub version: String,
    /// Where clients connect: the default export, which is the first disk.
    pub uri: String,
    /// Seconds since the start.
    pub uptime_s: f64,
    /// The current manager.
    pub manager: String,
    /// Requests pending over all devices.
    pub pending: u64,
    /// The frontend.
    pub nbd: NbdStatus,
    /// The disks.
    pub devices: Vec<DeviceStatus>,
}

/// How the NBD frontend is.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct NbdStatus {
    /// Connections that are open.
    pub connections: u32,
    /// Connections so far.
    pub connections_total: u64,
    /// Requests that were received and have not ended.
    pub in_flight: u32,
    /// Requests that have ended so far.
    pub requests_total: u64,
}

impl From<blkdev_nbd::ServerStats> for NbdStatus {
    fn from(stats: blkdev_nbd::ServerStats) -> Self {
        Self {
            connections: stats.connections,
            connections_total: stats.connections_total,
            in_flight: stats.in_flight,
            requests_total: stats.requests_total,
        }
    }
}

/// How a disk is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeviceStatus {
    /// What it is.
    #[serde(flatten)]
    pub info: DiskInfo,
    /// Where clients find it, at each of the server's addresses.
    #[serde(default)]
    pub uris: Vec<String>,
    /// What it has done.
    pub stats: Stats,
}

/// Whatever a status is made from, as long as the server runs.
pub(super) struct Source {
    pub(super) disks: Vec<Disk>,
    pub(super) registry: Registry,
    pub(super) nbd: Frontend,
    pub(super) addresses: Arc<[Address]>,
    pub(super) started: Instant,
}

impl Source {
    pub(super) fn status(&self) -> Status {
        let nbd = self.nbd.lock().unwrap_or_else(PoisonError::into_inner);
        let stats = nbd.as_ref().map(blkdev_nbd::Server::stats);
        Status {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uri: self.addresses[0].uri(""),
            uptime_s: self.started.elapsed().as_secs_f64(),
            manager: self.registry.current().name().to_owned(),
            pending: self.registry.pending_total(),
            nbd: stats.map(NbdStatus::from).unwrap_or_default(),
            devices: self.disks.iter().map(|disk| self.device(disk)).collect(),
        }
    }

    fn device(&self, disk: &Disk) -> DeviceStatus {
        let info = disk.info();
        DeviceStatus {
            uris: self.addresses.iter().map(|address| address.uri(&info.name)).collect(),
            info,
            stats: disk.stats(),
        }
    }
}
