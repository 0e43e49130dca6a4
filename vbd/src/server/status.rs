//! What a running server says of itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use blkdev_nbd::{ConnectionLimits, ConnectionStats};
use iomgr_core::Device;
use iomgr_core::policy::Governor;
use serde::{Deserialize, Serialize};

use super::{Address, Board, DiskExport, Served, Stopper, UblkStatus, UblkTarget};
use crate::control::{HookStatus, ManagerStatus, Service};
use crate::disk::{Disk, DiskInfo};
use crate::error::Error;
use crate::retry::RetryStatus;
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
    /// The current manager's name.
    pub manager: String,
    /// The current manager, its parameters and counts.
    #[serde(default)]
    pub managing: ManagerStatus,
    /// The filters between the queues and the images, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<String>,
    /// Requests pending over all devices.
    pub pending: u64,
    /// The frontend.
    pub nbd: NbdStatus,
    /// The frontend, if it is ublk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ublk: Option<UblkStatus>,
    /// The disks.
    pub devices: Vec<DeviceStatus>,
    /// The connections that are open, the oldest first.
    #[serde(default)]
    pub connections: Vec<ConnectionStatus>,
    /// The bounds on what clients may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<LimitsStatus>,
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
    /// Passes of the threads' loops in which managers' hooks took above 1 ms.
    #[serde(default)]
    pub slow_passes_total: u64,
    /// Times that a thread was in managers' hooks for a second or longer.
    #[serde(default)]
    pub stuck_passes_total: u64,
    /// Disk operations that the kernel kept for longer than ten seconds.
    #[serde(default)]
    pub stuck_ops_total: u64,
}

impl From<blkdev_nbd::ServerStats> for NbdStatus {
    fn from(stats: blkdev_nbd::ServerStats) -> Self {
        Self {
            connections: stats.connections,
            connections_total: stats.connections_total,
            in_flight: stats.in_flight,
            requests_total: stats.requests_total,
            slow_passes_total: stats.slow_passes_total,
            stuck_passes_total: stats.stuck_passes_total,
            stuck_ops_total: stats.stuck_ops_total,
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
    /// How its errors pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetryStatus>,
    /// How its requests fare at the manager's hooks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hooks: Option<HookStatus>,
}

/// How a connection is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ConnectionStatus {
    /// Its number; no two connections of a server have the same.
    pub id: u64,
    /// Who it is: `unix pid 123 uid 0`, or `127.0.0.1:4000`.
    pub peer: String,
    /// The disk, once it has chosen one.
    pub export: Option<String>,
    /// Are replies structured?
    pub structured: bool,
    /// Seconds since it came.
    pub opened_for_s: f64,
    /// Seconds since it last asked for something or took a reply.
    pub idle_for_s: f64,
    /// Commands that are not answered yet.
    pub in_flight: u32,
    /// Bytes of payload memory that it holds.
    pub held_bytes: u64,
    /// What it has had done. Latencies are within 10 %.
    pub stats: Stats,
}

impl From<ConnectionStats> for ConnectionStatus {
    fn from(stats: ConnectionStats) -> Self {
        Self {
            id: stats.id,
            peer: stats.peer,
            export: stats.export,
            structured: stats.structured,
            opened_for_s: stats.opened_for.as_secs_f64(),
            idle_for_s: stats.last_active_ago.as_secs_f64(),
            in_flight: stats.in_flight,
            held_bytes: stats.held_bytes,
            stats: Stats::new(&stats.figures),
        }
    }
}

/// The bounds on what clients may take.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct LimitsStatus {
    /// Connections at the same time.
    pub connections: u32,
    /// Commands in flight on each.
    pub in_flight: u32,
    /// Seconds from connecting to choosing a disk.
    pub handshake_timeout_s: f64,
    /// Seconds without a command; as many as a client likes if not given.
    pub idle_timeout_s: Option<f64>,
    /// Seconds that a client may hold memory which another waits for.
    pub stall_timeout_s: f64,
}

impl From<&ConnectionLimits> for LimitsStatus {
    fn from(limits: &ConnectionLimits) -> Self {
        Self {
            connections: limits.connections,
            in_flight: limits.in_flight,
            handshake_timeout_s: limits.handshake_timeout.as_secs_f64(),
            idle_timeout_s: limits.idle_timeout.map(|time| time.as_secs_f64()),
            stall_timeout_s: limits.stall_timeout.as_secs_f64(),
        }
    }
}

/// What clients of the control socket can reach of an NBD server.
pub(super) struct Source {
    pub(super) board: Arc<Board>,
    pub(super) governor: Governor,
    pub(super) addresses: Vec<Address>,
    pub(super) filters: Vec<String>,
    pub(super) limits: LimitsStatus,
    pub(super) started: Instant,
    pub(super) stopper: Stopper,
}

impl Service for Source {
    fn status(&self) -> Status {
        let nbd = self.board.frontend();
        // First those, for which the threads are asked: they bring their figures up to date.
        let connections = nbd.as_ref().map(blkdev_nbd::Server::connections);
        let stats = nbd.as_ref().map(blkdev_nbd::Server::stats);
        drop(nbd);
        let registry = self.governor.registry();
        Status {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uri: self.addresses[0].uri(""),
            uptime_s: self.started.elapsed().as_secs_f64(),
            manager: self.governor.name(),
            managing: ManagerStatus::of(&self.governor),
            filters: self.filters.clone(),
            pending: registry.pending_total(),
            nbd: stats.map(NbdStatus::from).unwrap_or_default(),
            ublk: None,
            devices: self.disks().iter().map(|disk| disk.status(registry)).collect(),
            connections: connections.into_iter().flatten().map(Into::into).collect(),
            limits: Some(self.limits),
        }
    }

    fn disks(&self) -> Vec<Served> {
        let served = |disk: Disk| Served {
            uris: self.addresses.iter().map(|address| address.uri(disk.name())).collect(),
            target: UblkTarget::Disk(disk),
        };
        self.board.disks().into_iter().map(served).collect()
    }

    fn governor(&self) -> &Governor {
        &self.governor
    }

    fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    fn attach(&self, export: DiskExport) -> Result<(), Error> {
        self.board.attach(export)
    }

    fn detach(&self, name: &str, timeout: Duration) -> Result<(), Error> {
        self.board.detach(name, timeout)
    }
}
