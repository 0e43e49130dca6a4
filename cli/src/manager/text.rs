//! Managers as text.

use std::time::Duration;

use indicatif::BinaryBytes;
use serde_json::Value;
use vbd::iomgr_core::policy::{LimitConfig, PolicyConfig, Rate, Rates, ThrottleConfig};
use vbd::{GenerationStatus, ManagerStatus, PolicyInfo};

use crate::output::{indent, microseconds, table};

/// Its name and parameters.
pub(crate) fn summary(manager: &ManagerStatus) -> String {
    // A server of the last version does not tell.
    if manager.name.is_empty() {
        return String::new();
    }
    let Some(config) = &manager.config else {
        return format!(
            "manager: {} (none of the policies that come with iomgr)\n",
            manager.name
        );
    };
    let mut lines = match &config.policy {
        PolicyConfig::Throttle(throttle) => throttle_lines(throttle),
        PolicyConfig::Limit(limit) => vec![limit_text(limit)],
        other => parameter_lines(&serde_json::to_value(other).unwrap_or_default()),
    };
    lines.extend(
        config
            .limit
            .as_ref()
            .map(|limit| format!("below it a limit: {}", limit_text(limit))),
    );
    let lines = lines.iter().map(|line| format!("  {line}\n"));
    format!("manager: {}\n{}", manager.name, lines.collect::<String>())
}

/// The same, and what it lets go and wait.
pub(super) fn details(manager: &ManagerStatus) -> String {
    let hooks = &manager.hooks;
    let head = [
        "GENERATION",
        "MANAGER",
        "PENDING",
        "GRANTED",
        "WAITED",
        "NO",
        "WAIT P50",
        "P99",
        "MAX",
    ];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(manager.generations.iter().map(row));
    format!(
        "{}requests: {} pending, {} granted, {} of them after a wait\n\n{}",
        summary(manager),
        hooks.pending,
        hooks.grants,
        hooks.waits,
        table(&rows)
    )
}

fn row(generation: &GenerationStatus) -> [String; 9] {
    let hooks = &generation.hooks;
    let wait = |us: f64| match hooks.waits {
        0 => "-".to_owned(),
        _ => microseconds(us),
    };
    let ngs = &hooks.ngs;
    let ngs = ngs.device_until + ngs.device_freed + ngs.class_until + ngs.class_freed;
    [
        generation.number.to_string(),
        generation.manager.clone(),
        hooks.pending.to_string(),
        hooks.grants.to_string(),
        hooks.waits.to_string(),
        ngs.to_string(),
        wait(hooks.wait.p50_us),
        wait(hooks.wait.p99_us),
        wait(hooks.wait.max_us),
    ]
}

/// The policies there are.
pub(super) fn list(policies: &[PolicyInfo]) -> String {
    policies.iter().map(policy).collect::<Vec<_>>().join("\n")
}

fn policy(policy: &PolicyInfo) -> String {
    let rows: Vec<_> = policy
        .parameters
        .iter()
        .map(|parameter| {
            let default = match &parameter.default {
                Value::Null => "-".to_owned(),
                default => default.to_string(),
            };
            [parameter.name.to_string(), default, parameter.summary.to_string()]
        })
        .collect();
    format!("{}: {}\n{}", policy.name, policy.summary, indent(&table(&rows)))
}

fn throttle_lines(config: &ThrottleConfig) -> Vec<String> {
    let others = match config.default == Rates::default() {
        true => "other disks: no bound".to_owned(),
        false => format!("each other disk: {}", rates(&config.default)),
    };
    let devices = config.devices.iter().map(|(name, of)| format!("{name}: {}", rates(of)));
    let groups = config.groups.iter().map(|(name, group)| {
        let members: Vec<_> = group.members.iter().map(String::as_str).collect();
        let members = match members.is_empty() {
            true => "no disk".to_owned(),
            false => members.join(", "),
        };
        format!("group {name} ({members}): {}", rates(&group.rates))
    });
    devices.chain(groups).chain([others]).collect()
}

fn rates(rates: &Rates) -> String {
    let mut all: Vec<_> = rates.iter().map(|(name, of)| rate(name, of)).collect();
    let size = rates
        .iops_size
        .map(|size| format!("iops-size {}", BinaryBytes(size.into())));
    all.extend(size);
    match all.is_empty() {
        true => "no bound".to_owned(),
        false => all.join("; "),
    }
}

fn rate(name: &str, rate: Rate) -> String {
    let number = |number: u64| match name.starts_with("bps") {
        true => BinaryBytes(number).to_string(),
        false => number.to_string(),
    };
    let length = Duration::from_millis(rate.max_length_ms.unwrap_or(1000).into());
    let burst = rate
        .max
        .map(|max| format!(", up to {} for {}", number(max), humantime::format_duration(length)));
    format!("{name} {}{}", number(rate.average), burst.unwrap_or_default())
}

fn limit_text(limit: &LimitConfig) -> String {
    let each = limit.max.map(|max| format!("{max} in flight on each disk"));
    let total = limit.max_total.map(|max| format!("{max} in total"));
    each.into_iter().chain(total).collect::<Vec<_>>().join(", ")
}

/// As they are in JSON, but for the name.
fn parameter_lines(config: &Value) -> Vec<String> {
    let fields = config
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(name, _)| *name != "name");
    fields.map(|(name, value)| format!("{name}: {value}")).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use vbd::policies;

    use super::*;

    fn manager(name: &str, config: &Value) -> ManagerStatus {
        let hooks = |waits: u64| {
            json!({
                "pending": 5, "grants": 120, "waits": waits, "aborts": 0, "allocs": 120, "frees": 115,
                "ngs": { "device_until": 0, "device_freed": 1, "class_until": 30, "class_freed": 0 },
                "wait": { "sum_us": 1e5, "p50_us": 1152.0, "p90_us": 2000.0, "p99_us": 10240.0, "p999_us": 10240.0, "max_us": 10240.0, "buckets": [] },
            })
        };
        let generation = |number: u64, manager: &str, is_current: bool, waits: u64| json!({ "number": number, "manager": manager, "is_current": is_current, "hooks": hooks(waits) });
        let status = json!({
            "name": name, "config": config, "hooks": hooks(17),
            "generations": [generation(1, "none", false, 0), generation(2, name, true, 17)],
        });
        serde_json::from_value(status).unwrap()
    }

    #[test]
    fn all_about_a_throttle() {
        let config = json!({
            "policy": {
                "name": "throttle",
                "default": {},
                "devices": {
                    "disk0": { "iops": { "average": 500, "max": 2000, "max_length_ms": 5000 }, "bps_read": { "average": 104857600u64 }, "iops_size": 65536 },
                    "disk9": {},
                },
                "groups": { "tenants": { "rates": { "bps": { "average": 1u64 << 30, "max": 2u64 << 30 } }, "members": ["a", "b"] } },
            },
            "limit": { "max": 8, "max_total": 64 },
        });
        insta::assert_snapshot!(details(&manager("throttle", &config)));
    }

    #[test]
    fn parameters_are_named_as_in_json() {
        let config = json!({ "policy": { "name": "wfq", "weights": { "disk0": 300 } } });
        insta::assert_snapshot!(summary(&manager("wfq", &config)));
        let config = json!({ "policy": { "name": "limit", "max_total": 64 } });
        assert_eq!(summary(&manager("limit", &config)), "manager: limit\n  64 in total\n");
        let config = json!({ "policy": { "name": "none" } });
        assert_eq!(summary(&manager("none", &config)), "manager: none\n");
    }

    #[test]
    fn somebody_s_own_manager_has_its_name() {
        assert!(summary(&manager("mine", &Value::Null)).starts_with("manager: mine (none of"));
    }

    #[test]
    fn the_policies_there_are() {
        insta::assert_snapshot!(list(&policies()));
    }
}
