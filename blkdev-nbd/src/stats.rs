//! What a server tells of itself.

use std::time::Duration;

use iomgr_core::stats::Figures;

/// What a server is doing, summed over its threads; each figure is as of the end of its thread's last pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerStats {
    /// Connections that are open.
    pub connections: u32,
    /// Connections so far.
    pub connections_total: u64,
    /// Requests taken and not ended.
    pub in_flight: u32,
    /// Requests that ended so far.
    pub requests_total: u64,
    /// Passes of the threads' loops whose managers' hooks took above 1 ms.
    pub slow_passes_total: u64,
    /// Times that a thread was in managers' hooks for a second or longer.
    pub stuck_passes_total: u64,
    /// Disk operations that the kernel kept for longer than the queue's
    /// [`stuck_after`](tqueue::Config::stuck_after); each counts once.
    pub stuck_ops_total: u64,
}

/// What one connection is doing and has done ([`Server::connections`](crate::Server::connections)).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ConnectionStats {
    /// Its number; no two connections of a server have the same.
    pub id: u64,
    /// Who it is: `unix pid 123 uid 0`, or `127.0.0.1:4000`.
    pub peer: String,
    /// What it has chosen, once it has.
    pub export: Option<String>,
    /// Are replies structured?
    pub structured: bool,
    /// How long ago it came.
    pub opened_for: Duration,
    /// Commands that are not answered yet.
    pub in_flight: u32,
    /// Bytes of payload memory that it holds: writes that are being received, requests in the device, replies not taken.
    pub held_bytes: u64,
    /// What it has had done, in the order of [`Direction::ALL`](iomgr_core::stats::Direction::ALL).
    pub figures: Box<[Figures; 4]>,
    /// How long ago it last asked for something or took a reply.
    pub last_active_ago: Duration,
}
