//! What is behind a block device: a disk, or nothing.

use std::sync::Arc;
use std::time::Instant;

use iomgr_core::Device;
use iomgr_core::stats::Figures;

use crate::disk::{Disk, DiskInfo};
use crate::error::Error;
use crate::null::NullDevice;
use crate::retry::RetryStatus;
use crate::stats::Stats;

/// What a `/dev/ublkbN` is made from.
#[derive(Clone, Debug)]
pub enum UblkTarget {
    /// Nothing: requests end at once.
    Null(Arc<NullDevice>),
    /// A disk.
    Disk(Disk),
}

impl UblkTarget {
    pub(super) fn device(&self) -> Arc<dyn Device> {
        match self {
            Self::Null(device) => Arc::clone(device) as Arc<dyn Device>,
            Self::Disk(disk) => Arc::new(disk.clone()),
        }
    }

    /// What it is.
    pub fn info(&self) -> DiskInfo {
        match self {
            Self::Null(device) => device.info(),
            Self::Disk(disk) => disk.info(),
        }
    }

    pub(super) fn end_retries(&self) {
        if let Self::Disk(disk) = self {
            disk.end_retries();
        }
    }

    /// From now on nobody takes its image away. False: somebody has.
    pub(super) fn keep_image(&self) -> bool {
        match self {
            Self::Disk(disk) => disk.keep_image(),
            Self::Null(_) => true,
        }
    }

    pub(in crate::server) fn retry_status(&self) -> Option<RetryStatus> {
        match self {
            Self::Disk(disk) => Some(disk.retry_status()),
            Self::Null(_) => None,
        }
    }

    pub(in crate::server) fn stats(&self) -> Stats {
        Stats::new(&self.figures())
    }

    pub(in crate::server) fn since(&self) -> Instant {
        match self {
            Self::Null(device) => device.since(),
            Self::Disk(disk) => disk.since(),
        }
    }

    pub(in crate::server) fn figures(&self) -> [Figures; 4] {
        match self {
            Self::Null(device) => device.figures(),
            Self::Disk(disk) => disk.figures(),
        }
    }

    pub(super) fn close(&self) -> Result<(), Error> {
        match self {
            Self::Null(_) => Ok(()),
            Self::Disk(disk) => disk.close(),
        }
    }
}
