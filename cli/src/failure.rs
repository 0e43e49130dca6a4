//! A verb's failure, as text or JSON on stderr, and as the process's exit code.

use std::error::Error;
use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use serde_json::json;

/// The code of every error that has none of its own.
const EXIT_ERROR: u8 = 1;

/// Why a verb did not do what it was asked to.
#[derive(Debug)]
pub(crate) struct Failure {
    what: String,
    kind: Option<vbd::ErrorKind>,
    causes: Vec<String>,
    exit: u8,
}

impl Failure {
    /// `what` is lower case, without a full stop.
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            kind: None,
            causes: Vec::new(),
            exit: EXIT_ERROR,
        }
    }

    /// Names the cause, and the causes of that.
    #[must_use]
    pub(crate) fn because(mut self, error: impl Error) -> Self {
        self.causes.push(error.to_string());
        self.causes.extend(causes(&error));
        self
    }

    /// Sets the process's exit code.
    #[must_use]
    pub(crate) fn exit(mut self, code: u8) -> Self {
        self.exit = code;
        self
    }

    /// Sets the code of an error that has none of its own.
    #[must_use]
    pub(crate) fn or_exit(self, code: u8) -> Self {
        if self.exit == EXIT_ERROR { self.exit(code) } else { self }
    }

    /// Says it on stderr.
    pub(crate) fn report(&self, json: bool) -> ExitCode {
        let line = if json {
            self.to_json().to_string()
        } else {
            format!("iomgr: error: {self}")
        };
        // Who closed stderr does not want to know.
        let _ = writeln!(io::stderr(), "{line}");
        ExitCode::from(self.exit)
    }

    fn to_json(&self) -> serde_json::Value {
        json!({ "error": self.what, "kind": self.kind.map_or("other".to_owned(), kind_name), "causes": self.causes })
    }
}

impl From<vbd::Error> for Failure {
    fn from(error: vbd::Error) -> Self {
        Self {
            kind: Some(error.kind()),
            causes: causes(&error),
            ..Self::new(error.to_string())
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        self.causes.iter().try_for_each(|cause| write!(f, "; cause: {cause}"))
    }
}

/// What caused `error`, the nearest first.
pub(crate) fn causes(error: &dyn Error) -> Vec<String> {
    std::iter::successors(error.source(), |cause| (*cause).source())
        .map(ToString::to_string)
        .collect()
}

/// `NeedsRepair` is `needs-repair` in JSON.
fn kind_name(kind: vbd::ErrorKind) -> String {
    let mut name = String::new();
    for letter in format!("{kind:?}").chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('-');
        }
        name.push(letter.to_ascii_lowercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure() -> Failure {
        let io = io::Error::other("no space");
        vbd::Error::new(vbd::ErrorKind::NeedsRepair, "is torn")
            .at("a.vhd".as_ref())
            .because(io)
            .into()
    }

    #[test]
    fn text_names_file_what_and_causes() {
        assert_eq!(failure().to_string(), "a.vhd: is torn; cause: no space");
    }

    #[test]
    fn json_holds_the_same() {
        let json = failure().to_json();
        assert_eq!(
            json.to_string(),
            r#"{"causes":["no space"],"error":"a.vhd: is torn","kind":"needs-repair"}"#
        );
    }
}
