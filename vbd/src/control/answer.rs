//! What servers answer.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::{ManagerStatus, PolicyInfo, Sample, VERSION};
use crate::error::{Error, ErrorKind};
use crate::server::{DiskEntry, Status};

/// What the server answers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ControlAnswer {
    /// 1: the version of this protocol.
    pub v: u32,
    /// Did it work?
    pub ok: bool,
    /// Why not, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Why not, in a word.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "known_kind")]
    pub kind: Option<ErrorKind>,
    /// The file that is at fault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Answer to `status`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
    /// First answer to `stop`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stopping: bool,
    /// Last answer to `stop`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stopped: bool,
    /// Answer to `pause`, `resume` and `attach`: the disk as it is now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<DiskEntry>,
    /// Answer to `list`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disks: Option<Vec<DiskEntry>>,
    /// Answer to `stats`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stats: Option<Sample>,
    /// Answer to `manager-show`, `manager-set` and `manager-unset`: as it is now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manager: Option<ManagerStatus>,
    /// Answer to `manager-list`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub managers: Option<Vec<PolicyInfo>>,
}

impl ControlAnswer {
    pub(super) fn ok() -> Self {
        Self {
            v: VERSION,
            ok: true,
            ..Self::default()
        }
    }

    pub(super) fn stopped() -> Self {
        Self {
            stopped: true,
            ..Self::ok()
        }
    }

    pub(super) fn error(error: &Error) -> Self {
        Self {
            v: VERSION,
            error: Some(error.line()),
            kind: Some(error.kind()),
            file: error.parts().path.map(|path| path.to_string_lossy().into_owned()),
            ..Self::default()
        }
    }

    pub(super) fn write(&self, stream: &mut UnixStream) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(self).map_err(std::io::Error::other)?;
        line.push(b'\n');
        stream.write_all(&line)
    }

    /// What went wrong on the other side, as if it had on this one.
    pub(super) fn into_result(self) -> Result<Self, Error> {
        if self.ok {
            return Ok(self);
        }
        let line = self.error.unwrap_or_else(|| "the server says no".to_owned());
        let kind = self.kind.unwrap_or(ErrorKind::Control);
        let Some(file) = self.file else {
            return Err(Error::new(kind, line));
        };
        let what = line.strip_prefix(&format!("{file}: ")).unwrap_or(&line);
        Err(Error::new(kind, what).at(&PathBuf::from(&file)))
    }
}

/// A later version's kind is none that is known here.
fn known_kind<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<ErrorKind>, D::Error> {
    let word = Value::deserialize(deserializer)?;
    Ok(ErrorKind::deserialize(word).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_hold_only_what_they_mean() {
        let line = |answer: &ControlAnswer| serde_json::to_string(answer).unwrap();
        assert_eq!(line(&ControlAnswer::stopped()), r#"{"v":1,"ok":true,"stopped":true}"#);
        let error = Error::new(ErrorKind::NotFound, "no such disk");
        let told = r#"{"v":1,"ok":false,"error":"no such disk","kind":"not-found"}"#;
        assert_eq!(line(&ControlAnswer::error(&error)), told);
    }

    #[test]
    fn an_error_is_on_this_side_what_it_was_on_the_other() {
        let io = std::io::Error::from_raw_os_error(28);
        let there = Error::new(ErrorKind::Io, "cannot be written")
            .at("/a.img".as_ref())
            .because(io);
        let here = ControlAnswer::error(&there).into_result().unwrap_err();
        assert_eq!(
            (here.kind(), here.parts().path),
            (ErrorKind::Io, Some("/a.img".as_ref()))
        );
        assert_eq!(here.to_string(), there.line());
    }

    #[test]
    fn the_kinds_of_later_versions_are_taken_for_what_they_are() {
        let answer: ControlAnswer = serde_json::from_str(r#"{"v":1,"ok":false,"error":"no","kind":"later"}"#).unwrap();
        let error = answer.into_result().unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::Control, "no"));
    }
}
