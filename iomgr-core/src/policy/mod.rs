//! The policies that come with the stack, one file each, and the handle by which people choose among them.
//!
//! ```text
//!  ManagerConfig ─► Governor ─┬─ same policy as now: reconfigure in place, then rejudge what waits
//!                             └─ another one: build it, and swap it in (manager::Registry::replace)
//! ```
//!
//! A policy is a [`Manager`] that can be told new parameters while it reigns. It is sans-I/O as every manager: time comes in
//! as an argument, so the same code runs in a server and in a simulation with virtual time.
//!
//! # Contract
//! - One policy is current; `limit` may stack below another one, as an overload valve.
//! - Changed parameters apply to requests that already wait.
//! - Devices are meant by name: a parameter may name a device that is not there yet.

mod config;
mod deadline;
mod devices;
mod governor;
mod grace;
mod latency;
mod limit;
mod per_device;
mod stack;
mod throttle;
mod turn;
mod wfq;

use std::sync::Arc;

use crate::manager::Manager;

pub use config::{BadConfig, ManagerConfig, PolicyConfig, PolicyName};
pub use deadline::DeadlineConfig;
pub use governor::{Governor, SetError};
pub use latency::LatencyConfig;
pub use limit::LimitConfig;
pub use throttle::{Rate, Rates, ThrottleConfig, ThrottleGroup};
pub use turn::TurnConfig;
pub use wfq::WfqConfig;

/// A manager with parameters that can be changed while it is current.
pub trait Policy: Manager {
    /// Its parameters, as they are now.
    fn config(&self) -> PolicyConfig;

    /// Takes new parameters over and keeps what it knows (requests on their way, what was saved up or spent). False, and
    /// nothing changed, if they are those of another policy. They have been [checked](PolicyConfig::check).
    fn reconfigure(&self, config: &PolicyConfig) -> bool;
}

/// Makes the policy that these parameters describe; `None` for "none".
fn build(config: &PolicyConfig) -> Result<Option<Arc<dyn Policy>>, BadConfig> {
    config.check()?;
    Ok(match config {
        PolicyConfig::None => None,
        PolicyConfig::Limit(config) => Some(Arc::new(limit::Limit::new(config))),
        PolicyConfig::Turn(config) => Some(Arc::new(turn::Turn::new(config.clone()))),
        PolicyConfig::Throttle(config) => Some(Arc::new(throttle::Throttle::new(config))),
        PolicyConfig::Wfq(config) => Some(Arc::new(wfq::Wfq::new(config.clone()))),
        PolicyConfig::Latency(config) => Some(Arc::new(latency::Latency::new(config.clone()))),
        PolicyConfig::Deadline(config) => Some(Arc::new(deadline::Deadline::new(config.clone()))),
    })
}
