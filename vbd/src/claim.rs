//! Files that say "a server is here", sockets and pid files: put in place by one server at a time, removed by their own.
//!
//! Looking whether what lies at a path belongs to a dead server, and replacing it, are two steps. Servers take them one
//! after the other, under a lock on the folder; otherwise the second of two that start at once would remove the socket of
//! the first.

use std::fs::{self, File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};

use crate::error::{Error, ErrorKind};

/// A lock on a folder, held for a few system calls.
pub(crate) struct FolderLock(#[expect(dead_code, reason = "closing it unlocks")] File);

/// Anybody who can read a folder can lock it, so nobody waits for ever.
const LOCK_MAX: Duration = Duration::from_secs(5);
const LOCK_PAUSE: Duration = Duration::from_millis(2);

impl FolderLock {
    /// Locks the folder that `path` lies in.
    pub(crate) fn of(path: &Path) -> Result<Self, Error> {
        let folder = match path.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        let fail = |what: &str| Error::new(ErrorKind::Server, what.to_owned()).at(folder);
        let file = open(
            folder,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|errno| fail("is no folder that can be read; choose another path").because(errno))?;
        let deadline = Instant::now() + LOCK_MAX;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self(file.into())),
                Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => thread::sleep(LOCK_PAUSE),
                Err(errno) => {
                    return Err(fail("another process keeps the folder locked; choose another path").because(errno));
                }
            }
        }
    }
}

/// A file that this process has put in its place, and removes again.
#[derive(Debug)]
pub(crate) struct Claim {
    path: PathBuf,
    identity: Identity,
    is_left: bool,
}

/// An inode and its birth: its number alone is soon used again, and its other times change when somebody changes its mode.
type Identity = (u64, u64, Option<SystemTime>);

fn identity(meta: &Metadata) -> Identity {
    (meta.dev(), meta.ino(), meta.created().ok())
}

impl Claim {
    /// What lies at `path` now is ours; the folder's lock is held.
    pub(crate) fn lay(path: &Path, _lock: &FolderLock) -> std::io::Result<Self> {
        let identity = identity(&fs::symlink_metadata(path)?);
        Ok(Self {
            path: path.to_path_buf(),
            identity,
            is_left: false,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Is it what `file` is?
    pub(crate) fn is_of(&self, file: &File) -> bool {
        file.metadata().is_ok_and(|meta| identity(&meta) == self.identity)
    }

    /// Does it go away with this?
    pub(crate) fn is_ours(&self) -> bool {
        !self.is_left
    }

    /// From now on it is ours; or, left to somebody else, it stays where it is.
    pub(crate) fn own(&mut self, is_ours: bool) {
        self.is_left = !is_ours;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.is_left {
            return;
        }
        // Without the lock it is as it was with it, but for a server that starts in this very moment.
        let _lock = FolderLock::of(&self.path).ok();
        // Only our own: another server may have taken the place meanwhile.
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|meta| identity(&meta) == self.identity);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "file_left: cannot remove it");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_locked_by_one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let lock = FolderLock::of(&path).unwrap();
        let file = File::open(dir.path()).unwrap();
        let attempt = || flock(&file, FlockOperation::NonBlockingLockExclusive);
        assert_eq!(attempt(), Err(rustix::io::Errno::WOULDBLOCK));
        drop(lock);
        assert_eq!(attempt(), Ok(()));
    }

    #[test]
    fn only_our_own_file_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let claim = || {
            fs::write(&path, "x").unwrap();
            Claim::lay(&path, &FolderLock::of(&path).unwrap()).unwrap()
        };
        drop(claim());
        assert!(!path.exists());
        let ours = claim();
        fs::rename(&path, dir.path().join("g")).unwrap();
        fs::write(&path, "theirs").unwrap();
        drop(ours);
        assert!(path.exists());
        let mut left = claim();
        assert!(left.is_of(&File::open(&path).unwrap()) && !left.is_of(&File::open(dir.path()).unwrap()));
        left.own(false);
        drop(left);
        assert!(path.exists());
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let error = FolderLock::of(Path::new("/nonexistent/folder/s"))
            .map(|_| ())
            .unwrap_err();
        assert!(error.to_string().starts_with("/nonexistent/folder: "), "{error}");
    }
}
