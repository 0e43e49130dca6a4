//! What `wfq` is told.

use std::collections::BTreeMap;

use crate::policy::config::{BadConfig, at_least};

/// `wfq`: shares of what there is, in proportion to weight, among devices that have work.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct WfqConfig {
    /// Of the devices of these names, 1 to 10 000.
    pub weights: BTreeMap<String, u16>,
    /// Of the others.
    pub default_weight: u16,
    /// What a request costs, whatever its length.
    pub cost_base: u32,
    /// What each KiB of it costs besides.
    pub cost_per_kib: u32,
    /// Requests in flight on all devices together, from 1. Weights act only where every device has more to do than this.
    pub depth: u32,
}

impl Default for WfqConfig {
    fn default() -> Self {
        Self {
            weights: BTreeMap::new(),
            default_weight: 100,
            cost_base: 16,
            cost_per_kib: 1,
            depth: 16,
        }
    }
}

impl WfqConfig {
    /// The largest weight; the smallest is 1.
    pub const WEIGHT_MAX: u16 = 10_000;

    pub(in crate::policy) fn check(&self) -> Result<(), BadConfig> {
        let weights = self.weights.iter().map(|(name, weight)| (name.as_str(), *weight));
        for (name, weight) in weights.chain([("default", self.default_weight)]) {
            if !(1..=Self::WEIGHT_MAX).contains(&weight) {
                let max = Self::WEIGHT_MAX;
                return Err(BadConfig::new(format!(
                    "weight {name}={weight}: weights are 1 to {max}"
                )));
            }
        }
        match self.cost_base.saturating_add(self.cost_per_kib) {
            0 => Err(BadConfig::new("requests that cost nothing cannot be shared out")),
            _ => at_least(1, [("depth", self.depth)]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_out_of_range_is_named() {
        let told = |config: WfqConfig| config.check().unwrap_err().to_string();
        let weights = BTreeMap::from([("disk0".into(), 0)]);
        let config = WfqConfig {
            weights,
            ..WfqConfig::default()
        };
        assert_eq!(told(config), "weight disk0=0: weights are 1 to 10000");
        let config = WfqConfig {
            default_weight: 10_001,
            ..WfqConfig::default()
        };
        assert_eq!(told(config), "weight default=10001: weights are 1 to 10000");
        let config = WfqConfig {
            depth: 0,
            ..WfqConfig::default()
        };
        assert_eq!(told(config), "depth is from 1, not 0");
    }

    #[test]
    fn a_request_costs_something() {
        let priced = |cost_base, cost_per_kib| WfqConfig {
            cost_base,
            cost_per_kib,
            ..WfqConfig::default()
        };
        assert!(priced(0, 0).check().is_err());
        priced(1, 0).check().unwrap();
        priced(0, 1).check().unwrap();
    }
}
