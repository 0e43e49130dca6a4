//! What clients ask: the verbs and their arguments.
//!
//! A request is read in two steps, first its verb, then the arguments that this verb takes: so an error names the argument
//! that is at fault, and nothing that is said is passed over in silence.

use std::path::PathBuf;
use std::time::Duration;

use iomgr_core::policy::ManagerConfig;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::VERSION;
use super::distinct::Distinct;
use crate::disk::Cache;
use crate::error::{Error, ErrorKind};
use crate::format::Format;

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Map<String, Value>")]
pub struct ControlRequest {
    /// 1: the version of this protocol.
    pub v: u32,
    /// What to do, and its arguments beside it.
    #[serde(flatten)]
    pub verb: Verb,
}

/// The verbs.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "verb", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Verb {
    /// How the server and its disks are.
    Status(Nothing),
    /// End: finish, flush, close.
    Stop(Nothing),
    /// The same, but not while anybody has the block device open, as far as the kernel can tell.
    StopIdle(Nothing),
    /// The same, but the block device stays, for the next server.
    HandOver(Nothing),
    /// The disks.
    List(Nothing),
    /// What was done since this connection last asked.
    Stats(StatsRequest),
    /// The current manager, its parameters and counts.
    ManagerShow(Nothing),
    /// Make a policy the current manager, or change its parameters.
    ManagerSet(ManagerSet),
    /// Back to "none".
    ManagerUnset(ManagerUnset),
    /// The policies there are.
    ManagerList(Nothing),
    /// Take a disk's image away for a time.
    Pause(PauseRequest),
    /// Give it back, or another one.
    Resume(ResumeRequest),
    /// Serve one more disk.
    Attach(AttachRequest),
    /// Serve a disk no more.
    Detach(DetachRequest),
}

/// No arguments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// The arguments of `stats`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StatsRequest {
    /// Of this disk alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<String>,
}

/// The arguments of `manager-set`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManagerSet {
    /// A [`ManagerConfig`]; or what is to change in it, as a merge patch.
    pub manager: Value,
    /// Is `manager` a merge patch (RFC 7396) of the current parameters? Where another policy is current than it names, of
    /// that policy's defaults.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub merge: bool,
}

/// The arguments of `manager-unset`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManagerUnset {
    /// Refuse, if another manager is current.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// The arguments of `pause`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PauseRequest {
    /// The disk.
    pub disk: String,
    /// How long requests in flight may take to end; 30 s if not given. If they take longer the disk is not paused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_s: Option<Seconds>,
    /// The disk resumes by itself after so long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume_after_s: Option<Seconds>,
    /// The disk resumes by itself when this connection ends.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lease: bool,
}

/// The arguments of `resume`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResumeRequest {
    /// The disk.
    pub disk: String,
    /// The image from now on, by an absolute path; the one that it had if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<PathBuf>,
    /// Its format, if neither its extension tells it nor what was said of the one before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
}

/// The arguments of `attach`: [`DiskOptions`](crate::DiskOptions), and their defaults.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttachRequest {
    /// The image, by an absolute path.
    pub image: PathBuf,
    /// What to call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What clients are told that it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Its format.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// Refuse writes?
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
    /// Restore a footer that a crash tore?
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub repair: bool,
    /// The page cache's part.
    #[serde(default)]
    pub cache: Cache,
    /// How long to wait for somebody else's lock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock_timeout_s: Option<Seconds>,
    /// Errors that pass, by name, besides those that always do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retry_on: Vec<String>,
    /// How long a request that meets such an error is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_timeout_s: Option<Seconds>,
}

/// The arguments of `detach`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DetachRequest {
    /// The disk.
    pub disk: String,
    /// How long clients have to take their replies; 10 s if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_s: Option<Seconds>,
}

/// A time, in JSON a number of seconds, from 0 to 30 days.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Seconds(Duration);

impl From<&ManagerConfig> for ManagerSet {
    /// These parameters, whatever was before.
    fn from(config: &ManagerConfig) -> Self {
        Self {
            manager: serde_json::to_value(config).expect("parameters are plain data with text for keys"),
            merge: false,
        }
    }
}

impl Seconds {
    /// The longest.
    pub const MAX: Duration = Duration::from_secs(30 * 24 * 3600);

    /// A time of at most 30 days; one that is longer becomes that.
    pub fn new(time: Duration) -> Self {
        Self(time.min(Self::MAX))
    }
}

impl From<Seconds> for Duration {
    fn from(seconds: Seconds) -> Self {
        seconds.0
    }
}

impl From<Seconds> for f64 {
    fn from(seconds: Seconds) -> Self {
        seconds.0.as_secs_f64()
    }
}

impl TryFrom<f64> for Seconds {
    type Error = String;

    fn try_from(seconds: f64) -> Result<Self, String> {
        let time = Duration::try_from_secs_f64(seconds)
            .ok()
            .filter(|time| *time <= Self::MAX);
        let max = Self::MAX.as_secs();
        time.map(Self)
            .ok_or_else(|| format!("{seconds} is no number of seconds from 0 to {max}"))
    }
}

impl ControlRequest {
    /// A request of this version.
    pub fn new(verb: Verb) -> Self {
        Self { v: VERSION, verb }
    }

    pub(super) fn parse(line: &[u8]) -> Result<Self, Error> {
        let fields = match serde_json::from_slice(line) {
            Ok(Distinct(Value::Object(fields))) => fields,
            Ok(_) => return Err(refuse("is no JSON object")),
            Err(error) if error.is_data() => return Err(refuse(error.to_string())),
            Err(error) => return Err(refuse("is no JSON object").because(error)),
        };
        Self::try_from(fields)
    }
}

impl TryFrom<Map<String, Value>> for ControlRequest {
    type Error = Error;

    fn try_from(mut fields: Map<String, Value>) -> Result<Self, Error> {
        let v = fields
            .remove("v")
            .ok_or_else(|| refuse("is missing; say 1").field("v"))?;
        if v.as_u64() != Some(VERSION.into()) {
            return Err(refuse(format!("version {VERSION} is spoken here, not {v}")).field("v"));
        }
        let verb = match fields.remove("verb") {
            Some(Value::String(verb)) => verb,
            Some(_) => return Err(refuse("is no text").field("verb")),
            None => return Err(refuse("is missing").field("verb")),
        };
        Verb::parse(&verb, fields).map(Self::new)
    }
}

impl Verb {
    /// Their names.
    pub const NAMES: [&'static str; 14] = [
        "status",
        "stop",
        "stop-idle",
        "hand-over",
        "list",
        "stats",
        "manager-show",
        "manager-set",
        "manager-unset",
        "manager-list",
        "pause",
        "resume",
        "attach",
        "detach",
    ];

    fn parse(name: &str, fields: Map<String, Value>) -> Result<Self, Error> {
        Ok(match name {
            "status" => Self::Status(arguments(fields)?),
            "stop" => Self::Stop(arguments(fields)?),
            "stop-idle" => Self::StopIdle(arguments(fields)?),
            "hand-over" => Self::HandOver(arguments(fields)?),
            "list" => Self::List(arguments(fields)?),
            "stats" => Self::Stats(arguments(fields)?),
            "manager-show" => Self::ManagerShow(arguments(fields)?),
            "manager-set" => Self::ManagerSet(arguments(fields)?),
            "manager-unset" => Self::ManagerUnset(arguments(fields)?),
            "manager-list" => Self::ManagerList(arguments(fields)?),
            "pause" => Self::Pause(arguments(fields)?),
            "resume" => Self::Resume(arguments(fields)?),
            "attach" => Self::Attach(arguments(fields)?),
            "detach" => Self::Detach(arguments(fields)?),
            other => {
                let what = format!("there is no {other:?}; the verbs are {}", Self::NAMES.join(", "));
                return Err(refuse(what).field("verb"));
            }
        })
    }
}

fn arguments<T: DeserializeOwned>(fields: Map<String, Value>) -> Result<T, Error> {
    decode(Value::Object(fields))
}

/// Reads a value; an error names the field, as far as that is known.
pub(super) fn decode<T: DeserializeOwned>(value: Value) -> Result<T, Error> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let refusal = refuse(error.inner().to_string());
        match error.path().iter().next() {
            Some(_) => refusal.field(error.path().to_string()),
            None => refusal,
        }
    })
}

pub(super) fn refuse(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Request, what)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(line: &str) -> Result<Verb, String> {
        ControlRequest::parse(line.as_bytes())
            .map(|request| request.verb)
            .map_err(|error| {
                assert_eq!(error.kind(), ErrorKind::Request, "{error}");
                error.line()
            })
    }

    #[test]
    fn every_verb_is_read_as_it_is_written() {
        let time = Some(Seconds::new(Duration::from_millis(2500)));
        let disk = "d".to_owned();
        let verbs = [
            Verb::Status(Nothing {}),
            Verb::Stop(Nothing {}),
            Verb::StopIdle(Nothing {}),
            Verb::HandOver(Nothing {}),
            Verb::List(Nothing {}),
            Verb::Stats(StatsRequest {
                disk: Some(disk.clone()),
            }),
            Verb::ManagerShow(Nothing {}),
            Verb::ManagerSet(ManagerSet {
                manager: json!({"policy":{"name":"limit","max":3}}),
                merge: true,
            }),
            Verb::ManagerUnset(ManagerUnset {
                name: Some("limit".into()),
            }),
            Verb::ManagerList(Nothing {}),
            Verb::Pause(PauseRequest {
                disk: disk.clone(),
                timeout_s: time,
                resume_after_s: time,
                lease: true,
            }),
            Verb::Resume(ResumeRequest {
                disk: disk.clone(),
                image: Some("/a.img".into()),
                format: Some(Format::Raw),
            }),
            Verb::Attach(AttachRequest {
                image: "/a.vhd".into(),
                name: Some("a".into()),
                description: Some("mine".into()),
                format: Some(Format::Vhd),
                read_only: true,
                repair: true,
                cache: Cache::None,
                lock_timeout_s: time,
                retry_on: vec!["EIO".into()],
                retry_timeout_s: time,
            }),
            Verb::Detach(DetachRequest { disk, timeout_s: time }),
        ];
        let names: Vec<_> = verbs
            .iter()
            .map(|verb| serde_json::to_value(verb).unwrap()["verb"].clone())
            .collect();
        assert_eq!(names, Verb::NAMES);
        for verb in verbs {
            let line = serde_json::to_string(&ControlRequest::new(verb.clone())).unwrap();
            assert_eq!(parse(&line), Ok(verb), "{line}");
        }
    }

    #[test]
    fn what_is_at_fault_is_named() {
        for (line, words) in [
            ("", "no JSON object"),
            ("[1]", "no JSON object"),
            ("{}", "v: is missing"),
            (r#"{"v":1}"#, "verb: is missing"),
            (r#"{"v":1,"verb":7}"#, "verb: is no text"),
            (r#"{"v":2,"verb":"status"}"#, "v: version 1 is spoken here, not 2"),
            (r#"{"v":"1","verb":"status"}"#, "v: version 1"),
            (
                r#"{"v":1,"verb":"explode"}"#,
                r#"verb: there is no "explode"; the verbs are status, stop"#,
            ),
            (r#"{"v":1,"verb":"status","x":1}"#, "x: unknown field `x`"),
            (r#"{"v":1,"verb":"pause"}"#, "missing field `disk`"),
            (r#"{"v":1,"verb":"pause","disk":7}"#, "disk: invalid type"),
            (
                r#"{"v":1,"verb":"pause","disk":"d","lease":"no"}"#,
                "lease: invalid type",
            ),
            (
                r#"{"v":1,"verb":"pause","disk":"d","timeout_s":-1}"#,
                "timeout_s: -1 is no number of seconds",
            ),
            (
                r#"{"v":1,"verb":"pause","disk":"d","timeout_s":1e300}"#,
                "no number of seconds from 0 to 2592000",
            ),
            (
                r#"{"v":1,"verb":"attach","image":"/a","cache":"some"}"#,
                "cache: unknown variant `some`",
            ),
            (r#"{"v":1,"verb":"manager-set"}"#, "missing field `manager`"),
        ] {
            let told = parse(line).unwrap_err();
            assert!(told.contains(words), "{line}: {told}");
        }
        let deep = format!(r#"{{"v":1,"verb":"manager-set","manager":{}"#, "[".repeat(10_000));
        assert!(parse(&deep).unwrap_err().contains("recursion limit"));
    }
}
