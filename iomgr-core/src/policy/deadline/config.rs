//! What `deadline` is told.

use crate::policy::config::{BadConfig, at_least};

/// `deadline`: reads first, and nothing waits much longer than its time.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct DeadlineConfig {
    /// Milliseconds that a read should wait at most, from 1.
    pub read_expire_ms: u32,
    /// Milliseconds that a write should wait at most, from 1.
    pub write_expire_ms: u32,
    /// Requests of one direction in a row, from 1.
    pub fifo_batch: u32,
    /// Batches of reads that may pass waiting writes, from 1.
    pub writes_starved: u32,
    /// Requests in flight on all devices together, from 1. There is an order to choose only where more than this wait.
    pub depth: u32,
}

impl Default for DeadlineConfig {
    fn default() -> Self {
        Self {
            read_expire_ms: 500,
            write_expire_ms: 5000,
            fifo_batch: 16,
            writes_starved: 2,
            depth: 16,
        }
    }
}

impl DeadlineConfig {
    pub(in crate::policy) fn check(&self) -> Result<(), BadConfig> {
        at_least(
            1,
            [
                ("read-expire-ms", self.read_expire_ms),
                ("write-expire-ms", self.write_expire_ms),
                ("fifo-batch", self.fifo_batch),
                ("writes-starved", self.writes_starved),
                ("depth", self.depth),
            ],
        )
    }
}
