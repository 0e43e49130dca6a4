//! The words of `throttle`: rates, of a disk, of a group, or of every disk that has none of its own.

use clap::Args;
use serde_json::{Value, json};

use super::patch::object;
use super::rates::Rates;
use super::set::Parameters;
use crate::failure::Failure;

/// As clap's.
const EXIT_USAGE: u8 = 2;

#[derive(Args, Debug)]
pub(super) struct Throttle {
    /// Bound this disk; with --group, the group's members are the disks that are said. As often as you like; without
    /// it, what is bounded is each disk that has no bounds of its own
    #[arg(long, value_name = "DISK")]
    device: Vec<String>,
    /// Bound the members of this group together
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// Take the bounds of the disk, or the group, away: what holds for others holds for it again
    #[arg(long)]
    remove: bool,
    #[command(flatten)]
    rates: Rates,
}

impl Parameters for Throttle {
    const NAME: &'static str = "throttle";

    fn patch(&self) -> Result<Value, Failure> {
        let rates = self.rates.0.as_ref().map_err(|what| usage(what))?;
        let rates = Some(rates).filter(|rates| rates.as_object().is_some_and(|rates| !rates.is_empty()));
        match (self.remove, rates) {
            (true, None) => self.removal(),
            (true, Some(_)) => Err(usage("--remove: takes all bounds away, so there is none to say")),
            (false, rates) => self.bounds(rates.cloned()),
        }
    }
}

impl Throttle {
    fn bounds(&self, rates: Option<Value>) -> Result<Value, Failure> {
        match (&self.group, self.device.is_empty(), rates) {
            (Some(group), is_empty, rates) => {
                let members = (!is_empty).then(|| json!(self.device));
                let parts = object([("rates", rates), ("members", members)]);
                Ok(json!({ "groups": { group: parts } }))
            }
            (None, false, Some(rates)) => Ok(self.devices(&rates)),
            (None, false, None) => Err(usage("--device: say what the disk is bounded by, as --iops 500")),
            (None, true, rates) => Ok(object([("default", rates)])),
        }
    }

    fn removal(&self) -> Result<Value, Failure> {
        match (&self.group, self.device.is_empty()) {
            (Some(group), true) => Ok(json!({ "groups": { group: null } })),
            (None, false) => Ok(self.devices(&Value::Null)),
            _ => Err(usage("--remove: say --device DISK, or --group GROUP alone")),
        }
    }

    fn devices(&self, rates: &Value) -> Value {
        let devices = self.device.iter().map(|device| (device, Some(rates.clone())));
        json!({ "devices": object(devices) })
    }
}

fn usage(what: &str) -> Failure {
    Failure::new(what)
        .hint("`iomgr manager set throttle --help` shows the words")
        .exit(EXIT_USAGE)
}

#[cfg(test)]
mod tests {
    use super::super::set::tests::wish;
    use super::*;

    fn policy(line: &str) -> Value {
        let mut policy = wish(&format!("throttle {line}")).unwrap().manager["policy"].take();
        assert_eq!(policy["name"].take(), "throttle");
        policy.as_object_mut().unwrap().remove("name");
        policy
    }

    #[test]
    fn rates_are_said_as_a_whole() {
        assert_eq!(
            policy("--iops 500 --burst 2000 --burst-length 5s --device disk0"),
            json!({"devices":{"disk0":{"iops":{"average":500,"max":2000,"max_length_ms":5000}}}})
        );
        assert_eq!(
            policy("--bps 100M --burst 1G --iops-read 5 --iops-read-max 6 --iops-size 64K"),
            json!({"default":{
                "bps":{"average":104_857_600,"max":1_073_741_824,"max_length_ms":null},
                "iops_read":{"average":5,"max":6,"max_length_ms":null},
                "iops_size":65536,
            }})
        );
        assert_eq!(
            policy("--iops 1 --bps 2 --bps-max 3K --bps-max-length 500ms --bps-write none --iops-size none"),
            json!({"default":{
                "iops":{"average":1,"max":null,"max_length_ms":null},
                "bps":{"average":2,"max":3072,"max_length_ms":500},
                "bps_write":null,
                "iops_size":null,
            }})
        );
    }

    #[test]
    fn bounds_are_of_disks_or_groups_or_of_all_others() {
        let iops = json!({"iops":{"average":5,"max":null,"max_length_ms":null}});
        assert_eq!(policy(""), json!({}));
        assert_eq!(policy("--iops 5"), json!({"default":iops}));
        assert_eq!(
            policy("--iops 5 --device a --device b"),
            json!({"devices":{"a":iops,"b":iops}})
        );
        assert_eq!(policy("--iops 5 --group g"), json!({"groups":{"g":{"rates":iops}}}));
        assert_eq!(
            policy("--group g --device a"),
            json!({"groups":{"g":{"members":["a"]}}})
        );
        assert_eq!(policy("--remove --device a"), json!({"devices":{"a":null}}));
        assert_eq!(policy("--remove --group g"), json!({"groups":{"g":null}}));
    }

    #[test]
    fn what_makes_no_sense_is_told() {
        for (line, words) in [
            ("--device a", "as --iops 500"),
            ("--remove", "--device DISK"),
            ("--remove --group g --device a", "--group GROUP alone"),
            ("--remove --device a --iops 5", "none to say"),
            ("--iops many", "no number or none"),
            ("--bps 1Q", "no size"),
            ("--iops-max 5", "--iops <N>"),
            ("--iops 5 --iops-max-length 5s", "--iops-max <N>"),
            ("--burst 5", "--burst: goes with --iops or --bps"),
            ("--iops 5 --bps 5 --burst 6", "say --iops-max and --bps-max"),
            ("--iops 5 --burst-length 6s", "--burst <N>"),
            ("--iops 5 --iops-max 6 --burst 6", "cannot be used with"),
        ] {
            let told = wish(&format!("throttle {line}")).unwrap_err();
            assert!(told.contains(words), "{line}: {told}");
        }
    }
}
