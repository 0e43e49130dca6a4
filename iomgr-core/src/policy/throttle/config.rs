//! What `throttle` is told.

use std::collections::{BTreeMap, BTreeSet};

use crate::policy::BadConfig;

/// `throttle`: requests and bytes per second, at most, of devices and of groups of devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct ThrottleConfig {
    /// Of each device, for itself, that is named neither below nor in a group.
    pub default: Rates,
    /// Of the devices of these names.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "BTreeMap::is_empty"))]
    pub devices: BTreeMap<String, Rates>,
    /// Of the devices of a group together. A device belongs to one group at most, and may have rates of its own besides.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "BTreeMap::is_empty"))]
    pub groups: BTreeMap<String, ThrottleGroup>,
}

/// Devices that share rates: when all want more than there is, each gets the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct ThrottleGroup {
    /// What they may do together.
    pub rates: Rates,
    /// Their names.
    pub members: BTreeSet<String>,
}

/// Rates; what is not given is not bounded. A bound on all requests and one on a direction hold both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct Rates {
    /// Requests per second.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub iops: Option<Rate>,
    /// Reads per second.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub iops_read: Option<Rate>,
    /// Writes, discards and write-zeroes per second.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub iops_write: Option<Rate>,
    /// Bytes per second. Discards and write-zeroes carry none.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub bps: Option<Rate>,
    /// Bytes read per second.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub bps_read: Option<Rate>,
    /// Bytes written per second.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub bps_write: Option<Rate>,
    /// A request longer than so many bytes counts as several, in requests per second; each counts as one if not given.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub iops_size: Option<u32>,
}

/// An average, and a burst above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(deny_unknown_fields)
)]
pub struct Rate {
    /// Per second, in the long run; from 1.
    pub average: u64,
    /// Per second during a burst; not below `average`. The average if not given.
    #[cfg_attr(feature = "serde", serde(default, skip_serializing_if = "Option::is_none"))]
    pub max: Option<u64>,
    /// Milliseconds for which a burst lasts at most; 1000 if not given. What a burst took above the average is saved up
    /// again by what is left unused of the average afterwards.
    #[cfg_attr(feature = "serde", serde(default, skip_serializing_if = "Option::is_none"))]
    pub max_length_ms: Option<u32>,
}

impl ThrottleConfig {
    pub(in crate::policy) fn named_devices(&self) -> impl Iterator<Item = &str> {
        let members = self.groups.values().flat_map(|group| &group.members);
        self.devices.keys().chain(members).map(String::as_str)
    }

    pub(in crate::policy) fn check(&self) -> Result<(), BadConfig> {
        self.default.check("every device")?;
        self.devices.iter().try_for_each(|(name, rates)| rates.check(name))?;
        let mut seen = BTreeSet::new();
        for (name, group) in &self.groups {
            if name.is_empty() {
                return Err(BadConfig::new("a group needs a name"));
            }
            group.rates.check(name)?;
            if let Some(twice) = group.members.iter().find(|member| !seen.insert(*member)) {
                return Err(BadConfig::new(format!("device {twice} is in two groups")));
            }
        }
        Ok(())
    }
}

impl Rates {
    /// The rates that are given, with their names.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, Rate)> {
        let all = [
            ("iops", self.iops),
            ("iops-read", self.iops_read),
            ("iops-write", self.iops_write),
            ("bps", self.bps),
            ("bps-read", self.bps_read),
            ("bps-write", self.bps_write),
        ];
        all.into_iter().filter_map(|(name, rate)| Some((name, rate?)))
    }

    fn check(&self, whose: &str) -> Result<(), BadConfig> {
        if self.iops_size == Some(0) {
            return Err(BadConfig::new(format!("{whose}: iops-size is from 1")));
        }
        for (name, rate) in self.iter() {
            let bad = |what: &str| Err(BadConfig::new(format!("{whose}: {name}{what}")));
            if rate.average == 0 || rate.average > Rate::MAX {
                return bad(" is from 1 to 10^12 per second");
            }
            match (rate.max, rate.max_length_ms) {
                (Some(max), _) if max < rate.average || max > Rate::MAX => {
                    return bad("-max is not below the average, and 10^12 per second at most");
                }
                (None, Some(_)) => return bad("-max-length needs a -max"),
                (_, Some(ms)) if !(1..=Rate::LENGTH_MS_MAX).contains(&ms) => {
                    return bad("-max-length is from 1 ms to 1 h");
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl Rate {
    /// The largest rate, per second.
    pub const MAX: u64 = 1_000_000_000_000;
    /// The longest burst, in milliseconds.
    pub const LENGTH_MS_MAX: u32 = 3_600_000;

    /// So many per second, without bursts.
    pub const fn new(average: u64) -> Self {
        Self {
            average,
            max: None,
            max_length_ms: None,
        }
    }

    /// So many per second, and up to `max` per second for so many milliseconds.
    pub const fn with_burst(self, max: u64, length_ms: u32) -> Self {
        Self {
            max: Some(max),
            max_length_ms: Some(length_ms),
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_out_of_range_is_named() {
        let rates = Rates {
            bps_read: Some(Rate {
                max: Some(5),
                ..Rate::new(6)
            }),
            ..Rates::default()
        };
        let config = ThrottleConfig {
            devices: BTreeMap::from([("disk1".into(), rates)]),
            ..ThrottleConfig::default()
        };
        let told = config.check().unwrap_err().to_string();
        assert!(told.starts_with("disk1: bps-read-max"), "{told}");
    }

    #[test]
    fn a_device_has_one_group() {
        let group = ThrottleGroup {
            members: BTreeSet::from(["a".into()]),
            ..ThrottleGroup::default()
        };
        let config = ThrottleConfig {
            groups: BTreeMap::from([("g".into(), group.clone()), ("h".into(), group)]),
            ..ThrottleConfig::default()
        };
        assert_eq!(config.check().unwrap_err().to_string(), "device a is in two groups");
    }
}
