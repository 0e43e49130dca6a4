//! What clients ask: the verbs and their arguments.
//!
//! A request is read in two steps, first its verb, then the arguments that this verb takes: so an error names the argument
//! that is at fault, and nothing that is said is passed over in silence.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::VERSION;
use crate::error::{Error, ErrorKind};

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
    /// A [`ManagerConfig`](iomgr_core::policy::ManagerConfig); or what is to change in it, as a merge patch.
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

impl ControlRequest {
    /// A request of this version.
    pub fn new(verb: Verb) -> Self {
        Self { v: VERSION, verb }
    }

    pub(super) fn parse(line: &[u8]) -> Result<Self, Error> {
        let fields: Map<String, Value> =
            serde_json::from_slice(line).map_err(|error| refuse("is no JSON object").because(error))?;
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
    pub const NAMES: [&'static str; 8] = [
        "status",
        "stop",
        "list",
        "stats",
        "manager-show",
        "manager-set",
        "manager-unset",
        "manager-list",
    ];

    fn parse(name: &str, fields: Map<String, Value>) -> Result<Self, Error> {
        Ok(match name {
            "status" => Self::Status(arguments(fields)?),
            "stop" => Self::Stop(arguments(fields)?),
            "list" => Self::List(arguments(fields)?),
            "stats" => Self::Stats(arguments(fields)?),
            "manager-show" => Self::ManagerShow(arguments(fields)?),
            "manager-set" => Self::ManagerSet(arguments(fields)?),
            "manager-unset" => Self::ManagerUnset(arguments(fields)?),
            "manager-list" => Self::ManagerList(arguments(fields)?),
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
