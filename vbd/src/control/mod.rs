//! The control socket: JSON lines, one request and one or more answers each, versioned.
//!
//! ```text
//! → {"v":1,"verb":"status"}
//! ← {"v":1,"ok":true,"status":{…}}
//! → {"v":1,"verb":"stop"}
//! ← {"v":1,"ok":true,"stopping":true}
//! ← {"v":1,"ok":true,"stopped":true}          when everything is flushed and closed
//! ← {"v":1,"ok":false,"error":"…"}            whenever something is wrong
//! ```
//!
//! # Contract
//! - A wish to stop counts, whether or not its client stays for the answers.
//! - What outlives the server here are threads of silent clients, for a minute, and they hold no disk.
//!
//! Answers may gain fields within a version; what has no meaning for a client is to be ignored.

mod client;
mod farewell;
mod server;

use std::io::Write;
use std::os::unix::net::UnixStream;

use serde::{Deserialize, Serialize};

pub use client::ControlClient;
pub(crate) use farewell::Farewell;
pub(crate) use server::{Control, ControlContext};

use crate::server::Status;

/// The version spoken here.
const VERSION: u32 = 1;

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlRequest {
    /// 1: the version of this protocol.
    pub v: u32,
    /// What to do.
    pub verb: Verb,
}

/// The verbs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    /// How the server and its disks are.
    Status,
    /// End: finish, flush, close.
    Stop,
}

/// What the server answers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ControlAnswer {
    /// 1: the version of this protocol.
    pub v: u32,
    /// Did it work?
    pub ok: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Answer to `status`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
    /// First answer to `stop`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stopping: bool,
    /// Last answer to `stop`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stopped: bool,
}

impl ControlAnswer {
    fn ok() -> Self {
        Self {
            v: VERSION,
            ok: true,
            ..Self::default()
        }
    }

    fn stopped() -> Self {
        Self {
            stopped: true,
            ..Self::ok()
        }
    }

    fn error(what: impl Into<String>) -> Self {
        Self {
            v: VERSION,
            error: Some(what.into()),
            ..Self::default()
        }
    }
}

fn parse(line: &[u8]) -> Result<Verb, String> {
    let request: ControlRequest = serde_json::from_slice(line).map_err(|error| format!("not a request: {error}"))?;
    if request.v == VERSION {
        Ok(request.verb)
    } else {
        Err(format!("version {VERSION} is spoken here, not {}", request.v))
    }
}

fn answer(stream: &mut UnixStream, answer: &ControlAnswer) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(answer).map_err(std::io::Error::other)?;
    line.push(b'\n');
    stream.write_all(&line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_checked() {
        assert_eq!(parse(br#"{"v":1,"verb":"status"}"#), Ok(Verb::Status));
        assert!(parse(br#"{"v":2,"verb":"status"}"#).unwrap_err().contains("version 1"));
        assert!(parse(br#"{"v":1,"verb":"explode"}"#).unwrap_err().contains("explode"));
        assert!(parse(b"").is_err());
    }

    #[test]
    fn answers_hold_only_what_they_mean() {
        let line = serde_json::to_string(&ControlAnswer {
            stopping: true,
            ..ControlAnswer::ok()
        })
        .unwrap();
        assert_eq!(line, r#"{"v":1,"ok":true,"stopping":true}"#);
    }
}
