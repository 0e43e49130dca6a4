//! A file that is made under a name for now.
//!
//! # Contract
//! The name can be guessed, so somebody else may have put something there: a link to a file that is not to be written, or a file
//! of his own, to read what comes into it. Only what this user left there himself is taken over.

use std::fs::{File, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Instant;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::lock::{lock, wait_for};
use super::{ImageFile, set_flags};
use crate::error::{Error, ErrorKind};

impl ImageFile {
    /// Creates `path` with no more than `rights`, or takes over and empties the regular file of this user that is there; locks it.
    pub(crate) fn create_part(path: &Path, rights: u32) -> Result<Self, Error> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let mode = Mode::from_raw_mode(rights);
        let file = match rustix::fs::open(path, flags | OFlags::CREATE | OFlags::EXCL, mode) {
            Ok(fd) => File::from(fd),
            Err(Errno::EXIST) => take_over(path, flags)?,
            Err(errno) => return Err(failed(errno.into()).at(path)),
        };
        wait_for(Instant::now(), path, 1, || lock(&file, false))?;
        let limit = |file: &File| -> io::Result<()> {
            let has = file.metadata()?.mode() & 0o777;
            file.set_permissions(Permissions::from_mode(has & rights | 0o600))?;
            file.set_len(0)
        };
        limit(&file).map_err(|error| failed(error).at(path))?;
        Self::adopt(file, path, false, false)
    }
}

/// Opens what lies at `path`, if it is this user's own.
fn take_over(path: &Path, flags: OFlags) -> Result<File, Error> {
    let failed = |error| failed(error).at(path);
    // First, so that nothing is done to a device or a FIFO, not even opened.
    check_part(path)?;
    let fd = rustix::fs::open(path, flags | OFlags::NONBLOCK, Mode::empty()).map_err(|errno| failed(errno.into()))?;
    set_flags(&fd, flags).map_err(|errno| failed(errno.into()))?;
    let file = File::from(fd);
    // It may have become another one meanwhile.
    refuse_foreign(path, &file.metadata().map_err(failed)?)?;
    Ok(file)
}

/// Is what lies at `path` a regular file of this user, and under this name only? Nothing there is well, too.
pub(crate) fn check_part(path: &Path) -> Result<(), Error> {
    match std::fs::symlink_metadata(path) {
        Ok(meta) => refuse_foreign(path, &meta),
        Err(_) => Ok(()),
    }
}

fn refuse_foreign(path: &Path, meta: &Metadata) -> Result<(), Error> {
    let what = if meta.is_symlink() {
        "a symbolic link"
    } else if !meta.is_file() {
        "no regular file"
    } else if meta.uid() != rustix::process::geteuid().as_raw() {
        "a file of another user"
    } else if meta.nlink() != 1 {
        "a file with other names (hard links)"
    } else {
        return Ok(());
    };
    let what = format!("{} is in the way: it is {what}, no unfinished copy", path.display());
    Err(Error::new(ErrorKind::Exists, what)
        .at(path)
        .hint("remove it, or name another target"))
}

fn failed(error: io::Error) -> Error {
    Error::new(ErrorKind::Open, "cannot be created").because(error)
}
