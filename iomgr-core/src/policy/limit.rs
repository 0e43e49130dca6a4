//! `limit`: requests in flight stay below a bound, of each device and of all together.

use super::config::{BadConfig, at_least};

/// `limit`: requests in flight, at most.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct LimitConfig {
    /// On each device, from 1; no bound if not given.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub max: Option<u32>,
    /// On all of them together, from 1; no bound if not given.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub max_total: Option<u32>,
}

impl LimitConfig {
    pub(super) fn check(&self) -> Result<(), BadConfig> {
        if self.max.is_none() && self.max_total.is_none() {
            return Err(BadConfig::new("limit needs max, max-total or both"));
        }
        at_least(
            1,
            [
                ("max", self.max.unwrap_or(1)),
                ("max-total", self.max_total.unwrap_or(1)),
            ],
        )
    }
}
