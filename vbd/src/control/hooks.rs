//! What passed the manager's hooks, in JSON.

use std::time::Duration;

use iomgr_core::manager::{Counters, GenerationStats, Ngs, WaitTimes};
use iomgr_core::policy::{Governor, ManagerConfig};
use serde::{Deserialize, Serialize};

/// The current manager.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ManagerStatus {
    /// Its name.
    pub name: String,
    /// Its parameters, if it is one of the policies that come with the stack.
    pub config: Option<ManagerConfig>,
    /// What passed the hooks since the start, whoever managed.
    pub hooks: HookStatus,
    /// The reigns of managers, the oldest first: the current one, and those before it whose requests are still on their
    /// way.
    pub generations: Vec<GenerationStatus>,
}

/// One reign of a manager.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GenerationStatus {
    /// The first "none" has 1, each swap counts one up.
    pub number: u64,
    /// The manager's name.
    pub manager: String,
    /// Is it the current one?
    pub is_current: bool,
    /// What passed its hooks.
    pub hooks: HookStatus,
}

/// What passed the hooks: of a disk, of a reign, or of all.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HookStatus {
    /// Requests that started and have not ended.
    pub pending: u64,
    /// Requests that were allowed.
    pub grants: u64,
    /// Those of them that had to wait.
    pub waits: u64,
    /// Times that the manager said no.
    pub ngs: NgStatus,
    /// Grants given back for want of resources.
    pub aborts: u64,
    /// Requests that started.
    pub allocs: u64,
    /// Requests that ended.
    pub frees: u64,
    /// How long those waited that had to.
    pub wait: WaitStatus,
}

/// Times that a manager said no, by what that held and until when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NgStatus {
    /// A whole device queue, until an instant.
    pub device_until: u64,
    /// A whole device queue, until a request ended.
    pub device_freed: u64,
    /// Reads, writes or the others of it, until an instant.
    pub class_until: u64,
    /// Reads, writes or the others of it, until a request ended.
    pub class_freed: u64,
}

/// A distribution of waits, in microseconds, within 12.5 %.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WaitStatus {
    /// All of them together.
    pub sum_us: f64,
    /// The median.
    pub p50_us: f64,
    /// 90 of 100 are not above it.
    pub p90_us: f64,
    /// 99 of 100 are not above it.
    pub p99_us: f64,
    /// 999 of 1000 are not above it.
    pub p999_us: f64,
    /// The longest.
    pub max_us: f64,
    /// The histogram: bounds that no wait of a bucket reaches, ascending, and how many waits are in it.
    pub buckets: Vec<(f64, u64)>,
}

impl ManagerStatus {
    pub(crate) fn of(governor: &Governor) -> Self {
        let registry = governor.registry();
        Self {
            name: governor.name(),
            config: governor.config(),
            hooks: HookStatus::new(registry.counters(), &registry.wait_times()),
            generations: registry.generations().into_iter().map(Into::into).collect(),
        }
    }
}

impl From<GenerationStats> for GenerationStatus {
    fn from(stats: GenerationStats) -> Self {
        Self {
            number: stats.number,
            manager: stats.manager,
            is_current: stats.is_current,
            hooks: HookStatus::new(stats.counters, &stats.wait_times),
        }
    }
}

impl HookStatus {
    pub(crate) fn new(counters: Counters, waits: &WaitTimes) -> Self {
        Self {
            pending: counters.pending(),
            grants: counters.grants,
            waits: counters.waits,
            ngs: counters.ngs.into(),
            aborts: counters.aborts,
            allocs: counters.allocs,
            frees: counters.frees,
            wait: WaitStatus::new(waits),
        }
    }
}

impl From<Ngs> for NgStatus {
    fn from(ngs: Ngs) -> Self {
        Self {
            device_until: ngs.device_until,
            device_freed: ngs.device_freed,
            class_until: ngs.class_until,
            class_freed: ngs.class_freed,
        }
    }
}

impl WaitStatus {
    fn new(waits: &WaitTimes) -> Self {
        let us = |time: Duration| time.as_secs_f64() * 1e6;
        let at = |quantile| us(waits.quantile(quantile));
        Self {
            sum_us: us(waits.sum()),
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: at(1.0),
            buckets: waits.buckets().map(|(bound, count)| (us(bound), count)).collect(),
        }
    }
}
