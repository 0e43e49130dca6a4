//! The parameters of every policy, as people write them: with units in their names, ranges, and defaults.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::limit::LimitConfig;
use super::throttle::ThrottleConfig;

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

/// `turn`: N requests for each device and turn.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct TurnConfig {
    /// Requests of a device in one turn, from 1.
    pub share: u32,
    /// Milliseconds that a turn lasts at most, from 1.
    pub turn_ms: u32,
}

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

impl Default for TurnConfig {
    fn default() -> Self {
        Self {
            share: 32,
            turn_ms: 100,
        }
    }
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
}

impl PolicyConfig {
    /// All names of devices and groups in it.
    fn names(&self) -> Vec<&str> {
        let names: Vec<&String> = match self {
            Self::Wfq(config) => config.weights.keys().collect(),
            Self::Latency(config) => config.protect.iter().collect(),
            Self::Throttle(config) => {
                let members = config.groups.values().flat_map(|group| &group.members);
                config
                    .devices
                    .keys()
                    .chain(config.groups.keys())
                    .chain(members)
                    .collect()
            }
            Self::None | Self::Limit(_) | Self::Turn(_) | Self::Deadline(_) => Vec::new(),
        };
        names.into_iter().map(String::as_str).collect()
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

impl TurnConfig {
    fn check(&self) -> Result<(), BadConfig> {
        at_least(1, [("share", self.share), ("turn-ms", self.turn_ms)])
    }
}

impl WfqConfig {
    /// The largest weight; the smallest is 1.
    pub const WEIGHT_MAX: u16 = 10_000;

    fn check(&self) -> Result<(), BadConfig> {
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

impl LatencyConfig {
    fn check(&self) -> Result<(), BadConfig> {
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

impl DeadlineConfig {
    fn check(&self) -> Result<(), BadConfig> {
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

/// Parameters are kept, copied and shown as a whole, and may be added to a little at a time.
fn check_names(names: &[&str]) -> Result<(), BadConfig> {
    if names.len() > NAMES_MAX {
        let count = names.len();
        return Err(BadConfig::new(format!(
            "{count} names are given; {NAMES_MAX} are taken"
        )));
    }
    match names.iter().find(|name| name.len() > NAME_BYTES_MAX) {
        Some(_) => Err(BadConfig::new(format!("a name is longer than {NAME_BYTES_MAX} bytes"))),
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
    use super::super::{Rate, Rates, ThrottleGroup};
    use super::*;

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
    fn what_is_out_of_range_is_named() {
        let wfq = WfqConfig {
            weights: BTreeMap::from([("disk0".into(), 0)]),
            ..WfqConfig::default()
        };
        assert_eq!(told(PolicyConfig::Wfq(wfq)), "weight disk0=0: weights are 1 to 10000");
        let rates = Rates {
            bps_read: Some(Rate {
                max: Some(5),
                ..Rate::new(6)
            }),
            ..Rates::default()
        };
        let throttle = ThrottleConfig {
            devices: BTreeMap::from([("disk1".into(), rates)]),
            ..ThrottleConfig::default()
        };
        assert!(told(PolicyConfig::Throttle(Box::new(throttle))).starts_with("disk1: bps-read-max"));
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
            let devices = names(count - count / 2 - 1, bytes).map(|name| (name, Rates::default()));
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
    }

    #[test]
    fn a_device_has_one_group() {
        let group = ThrottleGroup {
            members: BTreeSet::from(["a".into()]),
            ..ThrottleGroup::default()
        };
        let throttle = ThrottleConfig {
            groups: BTreeMap::from([("g".into(), group.clone()), ("h".into(), group)]),
            ..ThrottleConfig::default()
        };
        assert_eq!(
            told(PolicyConfig::Throttle(Box::new(throttle))),
            "device a is in two groups"
        );
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
