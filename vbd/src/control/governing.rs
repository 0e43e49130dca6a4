//! `manager-set` and `manager-unset`: parameters as JSON, whole or as a patch.

use iomgr_core::manager;
use iomgr_core::policy::{
    DeadlineConfig, Governor, LatencyConfig, LimitConfig, ManagerConfig, SetError, ThrottleConfig, TurnConfig,
    WfqConfig,
};
use serde_json::{Map, Value, json};

use super::request::{ManagerSet, decode};
use crate::error::{Error, ErrorKind};
use crate::server::stopping;

/// Makes what `wish` says the current manager, in one step.
pub(super) fn set(governor: &Governor, wish: ManagerSet) -> Result<(), Error> {
    match wish.merge {
        false => Ok(governor.set(&read(wish.manager)?)?),
        true => governor.update(|current| merged(current, wish.manager)),
    }
}

/// Back to "none".
pub(super) fn unset(governor: &Governor, name: Option<&str>) -> Result<(), Error> {
    Ok(governor.unset(name)?)
}

fn read(manager: Value) -> Result<ManagerConfig, Error> {
    let read = decode(manager.clone());
    read.map_err(|error| fault_of_policy(&manager).unwrap_or(error).within("manager"))
}

/// The policy's name stands among its parameters, so they are read by way of a copy, which does not know where it is; what
/// makes no sense is found by reading them again, as the named policy's own.
fn fault_of_policy(manager: &Value) -> Option<Error> {
    let mut parameters = manager.get("policy")?.as_object()?.clone();
    let name = parameters.remove("name")?;
    let parameters = Value::Object(parameters);
    let fault = match name.as_str()? {
        "limit" => decode::<LimitConfig>(parameters).err(),
        "turn" => decode::<TurnConfig>(parameters).err(),
        "throttle" => decode::<ThrottleConfig>(parameters).err(),
        "wfq" => decode::<WfqConfig>(parameters).err(),
        "latency" => decode::<LatencyConfig>(parameters).err(),
        "deadline" => decode::<DeadlineConfig>(parameters).err(),
        _ => None,
    };
    fault.map(|fault| fault.within("policy"))
}

/// `patch` over the current parameters, if they are of the policy that it names or if it names none.
fn merged(current: Option<ManagerConfig>, patch: Value) -> Result<ManagerConfig, Error> {
    let mut config = current
        .map(|config| serde_json::to_value(config).expect("parameters are plain data with text for keys"))
        .filter(|config| keeps_policy(config, &patch))
        .unwrap_or_else(|| Value::Object(Map::new()));
    apply(&mut config, patch);
    // A limit without a bound is none.
    if config
        .pointer("/limit")
        .is_some_and(|limit| *limit == Value::Object(Map::new()))
    {
        apply(&mut config, json!({ "limit": null }));
    }
    read(config)
}

fn keeps_policy(config: &Value, patch: &Value) -> bool {
    let name = |of: &Value| of.pointer("/policy/name").cloned();
    name(patch).is_none_or(|wanted| name(config) == Some(wanted))
}

/// A merge patch, as RFC 7396 has it: objects are merged, null takes away, all else takes the place of what was there.
fn apply(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let fields = target.as_object_mut().expect("made one above, if it was none");
    for (name, value) in patch {
        match value {
            Value::Null => drop(fields.remove(&name)),
            value => apply(fields.entry(name).or_insert(Value::Null), value),
        }
    }
}

impl From<SetError> for Error {
    fn from(error: SetError) -> Self {
        match error {
            SetError::Config(bad) => Self::new(ErrorKind::InvalidOption, bad.to_string()),
            SetError::NotCurrent { .. } => {
                Self::new(ErrorKind::NotCurrent, error.to_string()).hint("`iomgr manager show` shows it")
            }
            SetError::Manager(cause) if cause.kind() == manager::ErrorKind::Closed => stopping(),
            SetError::Manager(cause) => Self::new(ErrorKind::Manager, "the manager cannot be set").because(cause),
            other => Self::new(ErrorKind::Manager, other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use iomgr_core::manager::Registry;

    use super::*;

    /// The examples of the RFC's appendix A.
    #[test]
    fn patches_are_those_of_the_rfc() {
        for (target, patch, expected) in [
            (json!({"a":"b"}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"b"}), json!({"b":"c"}), json!({"a":"b","b":"c"})),
            (json!({"a":"b"}), json!({"a":null}), json!({})),
            (json!({"a":"b","b":"c"}), json!({"a":null}), json!({"b":"c"})),
            (json!({"a":["b"]}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"c"}), json!({"a":["b"]}), json!({"a":["b"]})),
            (
                json!({"a":{"b":"c"}}),
                json!({"a":{"b":"d","c":null}}),
                json!({"a":{"b":"d"}}),
            ),
            (json!({"a":[{"b":"c"}]}), json!({"a":[1]}), json!({"a":[1]})),
            (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
            (json!({"a":"b"}), json!(["c"]), json!(["c"])),
            (json!({"a":"foo"}), json!(null), json!(null)),
            (json!({"a":"foo"}), json!("bar"), json!("bar")),
            (json!({"e":null}), json!({"a":1}), json!({"e":null,"a":1})),
            (json!([1, 2]), json!({"a":"b","c":null}), json!({"a":"b"})),
            (json!({}), json!({"a":{"bb":{"ccc":null}}}), json!({"a":{"bb":{}}})),
        ] {
            let mut merged = target.clone();
            apply(&mut merged, patch.clone());
            assert_eq!(merged, expected, "{patch} over {target}");
        }
    }

    fn over(current: &Value, patch: Value) -> Result<Value, Error> {
        let current = serde_json::from_value(current.clone()).unwrap();
        merged(Some(current), patch).map(|config| serde_json::to_value(config).unwrap())
    }

    #[test]
    fn a_patch_keeps_what_it_does_not_name() {
        let now = json!({"policy":{"name":"throttle","default":{},"devices":{"a":{"iops":{"average":5}}}}});
        let patched = over(
            &now,
            json!({"policy":{"name":"throttle","devices":{"b":{"bps":{"average":7}}}}}),
        )
        .unwrap();
        let devices = json!({"a":{"iops":{"average":5}},"b":{"bps":{"average":7}}});
        assert_eq!(patched["policy"]["devices"], devices);
        let patched = over(&patched, json!({"policy":{"devices":{"a":null}}})).unwrap();
        assert_eq!(patched["policy"]["devices"], json!({"b":{"bps":{"average":7}}}));
    }

    #[test]
    fn another_policy_begins_with_its_defaults() {
        let now = json!({"policy":{"name":"wfq","weights":{"a":5}},"limit":{"max":4}});
        let patched = over(&now, json!({"policy":{"name":"turn","share":3}})).unwrap();
        assert_eq!(patched, json!({"policy":{"name":"turn","share":3,"turn_ms":100}}));
    }

    #[test]
    fn a_limit_whose_bounds_are_taken_away_is_none() {
        let now = json!({"policy":{"name":"turn"},"limit":{"max":4}});
        let patched = over(&now, json!({"limit":{"max":null}})).unwrap();
        assert!(patched.get("limit").is_none(), "{patched}");
        let patched = over(&now, json!({"limit":{"max_total":9}})).unwrap();
        assert_eq!(patched["limit"], json!({"max":4,"max_total":9}));
    }

    #[test]
    fn errors_name_what_is_at_fault() {
        let governor = Governor::new(Registry::new());
        let told = |manager: Value, merge| {
            let error = set(&governor, ManagerSet { manager, merge }).unwrap_err();
            (error.kind(), error.line())
        };
        for merge in [false, true] {
            let (kind, text) = told(json!({"policy":{"name":"explode"}}), merge);
            assert_eq!(kind, ErrorKind::Request);
            assert!(
                text.contains("manager") && text.contains("explode") && text.contains("throttle"),
                "{text}"
            );
            let (kind, text) = told(json!({"policy":{"name":"turn","share":0}}), merge);
            assert_eq!(
                (kind, text.as_str()),
                (ErrorKind::InvalidOption, "share is from 1, not 0")
            );
            assert_eq!(told(json!([1]), merge).0, ErrorKind::Request);
            for (policy, field) in [
                (json!({"name":"limit","max":"8"}), "max"),
                (json!({"name":"turn","share":-1}), "share"),
                (json!({"name":"throttle","devices":{"a":{"iops":7}}}), "devices.a.iops"),
                (json!({"name":"wfq","weights":{"a":"much"}}), "weights.a"),
                (json!({"name":"latency","protect":["a",7]}), "protect[1]"),
                (json!({"name":"deadline","depth":1.5}), "depth"),
            ] {
                let (kind, text) = told(json!({ "policy": policy }), merge);
                assert_eq!(kind, ErrorKind::Request);
                assert!(text.contains(&format!("manager.policy.{field}: invalid")), "{text}");
            }
            let (_, text) = told(json!({"policy":{"name":"turn","shares":3}}), merge);
            assert!(text.contains("unknown field `shares`"), "{text}");
            let (_, text) = told(json!({"policy":{"name":"turn"},"limit":{"max":"8"}}), merge);
            assert!(text.contains("manager.limit.max: invalid type"), "{text}");
        }
        let error = unset(&governor, Some("wfq")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotCurrent);
        unset(&governor, Some("none")).unwrap();
    }

    #[test]
    fn a_server_that_ends_takes_no_policy() {
        let governor = Governor::new(Registry::new());
        let told = |merge, share: u32| {
            let manager = json!({"policy":{"name":"turn","share":share}});
            set(&governor, ManagerSet { manager, merge })
        };
        told(false, 1).unwrap();
        governor.registry().close();
        for merge in [false, true] {
            let error = told(merge, 2).unwrap_err();
            assert_eq!(
                (error.kind(), error.line().as_str()),
                (ErrorKind::Server, "the server is being stopped")
            );
        }
        unset(&governor, None).unwrap();
        assert_eq!(governor.name(), "none");
    }
}
