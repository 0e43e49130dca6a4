//! Where servers put their sockets, and how the command line finds them.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind};

/// The folder for sockets, by an absolute path: `$IOMGR_RUNTIME_DIR`, else `$XDG_RUNTIME_DIR/iomgr`, else `/run/iomgr` for root,
/// else `/tmp/iomgr-UID`.
pub fn runtime_dir() -> PathBuf {
    let dir = as_said();
    std::path::absolute(&dir).unwrap_or(dir)
}

fn as_said() -> PathBuf {
    let from_env = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    if let Some(dir) = from_env("IOMGR_RUNTIME_DIR") {
        return dir;
    }
    if let Some(dir) = from_env("XDG_RUNTIME_DIR") {
        return dir.join("iomgr");
    }
    let uid = rustix::process::geteuid().as_raw();
    if uid == 0 {
        PathBuf::from("/run/iomgr")
    } else {
        PathBuf::from(format!("/tmp/iomgr-{uid}"))
    }
}

/// Makes the runtime folder, for its owner only; refuses one that belongs to somebody else or that others may write.
pub fn make_runtime_dir() -> Result<PathBuf, Error> {
    let dir = runtime_dir();
    let fail = |what: &str| Error::new(ErrorKind::Server, what.to_owned()).at(&dir);
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&dir)
        .map_err(|error| {
            fail("the folder for sockets cannot be made; set IOMGR_RUNTIME_DIR to one that can").because(error)
        })?;
    let meta = fs::symlink_metadata(&dir).map_err(|error| fail("cannot be looked at").because(error))?;
    if !meta.is_dir() || meta.uid() != rustix::process::geteuid().as_raw() {
        return Err(fail(
            "is not a folder of this user's; set IOMGR_RUNTIME_DIR to one that is",
        ));
    }
    if meta.permissions().mode() & 0o022 != 0 {
        return Err(fail(
            "may be written by others; chmod go-w it, or set IOMGR_RUNTIME_DIR",
        ));
    }
    Ok(dir)
}

/// The name that a disk gets from its file.
pub fn default_name(image: &Path) -> String {
    let clean: String = stem(image)
        .chars()
        .map(|c| {
            if c.is_alphanumeric() || "-_.".contains(c) {
                c
            } else {
                '_'
            }
        })
        .collect();
    if clean.is_empty() { "disk".to_owned() } else { clean }
}

fn stem(path: &Path) -> String {
    path.file_stem()
        .map_or_else(String::new, |stem| stem.to_string_lossy().into_owned())
}

/// The longest name of a disk, as NBD bounds those of exports.
const NAME_BYTES_MAX: usize = 4096;

/// May a disk be called that? Names go to terminals, and over NBD.
pub fn check_disk_name(name: &str) -> Result<(), Error> {
    let refuse = |what| Err(Error::new(ErrorKind::InvalidOption, what).field("name"));
    match name.len() {
        1..=NAME_BYTES_MAX if name.contains(char::is_control) => {
            refuse(format!("{name:?} holds a control character; say it in letters"))
        }
        1..=NAME_BYTES_MAX => Ok(()),
        len => refuse(format!("must have 1 to {NAME_BYTES_MAX} bytes, not {len}")),
    }
}

/// The control sockets in the runtime folder, by name, sorted; none if there is no such folder. Some may belong to dead servers.
pub fn control_sockets() -> Result<Vec<(String, PathBuf)>, Error> {
    let dir = runtime_dir();
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            let what = "the folder for sockets cannot be read; set IOMGR_RUNTIME_DIR to the servers' own";
            return Err(Error::new(ErrorKind::Control, what).at(&dir).because(error));
        }
    };
    let mut found: Vec<_> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "ctl"))
        .map(|path| (stem(&path), path))
        .collect();
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_files() {
        assert_eq!(default_name(Path::new("/a/My disk.vhd")), "My_disk");
        assert_eq!(default_name(Path::new("/dev/loop0")), "loop0");
        assert_eq!(default_name(Path::new("/")), "disk");
        check_disk_name(&default_name(Path::new("/a/b\x1b[2J\n.img"))).unwrap();
    }

    #[test]
    fn names_hold_no_control_characters() {
        for good in ["a", "My disk", "ümlaut", "a=b,c"] {
            check_disk_name(good).unwrap();
        }
        check_disk_name(&"n".repeat(4096)).unwrap();
        for (bad, words) in [
            ("", "1 to 4096 bytes, not 0"),
            (&*"n".repeat(4097), "not 4097"),
            ("a\nb", "\"a\\nb\" holds a control character"),
            ("\u{1b}[2J", "control character"),
            ("a\u{85}", "control character"),
        ] {
            let told = check_disk_name(bad).unwrap_err().line();
            assert!(told.contains(words), "{told}");
        }
    }
}
