//! `iomgr manager set`: the words of the command line become a merge patch of the manager's parameters.
//!
//! What is not said is not in the patch, and so stays as it is; `none` takes something away. Ranges are the server's matter,
//! which knows the parameters that are not said.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use vbd::ManagerSet;
use vbd::iomgr_core::policy::ManagerConfig;

use super::patch::{Bound, object, stripped};
use super::throttle::Throttle;
use crate::failure::Failure;
use crate::servers::OneServer;
use crate::size;

const EXAMPLES: &str = "\
Examples:
  iomgr manager set throttle --iops 500 --burst 2000 --burst-length 5s --device disk0
  iomgr manager set throttle --bps 100M --group tenants --device disk1 --device disk2
  iomgr manager set wfq --weight disk0=300 --weight disk1=100 --depth 8
  iomgr manager set limit --max 8 --max-total 64
  iomgr manager set turn --share 16
  iomgr manager set latency --protect disk0 --target 5ms --limit-max 32
  iomgr manager set deadline --read-expire 100ms
  iomgr manager set none

The policy that is set already keeps what it knows, and each parameter that is not said; another
one begins with its defaults. `iomgr manager list` shows them; `none` takes a bound away.";

/// Make a policy the manager, or change its parameters: at once, for requests that wait as well
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Set {
    #[command(subcommand)]
    policy: Policy,
}

#[derive(Debug, Subcommand)]
enum Policy {
    /// Everything goes; requests are only counted
    #[command(after_help = EXAMPLES)]
    None(Nothing),
    /// Bound the requests in flight
    #[command(after_help = EXAMPLES)]
    Limit(With<Limit>),
    /// Let disks take turns of so many requests
    #[command(after_help = EXAMPLES)]
    Turn(With<Turn>),
    /// Bound requests and bytes per second, of disks and groups of them
    #[command(after_help = EXAMPLES)]
    Throttle(Box<With<Throttle>>),
    /// Share what there is in proportion to weights
    #[command(after_help = EXAMPLES)]
    Wfq(With<Wfq>),
    /// Keep the latency of some disks, by giving the others less depth
    #[command(after_help = EXAMPLES)]
    Latency(With<Latency>),
    /// Let reads go first, and nothing wait much longer than its time
    #[command(after_help = EXAMPLES)]
    Deadline(With<Deadline>),
}

#[derive(Args, Debug)]
struct Nothing {
    #[command(flatten)]
    server: OneServer,
}

/// A policy's parameters, and what can be said besides.
#[derive(Args, Debug)]
struct With<P: Args> {
    #[command(flatten)]
    parameters: P,
    /// Begin with the defaults, not with the parameters that the policy has now
    #[arg(long)]
    reset: bool,
    #[command(flatten)]
    server: OneServer,
    #[command(flatten)]
    valve: Valve,
}

/// `limit`, below another policy.
#[derive(Args, Debug)]
#[command(next_help_heading = "Valve below the policy")]
struct Valve {
    /// Requests in flight on each disk, at most; none for no bound
    #[arg(long, value_name = "N")]
    limit_max: Option<Bound<u32>>,
    /// Requests in flight on all disks together, at most; none for no bound
    #[arg(long, value_name = "N")]
    limit_max_total: Option<Bound<u32>>,
}

/// What a policy's words mean.
pub(super) trait Parameters {
    const NAME: &'static str;

    /// The parameters that are said, as a merge patch.
    fn patch(&self) -> Result<Value, Failure>;
}

#[derive(Args, Debug)]
struct Limit {
    /// On each disk; none for no bound
    #[arg(long, value_name = "N")]
    max: Option<Bound<u32>>,
    /// On all disks together; none for no bound
    #[arg(long, value_name = "N")]
    max_total: Option<Bound<u32>>,
}

#[derive(Args, Debug)]
struct Turn {
    /// Requests of a disk in one turn
    #[arg(long, value_name = "N")]
    share: Option<u32>,
    /// How long a turn lasts at most
    #[arg(long, value_name = "TIME", value_parser = millis)]
    turn: Option<u32>,
}

#[derive(Args, Debug)]
struct Wfq {
    /// A disk's weight, 1 to 10000; none for the default. As often as you like
    #[arg(long, value_name = "DISK=N", value_parser = weight)]
    weight: Vec<(String, Bound<u16>)>,
    /// The weight of disks that have none of their own
    #[arg(long, value_name = "N")]
    default_weight: Option<u16>,
    /// What a request costs, whatever its length
    #[arg(long, value_name = "N")]
    cost_base: Option<u32>,
    /// What each KiB of it costs besides
    #[arg(long, value_name = "N")]
    cost_per_kib: Option<u32>,
    /// Requests in flight on all disks together: weights act where more want to be
    #[arg(long, value_name = "N")]
    depth: Option<u32>,
}

#[derive(Args, Debug)]
struct Latency {
    /// The disks to protect, all of them
    #[arg(long, value_name = "DISK", value_delimiter = ',')]
    protect: Vec<String>,
    /// What 99 of 100 of their requests may take
    #[arg(long, value_name = "TIME", value_parser = micros)]
    target: Option<u32>,
    /// After which time depth is looked at again
    #[arg(long, value_name = "TIME", value_parser = millis)]
    window: Option<u32>,
    /// Requests in flight that each of the others has at least
    #[arg(long, value_name = "N")]
    min_depth: Option<u32>,
    /// And at most
    #[arg(long, value_name = "N")]
    max_depth: Option<u32>,
}

#[derive(Args, Debug)]
struct Deadline {
    /// How long a read should wait at most
    #[arg(long, value_name = "TIME", value_parser = millis)]
    read_expire: Option<u32>,
    /// How long a write should wait at most
    #[arg(long, value_name = "TIME", value_parser = millis)]
    write_expire: Option<u32>,
    /// Requests of one direction in a row
    #[arg(long, value_name = "N")]
    fifo_batch: Option<u32>,
    /// Batches of reads that may pass waiting writes
    #[arg(long, value_name = "N")]
    writes_starved: Option<u32>,
    /// Requests in flight on all disks together: order matters where more want to be
    #[arg(long, value_name = "N")]
    depth: Option<u32>,
}

impl Set {
    pub(super) fn server(&self) -> &OneServer {
        match &self.policy {
            Policy::None(nothing) => &nothing.server,
            Policy::Limit(with) => &with.server,
            Policy::Turn(with) => &with.server,
            Policy::Throttle(with) => &with.server,
            Policy::Wfq(with) => &with.server,
            Policy::Latency(with) => &with.server,
            Policy::Deadline(with) => &with.server,
        }
    }

    pub(super) fn wish(&self) -> Result<ManagerSet, Failure> {
        match &self.policy {
            Policy::None(_) => Ok((&ManagerConfig::default()).into()),
            Policy::Limit(with) => with.wish(),
            Policy::Turn(with) => with.wish(),
            Policy::Throttle(with) => with.wish(),
            Policy::Wfq(with) => with.wish(),
            Policy::Latency(with) => with.wish(),
            Policy::Deadline(with) => with.wish(),
        }
    }
}

impl<P: Args + Parameters> With<P> {
    fn wish(&self) -> Result<ManagerSet, Failure> {
        let mut policy = self.parameters.patch()?;
        policy["name"] = P::NAME.into();
        let patch = object([("policy", Some(policy)), ("limit", self.valve.patch())]);
        Ok(match self.reset {
            true => ManagerSet {
                manager: stripped(patch),
                merge: false,
            },
            false => ManagerSet {
                manager: patch,
                merge: true,
            },
        })
    }
}

impl Valve {
    fn patch(&self) -> Option<Value> {
        let bounds = object([
            ("max", said(&self.limit_max)),
            ("max_total", said(&self.limit_max_total)),
        ]);
        bounds
            .as_object()
            .is_some_and(|bounds| !bounds.is_empty())
            .then_some(bounds)
    }
}

/// A word that was said, in JSON.
pub(super) fn said<T: Clone + Into<Value>>(word: &Option<T>) -> Option<Value> {
    word.clone().map(Into::into)
}

impl Parameters for Limit {
    const NAME: &'static str = "limit";

    fn patch(&self) -> Result<Value, Failure> {
        Ok(object([("max", said(&self.max)), ("max_total", said(&self.max_total))]))
    }
}

impl Parameters for Turn {
    const NAME: &'static str = "turn";

    fn patch(&self) -> Result<Value, Failure> {
        Ok(object([("share", said(&self.share)), ("turn_ms", said(&self.turn))]))
    }
}

impl Parameters for Wfq {
    const NAME: &'static str = "wfq";

    fn patch(&self) -> Result<Value, Failure> {
        let weights: BTreeMap<_, _> = self.weight.iter().cloned().collect();
        Ok(object([
            (
                "weights",
                (!weights.is_empty())
                    .then(|| object(weights.into_iter().map(|(disk, weight)| (disk, Some(weight.into()))))),
            ),
            ("default_weight", said(&self.default_weight)),
            ("cost_base", said(&self.cost_base)),
            ("cost_per_kib", said(&self.cost_per_kib)),
            ("depth", said(&self.depth)),
        ]))
    }
}

impl Parameters for Latency {
    const NAME: &'static str = "latency";

    fn patch(&self) -> Result<Value, Failure> {
        Ok(object([
            ("protect", (!self.protect.is_empty()).then(|| json!(self.protect))),
            ("target_us", said(&self.target)),
            ("window_ms", said(&self.window)),
            ("min_depth", said(&self.min_depth)),
            ("max_depth", said(&self.max_depth)),
        ]))
    }
}

impl Parameters for Deadline {
    const NAME: &'static str = "deadline";

    fn patch(&self) -> Result<Value, Failure> {
        Ok(object([
            ("read_expire_ms", said(&self.read_expire)),
            ("write_expire_ms", said(&self.write_expire)),
            ("fifo_batch", said(&self.fifo_batch)),
            ("writes_starved", said(&self.writes_starved)),
            ("depth", said(&self.depth)),
        ]))
    }
}

/// Reads `disk0=300`, or `disk0=none`.
fn weight(text: &str) -> Result<(String, Bound<u16>), String> {
    let (disk, weight) = text
        .rsplit_once('=')
        .filter(|(disk, _)| !disk.is_empty())
        .ok_or("is no weight; say DISK=N, as disk0=300")?;
    Ok((disk.to_owned(), weight.parse()?))
}

/// A time in whole milliseconds.
pub(super) fn millis(text: &str) -> Result<u32, String> {
    whole(text, Duration::from_millis(1), "a millisecond")
}

/// A time in whole microseconds.
fn micros(text: &str) -> Result<u32, String> {
    whole(text, Duration::from_micros(1), "a microsecond")
}

fn whole(text: &str, unit: Duration, name: &str) -> Result<u32, String> {
    let (time, unit) = (size::timeout(text)?.as_nanos(), unit.as_nanos());
    match time % unit {
        0 => u32::try_from(time / unit).map_err(|_| "is too long".to_owned()),
        _ => Err(format!("is no multiple of {name}")),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        set: Set,
    }

    /// What a command line asks for.
    pub(in crate::manager) fn wish(line: &str) -> Result<ManagerSet, String> {
        let words = std::iter::once("set").chain(line.split_whitespace());
        let parsed = Line::try_parse_from(words).map_err(|error| error.to_string())?;
        parsed.set.wish().map_err(|failure| failure.to_string())
    }

    fn patch(line: &str) -> Value {
        wish(line).unwrap().manager
    }

    #[test]
    fn words_become_a_patch_of_what_is_said() {
        assert_eq!(patch("none"), json!({"policy":{"name":"none"}}));
        assert_eq!(
            patch("limit --max 8 --max-total none"),
            json!({"policy":{"name":"limit","max":8,"max_total":null}})
        );
        assert_eq!(
            patch("turn --turn 0.5"),
            json!({"policy":{"name":"turn","turn_ms":500}})
        );
        assert_eq!(
            patch("wfq --weight disk0=300 --weight a=b=1 --weight disk1=none --depth 8"),
            json!({"policy":{"name":"wfq","weights":{"disk0":300,"a=b":1,"disk1":null},"depth":8}})
        );
        assert_eq!(
            patch("latency --protect a,b --protect c --target 5ms --window 1s --limit-max 4 --limit-max-total none"),
            json!({"policy":{"name":"latency","protect":["a","b","c"],"target_us":5000,"window_ms":1000},
                   "limit":{"max":4,"max_total":null}})
        );
        assert_eq!(
            patch("deadline --read-expire 100ms"),
            json!({"policy":{"name":"deadline","read_expire_ms":100}})
        );
        assert!(wish("wfq").unwrap().merge);
        let reset = wish("limit --reset --max 4 --max-total none").unwrap();
        assert_eq!(
            (reset.manager, reset.merge),
            (json!({"policy":{"name":"limit","max":4}}), false)
        );
    }

    #[test]
    fn what_makes_no_sense_is_told() {
        for (line, words) in [
            ("wfq --weight disk0", "DISK=N"),
            ("wfq --weight =5", "DISK=N"),
            ("wfq --weight disk0=many", "number or none"),
            ("wfq --weight disk0=70000", "number or none"),
            ("limit --max -1", "unexpected argument"),
            ("turn --turn 0", "no time at all"),
            ("turn --turn 100us", "no multiple of a millisecond"),
            ("turn --turn 60days", "too long"),
            ("explode", "unrecognized subcommand"),
        ] {
            let told = wish(line).unwrap_err();
            assert!(told.contains(words), "{line}: {told}");
        }
    }
}
