//! `throttle`: requests and bytes per second stay below bounds, of each device and of groups of devices, with bursts.

mod config;

pub use config::{Rate, Rates, ThrottleConfig, ThrottleGroup};
