//! The note beside an unfinished copy: of what it is a copy, and how far it has come. JSON, in `TARGET.iomgr-part.json`.
//!
//! # Contract
//! It is replaced as a whole, and what it says is durable before it says so: after a crash it names a position before which the
//! copy holds what the source held.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind};

const VERSION: u32 = 1;

/// What a copy is of, and into what: all that must be the same for it to be gone on with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// Bytes of the source's file.
    pub(crate) source_file_bytes: u64,
    /// When the source was changed last: seconds and nanoseconds.
    pub(crate) source_mtime: (i64, i64),
    pub(crate) source_format: String,
    pub(crate) target_format: String,
    /// Bytes of the disk.
    pub(crate) size_bytes: u64,
}

impl Identity {
    /// Of the source at `path`.
    pub(crate) fn of(
        path: &Path,
        source_format: String,
        target_format: String,
        size_bytes: u64,
    ) -> Result<Self, Error> {
        let meta = fs::metadata(path).map_err(|error| {
            Error::new(ErrorKind::Io, "cannot be asked for its age")
                .at(path)
                .because(error)
        })?;
        Ok(Self {
            source_file_bytes: meta.size(),
            source_mtime: (meta.mtime(), meta.mtime_nsec()),
            source_format,
            target_format,
            size_bytes,
        })
    }

    /// The first field in which they differ.
    fn difference(&self, other: &Self) -> Option<&'static str> {
        let fields = [
            ("source_format", self.source_format == other.source_format),
            ("target_format", self.target_format == other.target_format),
            ("size_bytes", self.size_bytes == other.size_bytes),
            ("source_file_bytes", self.source_file_bytes == other.source_file_bytes),
            ("source_mtime", self.source_mtime == other.source_mtime),
        ];
        fields.into_iter().find_map(|(name, same)| (!same).then_some(name))
    }
}

/// The content of the note.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Content {
    v: u32,
    #[serde(flatten)]
    identity: Identity,
    /// Bytes of the disk that are durable in the copy.
    done_bytes: u64,
}

/// The note of one copy.
#[derive(Debug)]
pub(crate) struct Sidecar {
    path: PathBuf,
    content: Content,
}

impl Sidecar {
    /// A note of nothing done yet, to lie beside `part`.
    pub(crate) fn new(part: &Path, identity: Identity) -> Self {
        let content = Content {
            v: VERSION,
            identity,
            done_bytes: 0,
        };
        Self {
            path: beside(part),
            content,
        }
    }

    /// Goes on with the note beside `part`, which must be of the same copy; `None` if there is none.
    pub(crate) fn load(part: &Path, identity: Identity) -> Result<Option<Self>, Error> {
        let path = beside(part);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::new(ErrorKind::Open, "cannot be read").at(&path).because(error)),
        };
        let content: Content = serde_json::from_slice(&text)
            .map_err(|error| begin_anew(&path, part, "is no note of an unfinished conversion", None).because(error))?;
        let beyond = content.done_bytes > content.identity.size_bytes || !content.done_bytes.is_multiple_of(512);
        let wrong = [("v", content.v != VERSION), ("done_bytes", beyond)];
        if let Some((field, _)) = wrong.into_iter().find(|(_, wrong)| *wrong) {
            return Err(begin_anew(&path, part, "holds a value that cannot be", Some(field)));
        }
        if let Some(field) = identity.difference(&content.identity) {
            let what = "is of another conversion, or its source has changed since";
            return Err(begin_anew(&path, part, what, Some(field)));
        }
        Ok(Some(Self { path, content }))
    }

    /// Is there a note beside `part`?
    pub(crate) fn exists(part: &Path) -> bool {
        beside(part).exists()
    }

    /// Removes the note beside `part`, and what is left of writing one, when the copy is done with.
    pub(crate) fn remove(part: &Path) {
        let path = beside(part);
        // It may not be there, and does no harm if it stays: without its part it counts for nothing.
        for path in [fresh(&path), path] {
            let _ = fs::remove_file(path);
        }
    }

    /// Before a new part is made: a note that a crash left without its part must not be taken for the new one's.
    pub(crate) fn forget(part: &Path) -> Result<(), Error> {
        if !Self::exists(part) {
            return Ok(());
        }
        let path = beside(part);
        fs::remove_file(&path).map_err(|error| {
            let what = "is the note of an older conversion, and cannot be removed";
            Error::new(ErrorKind::Io, what).at(&path).because(error)
        })
    }

    /// How far the copy has come, in bytes.
    pub(crate) fn done_bytes(&self) -> u64 {
        self.content.done_bytes
    }

    /// Notes that everything before byte `done` is durable.
    pub(crate) fn keep(&mut self, done: u64) -> Result<(), Error> {
        self.content.done_bytes = done;
        let text = serde_json::to_vec(&self.content).expect("plain data with text for keys");
        let fresh = fresh(&self.path);
        let write = || -> io::Result<()> {
            // What lies there is a crash's, or a link to what is not to be written.
            match fs::remove_file(&fresh) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file = File::create_new(&fresh)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&fresh, &self.path)
        };
        write().map_err(|error| {
            // Half a note, where there is no room for a whole one.
            let _ = fs::remove_file(&fresh);
            Error::new(ErrorKind::Io, "cannot be written")
                .at(&self.path)
                .because(error)
        })
    }
}

fn beside(part: &Path) -> PathBuf {
    let mut name = part.as_os_str().to_owned();
    name.push(".json");
    name.into()
}

/// Where a note is written before it takes the place of the last one.
fn fresh(path: &Path) -> PathBuf {
    path.with_extension("json.new")
}

fn begin_anew(path: &Path, part: &Path, what: &str, field: Option<&'static str>) -> Error {
    let hint = format!("remove it and {} to begin anew", part.display());
    let error = Error::new(ErrorKind::InvalidOption, what).at(path).hint(hint);
    match field {
        Some(field) => error.field(field),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            source_file_bytes: 4096,
            source_mtime: (7, 8),
            source_format: "raw".into(),
            target_format: "vhd-dynamic".into(),
            size_bytes: 4096,
        }
    }

    #[test]
    fn what_was_kept_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let part = dir.path().join("a.img.iomgr-part");
        assert!(Sidecar::load(&part, identity()).unwrap().is_none());
        let mut note = Sidecar::new(&part, identity());
        note.keep(512).unwrap();
        note.keep(2048).unwrap();
        assert!(Sidecar::exists(&part));
        assert_eq!(Sidecar::load(&part, identity()).unwrap().unwrap().done_bytes(), 2048);
        Sidecar::remove(&part);
        assert!(!Sidecar::exists(&part));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
    }

    #[test]
    fn another_source_or_nonsense_is_refused_by_field() {
        let dir = tempfile::tempdir().unwrap();
        let part = dir.path().join("a.img.iomgr-part");
        Sidecar::new(&part, identity()).keep(512).unwrap();
        let newer = Identity {
            source_mtime: (7, 9),
            ..identity()
        };
        let error = Sidecar::load(&part, newer).unwrap_err().to_string();
        assert!(
            error.contains("source_mtime") && error.contains("to begin anew"),
            "{error}"
        );
        let text = fs::read_to_string(beside(&part)).unwrap();
        for (from, to, named) in [
            ("\"done_bytes\":512", "\"done_bytes\":8192", "done_bytes"),
            ("\"done_bytes\":512", "\"done_bytes\":100", "done_bytes"),
            ("\"v\":1", "\"v\":2", "v"),
            ("{", "", "no note"),
        ] {
            fs::write(beside(&part), text.replace(from, to)).unwrap();
            let error = Sidecar::load(&part, identity()).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
