//! `manager-list`: the policies there are, and their parameters.

use std::borrow::Cow;

use iomgr_core::policy::PolicyName;
use serde::{Deserialize, Serialize};

/// A policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyInfo {
    /// Its name.
    pub name: Cow<'static, str>,
    /// What it guarantees, in one line.
    pub summary: Cow<'static, str>,
    /// Its parameters.
    pub parameters: Vec<ParameterInfo>,
}

/// A parameter of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParameterInfo {
    /// Its name in JSON, with its unit.
    pub name: Cow<'static, str>,
    /// What it is if it is not given, as JSON; null if that is no bound at all, or if it must be given.
    pub default: serde_json::Value,
    /// What it means.
    pub summary: Cow<'static, str>,
}

/// The policies that come with the stack.
pub fn policies() -> Vec<PolicyInfo> {
    PolicyName::ALL.into_iter().map(policy).collect()
}

fn policy(name: PolicyName) -> PolicyInfo {
    let parameters = parameters(name).iter().map(|&(name, default, summary)| ParameterInfo {
        name: name.into(),
        default: serde_json::from_str(default).expect("the table below holds JSON, which a test sees to"),
        summary: summary.into(),
    });
    PolicyInfo {
        name: name.as_str().into(),
        summary: name.summary().into(),
        parameters: parameters.collect(),
    }
}

/// Name, default and meaning.
type Row = (&'static str, &'static str, &'static str);

const LIMIT: [Row; 2] = [
    ("max", "null", "requests in flight on each device"),
    ("max_total", "null", "requests in flight on all devices together"),
];
const TURN: [Row; 2] = [
    ("share", "32", "requests of a device in one turn"),
    ("turn_ms", "100", "milliseconds that a turn lasts at most"),
];
const THROTTLE: [Row; 3] = [
    ("default", "{}", "rates of each device that is named nowhere else"),
    ("devices", "{}", "rates of devices, by name"),
    (
        "groups",
        "{}",
        "rates that the members of a group share, by the group's name",
    ),
];
const WFQ: [Row; 5] = [
    ("weights", "{}", "weights of devices, by name, 1 to 10000"),
    ("default_weight", "100", "weight of the others"),
    ("cost_base", "16", "what a request costs, whatever its length"),
    ("cost_per_kib", "1", "what each KiB of it costs besides"),
    (
        "depth",
        "16",
        "requests in flight on all devices together; weights act where more want to be",
    ),
];
const LATENCY: [Row; 5] = [
    ("protect", "[]", "names of the protected devices, at least one"),
    (
        "target_us",
        "5000",
        "microseconds that 99 of 100 of their requests may take",
    ),
    (
        "window_ms",
        "100",
        "milliseconds after which depth is looked at again, from 10",
    ),
    (
        "min_depth",
        "1",
        "requests in flight that each of the others has at least",
    ),
    ("max_depth", "128", "and at most"),
];
const DEADLINE: [Row; 5] = [
    ("read_expire_ms", "500", "milliseconds that a read should wait at most"),
    (
        "write_expire_ms",
        "5000",
        "milliseconds that a write should wait at most",
    ),
    ("fifo_batch", "16", "requests of one direction in a row"),
    ("writes_starved", "2", "batches of reads that may pass waiting writes"),
    (
        "depth",
        "16",
        "requests in flight on all devices together; order matters where more want to be",
    ),
];

fn parameters(name: PolicyName) -> &'static [Row] {
    match name {
        PolicyName::Limit => &LIMIT,
        PolicyName::Turn => &TURN,
        PolicyName::Throttle => &THROTTLE,
        PolicyName::Wfq => &WFQ,
        PolicyName::Latency => &LATENCY,
        PolicyName::Deadline => &DEADLINE,
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use iomgr_core::policy::PolicyConfig;
    use serde_json::{Value, json};

    use super::*;

    /// The table against the parameters themselves.
    #[test]
    fn every_parameter_is_listed_with_its_default() {
        for policy in policies() {
            let mut said = json!({ "name": policy.name });
            for parameter in &policy.parameters {
                said[parameter.name.as_ref()] = parameter.default.clone();
            }
            let config: PolicyConfig = serde_json::from_value(said.clone()).unwrap();
            let defaults: PolicyConfig = serde_json::from_value(json!({ "name": policy.name })).unwrap();
            assert_eq!(config, defaults, "{said}");
            let names = |value: &Value| -> BTreeSet<String> { value.as_object().unwrap().keys().cloned().collect() };
            let filled = serde_json::to_value(&config).unwrap();
            assert!(names(&filled).is_subset(&names(&said)), "{filled} has more than {said}");
        }
    }
}
