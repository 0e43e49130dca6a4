//! A disk that is served, whatever the frontend.

use std::time::Instant;

use iomgr_core::manager::Registry;
use iomgr_core::stats::Figures;
use serde::{Deserialize, Serialize};

use super::{DeviceStatus, UblkTarget};
use crate::control::HookStatus;
use crate::disk::DiskInfo;

/// A disk that is served.
#[derive(Clone, Debug)]
pub(crate) struct Served {
    /// What it is made from.
    pub(crate) target: UblkTarget,
    /// Where clients find it, at each of the server's addresses.
    pub(crate) uris: Vec<String>,
}

/// A disk in short.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DiskEntry {
    /// What it is.
    #[serde(flatten)]
    pub info: DiskInfo,
    /// Where clients find it, at each of the server's addresses.
    pub uris: Vec<String>,
}

impl Served {
    pub(crate) fn name(&self) -> String {
        self.target.info().name
    }

    pub(crate) fn entry(&self) -> DiskEntry {
        DiskEntry {
            info: self.target.info(),
            uris: self.uris.clone(),
        }
    }

    /// When its figures were zero.
    pub(crate) fn since(&self) -> Instant {
        self.target.since()
    }

    pub(crate) fn figures(&self) -> [Figures; 4] {
        self.target.figures()
    }

    pub(super) fn status(&self, registry: &Registry) -> DeviceStatus {
        let info = self.target.info();
        let devices = registry.devices();
        let managed = devices.iter().find(|device| device.info().name() == info.name);
        DeviceStatus {
            hooks: managed.map(|device| HookStatus::new(device.counters(), &device.wait_times())),
            uris: self.uris.clone(),
            stats: self.target.stats(),
            retry: self.target.retry_status(),
            info,
        }
    }
}
