//! What a server tells of itself.

use std::time::Duration;

use iomgr_core::Operation;

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
}

/// What one connection is doing and has done ([`Server::connections`](crate::Server::connections)).
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// Reads and prefetches that ended.
    pub read: OpCount,
    /// Writes that ended.
    pub write: OpCount,
    /// Flushes that ended.
    pub flush: OpCount,
    /// Trims and write-zeroes that ended.
    pub trim: OpCount,
    /// How long ago it last asked for something or took a reply.
    pub last_active_ago: Duration,
}

/// How often, how much, how well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpCount {
    /// Requests that ended, well or not.
    pub ops: u64,
    /// Bytes of those that ended well.
    pub bytes: u64,
    /// Requests that failed.
    pub errors: u64,
}

impl OpCount {
    fn add(&mut self, bytes: u64, ok: bool) {
        self.ops += 1;
        self.bytes += if ok { bytes } else { 0 };
        self.errors += u64::from(!ok);
    }
}

/// The counts of a connection, by direction.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) read: OpCount,
    pub(crate) write: OpCount,
    pub(crate) flush: OpCount,
    pub(crate) trim: OpCount,
}

impl Counts {
    /// A request ended.
    pub(crate) fn add(&mut self, op: Operation, bytes: u64, ok: bool) {
        let count = match op {
            Operation::Read | Operation::Prefetch => &mut self.read,
            Operation::Write => &mut self.write,
            Operation::Flush => &mut self.flush,
            Operation::Discard | Operation::WriteZeroes => &mut self.trim,
        };
        count.add(bytes, ok);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_requests_count_no_bytes() {
        let mut counts = Counts::default();
        counts.add(Operation::Write, 512, true);
        counts.add(Operation::Write, 4096, false);
        counts.add(Operation::Discard, 1024, true);
        let written = OpCount {
            ops: 2,
            bytes: 512,
            errors: 1,
        };
        assert_eq!((counts.write, counts.trim.bytes, counts.read.ops), (written, 1024, 0));
    }
}
