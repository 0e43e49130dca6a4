//! What `latency` is told.

use std::collections::BTreeSet;

use crate::policy::config::{BadConfig, at_least};

/// `latency`: the latency of protected devices, kept by giving the others less depth.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct LatencyConfig {
    /// The names of the protected devices.
    pub protect: BTreeSet<String>,
    /// Microseconds that 99 of 100 of their requests may take, from 1.
    pub target_us: u32,
    /// Milliseconds after which depth is looked at again, from 10.
    pub window_ms: u32,
    /// What each of the others has at least, from 1.
    pub min_depth: u32,
    /// What each of the others has at most.
    pub max_depth: u32,
}

impl Default for LatencyConfig {
    fn default() -> Self {
        Self {
            protect: BTreeSet::new(),
            target_us: 5000,
            window_ms: 100,
            min_depth: 1,
            max_depth: 128,
        }
    }
}

impl LatencyConfig {
    pub(in crate::policy) fn check(&self) -> Result<(), BadConfig> {
        if self.protect.is_empty() {
            return Err(BadConfig::new("latency needs a device to protect"));
        }
        if self.max_depth < self.min_depth {
            return Err(BadConfig::new("max-depth is below min-depth"));
        }
        at_least(10, [("window-ms", self.window_ms)])?;
        at_least(1, [("target-us", self.target_us), ("min-depth", self.min_depth)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_out_of_range_is_named() {
        let good = LatencyConfig {
            protect: BTreeSet::from(["disk0".into()]),
            ..LatencyConfig::default()
        };
        good.check().unwrap();
        let told = |change: fn(&mut LatencyConfig)| {
            let mut config = good.clone();
            change(&mut config);
            config.check().unwrap_err().to_string()
        };
        assert_eq!(told(|c| c.protect.clear()), "latency needs a device to protect");
        assert_eq!(told(|c| c.max_depth = 0), "max-depth is below min-depth");
        assert_eq!(told(|c| c.window_ms = 9), "window-ms is from 10, not 9");
        assert_eq!(told(|c| c.target_us = 0), "target-us is from 1, not 0");
        assert_eq!(told(|c| c.min_depth = 0), "min-depth is from 1, not 0");
    }
}
