//! A verb's failure, as text or JSON on stderr, and as the process's exit code.

use std::error::Error;
use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::json;

use crate::output::visible;

/// The code of every error that has none of its own.
const EXIT_ERROR: u8 = 1;
/// The command line cannot be understood.
const EXIT_USAGE: u8 = 2;

/// Why a verb did not do what it was asked to. In a box, as it is large and rare.
#[derive(Debug)]
pub(crate) struct Failure(Box<Parts>);

#[derive(Debug)]
struct Parts {
    kind: Kind,
    file: Option<PathBuf>,
    field: Option<String>,
    what: String,
    hint: Option<String>,
    causes: Vec<String>,
    exit: u8,
}

/// What kind of failure, in a word.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Of(vbd::ErrorKind),
    Usage,
    Other,
}

impl Failure {
    /// `what` is lower case, without a full stop.
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self(Box::new(Parts {
            kind: Kind::Other,
            file: None,
            field: None,
            what: what.into(),
            hint: None,
            causes: Vec::new(),
            exit: EXIT_ERROR,
        }))
    }

    /// A signal ended the work; `code` says which.
    pub(crate) fn interrupted(code: u8) -> Self {
        let mut failure = Self::new("interrupted").exit(code);
        failure.0.kind = Kind::Of(vbd::ErrorKind::Interrupted);
        failure
    }

    /// What clap says about the command line.
    pub(crate) fn usage(error: &clap::Error) -> Self {
        let text = error.to_string();
        let what = text.split("\n\n").next().unwrap_or_default();
        let what = what.split_whitespace().collect::<Vec<_>>().join(" ");
        let mut failure = Self::new(what.trim_start_matches("error: "));
        failure.0.kind = Kind::Usage;
        failure.0.field = error.get(clap::error::ContextKind::InvalidArg).map(ToString::to_string);
        failure
            .hint("`iomgr VERB --help` shows what can be said")
            .exit(EXIT_USAGE)
    }

    /// Of what makes something, an image or a server: no file can be at fault for a value that cannot be, so that is wrong usage.
    pub(crate) fn to_make(error: vbd::Error) -> Self {
        match error.kind() {
            vbd::ErrorKind::InvalidOption => Self::from(error).exit(EXIT_USAGE),
            _ => error.into(),
        }
    }

    /// Names the file.
    #[must_use]
    pub(crate) fn at(mut self, file: &Path) -> Self {
        self.0.file = Some(file.to_path_buf());
        self
    }

    /// Says the way out.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Ways out name options as `serve` has them: `here` is what this verb has instead of `option`.
    #[must_use]
    pub(crate) fn option(mut self, option: &str, here: &str) -> Self {
        self.0.hint = self.0.hint.map(|hint| hint.replace(option, here));
        self
    }

    /// The same where it is about `file`.
    #[must_use]
    pub(crate) fn option_of(self, file: &Path, option: &str, here: &str) -> Self {
        match self.0.file.as_deref() == Some(file) {
            true => self.option(option, here),
            false => self,
        }
    }

    /// Names the cause, and the causes of that.
    #[must_use]
    pub(crate) fn because(mut self, error: impl Error) -> Self {
        self.0.causes.push(error.to_string());
        self.0.causes.extend(causes(&error));
        self
    }

    /// Sets the process's exit code.
    #[must_use]
    pub(crate) fn exit(mut self, code: u8) -> Self {
        self.0.exit = code;
        self
    }

    /// Sets the code of an error that has none of its own.
    #[must_use]
    pub(crate) fn or_exit(self, code: u8) -> Self {
        if self.0.exit == EXIT_ERROR {
            self.exit(code)
        } else {
            self
        }
    }

    /// Says it on stderr.
    pub(crate) fn report(&self, json: bool) -> ExitCode {
        let line = if json {
            self.to_json().to_string()
        } else {
            format!("iomgr: error: {}", visible(&self.to_string()))
        };
        // Who closed stderr does not want to know.
        let _ = writeln!(io::stderr(), "{line}");
        ExitCode::from(self.0.exit)
    }

    /// All of it in one line under `error`, and its parts under their names.
    fn to_json(&self) -> serde_json::Value {
        json!({
            "error": self.line(),
            "kind": self.0.kind.name(),
            "file": self.0.file.as_ref().map(|file| file.to_string_lossy()),
            "field": self.0.field,
            "hint": self.0.hint,
            "causes": self.0.causes,
        })
    }

    /// `file: field: what; hint`, as far as there are such. A field that is named in words is not
    /// named twice.
    fn line(&self) -> String {
        let file = self.0.file.as_ref().map(|file| file.display().to_string());
        let words = self.0.causes.iter().chain([&self.0.what]);
        let is_named = |field: &&String| words.clone().any(|words| words.contains(field.as_str()));
        let field = self.0.field.as_ref().filter(|field| !is_named(field));
        let subject = [file.as_ref(), field, Some(&self.0.what)];
        let subject = subject
            .into_iter()
            .flatten()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join(": ");
        self.0.hint.iter().fold(subject, |line, hint| format!("{line}; {hint}"))
    }
}

impl From<vbd::Error> for Failure {
    fn from(error: vbd::Error) -> Self {
        let vbd::ErrorParts {
            path,
            field,
            what,
            hint,
        } = error.parts();
        Self(Box::new(Parts {
            kind: Kind::Of(error.kind()),
            file: path.map(Path::to_path_buf),
            field: field.map(str::to_owned),
            what: what.to_owned(),
            hint: hint.map(str::to_owned),
            causes: causes(&error),
            // With a file, the file does not fit what was asked for, which may well be right.
            exit: match (error.kind(), path) {
                (vbd::ErrorKind::InvalidOption, None) | (vbd::ErrorKind::Format, _) => EXIT_USAGE,
                _ => EXIT_ERROR,
            },
        }))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line())?;
        self.0.causes.iter().try_for_each(|cause| write!(f, "; cause: {cause}"))
    }
}

/// What caused `error`, the nearest first.
pub(crate) fn causes(error: &dyn Error) -> Vec<String> {
    std::iter::successors(error.source(), |cause| (*cause).source())
        .map(ToString::to_string)
        .collect()
}

impl Kind {
    /// `NeedsRepair` is `needs-repair`.
    fn name(self) -> String {
        let words = match self {
            Self::Of(kind) => format!("{kind:?}"),
            Self::Usage | Self::Other => format!("{self:?}"),
        };
        let mut name = String::new();
        for letter in words.chars() {
            if letter.is_uppercase() && !name.is_empty() {
                name.push('-');
            }
            name.push(letter.to_ascii_lowercase());
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure() -> Failure {
        let io = io::Error::other("no space");
        vbd::Error::new(vbd::ErrorKind::NeedsRepair, "is torn")
            .at("a.vhd".as_ref())
            .field("footer")
            .hint("repair it")
            .because(io)
            .into()
    }

    #[test]
    fn text_names_file_field_what_hint_and_causes() {
        assert_eq!(
            failure().to_string(),
            "a.vhd: footer: is torn; repair it; cause: no space"
        );
    }

    #[test]
    fn json_holds_the_same_and_its_parts() {
        let line = failure().to_json().to_string();
        assert_eq!(
            line,
            r#"{"causes":["no space"],"error":"a.vhd: footer: is torn; repair it","field":"footer","file":"a.vhd","hint":"repair it","kind":"needs-repair"}"#
        );
    }
}
