//! What a registry is to be managed by, as people write it: a policy and its parameters, with units in their names, ranges
//! and defaults. The parameters themselves are beside their policies.

use std::collections::BTreeSet;
use std::fmt;

use super::{DeadlineConfig, LatencyConfig, LimitConfig, ThrottleConfig, TurnConfig, WfqConfig};

/// Names of devices and groups in the parameters of a policy.
const NAMES_MAX: usize = 4096;
/// As NBD bounds those of exports.
const NAME_BYTES_MAX: usize = 4096;

/// What a registry is to be managed by: a policy, and what stands below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(deny_unknown_fields)
)]
pub struct ManagerConfig {
    /// The policy.
    pub policy: PolicyConfig,
    /// An overload valve below it: what the policy lets go must pass this as well.
    #[cfg_attr(feature = "serde", serde(default, skip_serializing_if = "Option::is_none"))]
    pub limit: Option<LimitConfig>,
}

/// A policy and its parameters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(tag = "name", rename_all = "kebab-case")
)]
#[non_exhaustive]
pub enum PolicyConfig {
    /// Everything goes.
    #[default]
    None,
    /// Bounded requests in flight.
    Limit(LimitConfig),
    /// Devices take turns.
    Turn(TurnConfig),
    /// Bounded rates.
    Throttle(Box<ThrottleConfig>),
    /// Shares by weight.
    Wfq(WfqConfig),
    /// Protected latencies.
    Latency(LatencyConfig),
    /// Bounded waits.
    Deadline(DeadlineConfig),
}

/// The policies, without parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PolicyName {
    /// See [`PolicyConfig::None`].
    None,
    /// See [`PolicyConfig::Limit`].
    Limit,
    /// See [`PolicyConfig::Turn`].
    Turn,
    /// See [`PolicyConfig::Throttle`].
    Throttle,
    /// See [`PolicyConfig::Wfq`].
    Wfq,
    /// See [`PolicyConfig::Latency`].
    Latency,
    /// See [`PolicyConfig::Deadline`].
    Deadline,
}

impl PolicyConfig {
    /// The devices that parameters name. They need not be there yet.
    pub fn named_devices(&self) -> BTreeSet<&str> {
        match self {
            Self::Throttle(throttle) => throttle.named_devices().collect(),
            Self::Wfq(wfq) => wfq.weights.keys().map(String::as_str).collect(),
            Self::Latency(latency) => latency.protect.iter().map(String::as_str).collect(),
            Self::None | Self::Limit(_) | Self::Turn(_) | Self::Deadline(_) => BTreeSet::new(),
        }
    }

    /// Which policy.
    pub fn name(&self) -> PolicyName {
        match self {
            Self::None => PolicyName::None,
            Self::Limit(_) => PolicyName::Limit,
            Self::Turn(_) => PolicyName::Turn,
            Self::Throttle(_) => PolicyName::Throttle,
            Self::Wfq(_) => PolicyName::Wfq,
            Self::Latency(_) => PolicyName::Latency,
            Self::Deadline(_) => PolicyName::Deadline,
        }
    }

    /// Is every parameter in its range, and do they go together?
    pub fn check(&self) -> Result<(), BadConfig> {
        check_names(&self.names())?;
        match self {
            Self::None => Ok(()),
            Self::Limit(config) => config.check(),
            Self::Turn(config) => config.check(),
            Self::Throttle(config) => config.check(),
            Self::Wfq(config) => config.check(),
            Self::Latency(config) => config.check(),
            Self::Deadline(config) => config.check(),
        }
    }

    /// The names in it: of devices, and of groups.
    fn names(&self) -> Vec<&str> {
        let mut names = Vec::from_iter(self.named_devices());
        if let Self::Throttle(throttle) = self {
            names.extend(throttle.groups.keys().map(String::as_str));
        }
        names
    }
}

impl ManagerConfig {
    /// As [`PolicyConfig::check`], of both.
    pub fn check(&self) -> Result<(), BadConfig> {
        self.policy.check()?;
        match (&self.limit, self.policy.name()) {
            (None, _) => Ok(()),
            (Some(_), PolicyName::None | PolicyName::Limit) => Err(BadConfig::new(
                "a limit stands below another policy; alone, it is the policy",
            )),
            (Some(limit), _) => limit.check(),
        }
    }
}

/// Parameters are kept, copied and shown as a whole, also on terminals, and may be added to a little at a time.
fn check_names(names: &[&str]) -> Result<(), BadConfig> {
    if names.len() > NAMES_MAX {
        let count = names.len();
        return Err(BadConfig::new(format!(
            "{count} names are given; {NAMES_MAX} are taken"
        )));
    }
    if names.iter().any(|name| name.len() > NAME_BYTES_MAX) {
        return Err(BadConfig::new(format!("a name is longer than {NAME_BYTES_MAX} bytes")));
    }
    match names.iter().find(|name| name.contains(char::is_control)) {
        Some(name) => Err(BadConfig::new(format!("the name {name:?} holds a control character"))),
        None => Ok(()),
    }
}

pub(super) fn at_least<const N: usize>(min: u32, values: [(&str, u32); N]) -> Result<(), BadConfig> {
    match values.into_iter().find(|(_, value)| *value < min) {
        Some((name, value)) => Err(BadConfig::new(format!("{name} is from {min}, not {value}"))),
        None => Ok(()),
    }
}

/// Why parameters make no sense, in words for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadConfig(String);

impl BadConfig {
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}

impl fmt::Display for BadConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadConfig {}

impl PolicyName {
    /// All policies.
    pub const ALL: [Self; 7] = [
        Self::None,
        Self::Limit,
        Self::Turn,
        Self::Throttle,
        Self::Wfq,
        Self::Latency,
        Self::Deadline,
    ];

    /// As people write it; also the manager's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Limit => "limit",
            Self::Turn => "turn",
            Self::Throttle => "throttle",
            Self::Wfq => "wfq",
            Self::Latency => "latency",
            Self::Deadline => "deadline",
        }
    }

    /// What it guarantees, in one line.
    pub const fn summary(self) -> &'static str {
        match self {
            Self::None => "everything goes; requests are only counted",
            Self::Limit => "requests in flight, of each device and in total, stay below a bound",
            Self::Turn => "devices take turns of so many requests",
            Self::Throttle => "requests and bytes per second, of devices and groups, stay below bounds, with bursts",
            Self::Wfq => "devices share what there is in proportion to their weights",
            Self::Latency => "protected devices keep their latency: others get less depth when it is too high",
            Self::Deadline => "reads go first, and no request waits much longer than its time",
        }
    }
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::policy::{Rates, ThrottleGroup};

    fn told(config: PolicyConfig) -> String {
        config.check().unwrap_err().to_string()
    }

    #[test]
    fn the_defaults_are_good_where_nothing_must_be_named() {
        for config in [
            PolicyConfig::None,
            PolicyConfig::Turn(TurnConfig::default()),
            PolicyConfig::Throttle(Box::default()),
            PolicyConfig::Wfq(WfqConfig::default()),
            PolicyConfig::Deadline(DeadlineConfig::default()),
        ] {
            config.check().unwrap();
        }
        assert!(told(PolicyConfig::Limit(LimitConfig::default())).contains("max-total"));
        assert!(told(PolicyConfig::Latency(LatencyConfig::default())).contains("protect"));
    }

    #[test]
    fn names_are_bounded() {
        fn names(count: usize, bytes: usize) -> impl Iterator<Item = String> {
            (0..count).map(move |n| format!("{n:0bytes$}"))
        }
        let wfq = |count, bytes| {
            PolicyConfig::Wfq(WfqConfig {
                weights: names(count, bytes).map(|name| (name, 1)).collect(),
                ..WfqConfig::default()
            })
        };
        let latency = |count, bytes| {
            PolicyConfig::Latency(LatencyConfig {
                protect: names(count, bytes).collect(),
                ..LatencyConfig::default()
            })
        };
        let throttle = |count, bytes| {
            let members = names(count / 2, bytes).collect();
            let group = ThrottleGroup {
                members,
                ..ThrottleGroup::default()
            };
            let devices = names(count, bytes)
                .skip(count / 2 + 1)
                .map(|name| (name, Rates::default()));
            PolicyConfig::Throttle(Box::new(ThrottleConfig {
                devices: devices.collect(),
                groups: BTreeMap::from([("g".into(), group)]),
                ..ThrottleConfig::default()
            }))
        };
        let groups = |count, bytes| {
            PolicyConfig::Throttle(Box::new(ThrottleConfig {
                groups: names(count, bytes)
                    .map(|name| (name, ThrottleGroup::default()))
                    .collect(),
                ..ThrottleConfig::default()
            }))
        };
        let configs: [fn(usize, usize) -> PolicyConfig; 4] = [wfq, latency, throttle, groups];
        for config in configs {
            config(NAMES_MAX, 5).check().unwrap();
            assert!(told(config(NAMES_MAX + 1, 5)).contains("names"));
            assert!(told(config(4, NAME_BYTES_MAX + 1)).contains("longer"));
        }
        let escape = ThrottleConfig {
            groups: BTreeMap::from([("\u{1b}[2J".into(), ThrottleGroup::default())]),
            ..ThrottleConfig::default()
        };
        let told = told(PolicyConfig::Throttle(Box::new(escape)));
        assert_eq!(told, "the name \"\\u{1b}[2J\" holds a control character");
    }

    #[test]
    fn a_limit_stands_below_what_is_none() {
        let limit = LimitConfig {
            max: Some(4),
            max_total: None,
        };
        let config = |policy| ManagerConfig {
            policy,
            limit: Some(limit.clone()),
        };
        assert!(config(PolicyConfig::None).check().is_err());
        assert!(config(PolicyConfig::Limit(limit.clone())).check().is_err());
        config(PolicyConfig::Wfq(WfqConfig::default())).check().unwrap();
    }
}
