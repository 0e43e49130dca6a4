//! Where a copy is made, and how it comes by its name.
//!
//! A file is made as `TARGET.iomgr-part` and gets its name when it is complete and durable, by a rename: so an unfinished copy is
//! never taken for a finished one, and what it replaces stays whole until then. A block device is written in place.

use std::fs::{self, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::sidecar::Sidecar;
use crate::create::{CreateOptions, create, create_part, sync_folder};
use crate::error::{Error, ErrorKind};
use crate::file::{FileOptions, ImageFile, check_part};

const PART_SUFFIX: &str = ".iomgr-part";

/// See the module.
#[derive(Debug)]
pub(crate) struct Place {
    target: PathBuf,
    home: Home,
}

#[derive(Debug)]
enum Home {
    /// A file, under this name for now.
    Part {
        part: PathBuf,
        /// What gives way to it, locked until then.
        replaced: Option<ImageFile>,
        /// Its mode: no more than the source has.
        rights: u32,
    },
    Device,
}

impl Place {
    /// Where to copy `source` so that it becomes `target`, which may be there already only with `force`.
    pub(crate) fn choose(source: &Path, target: &Path, force: bool) -> Result<Self, Error> {
        let Ok(there) = fs::metadata(target) else {
            return Ok(Self::file(source, target.to_path_buf(), None));
        };
        if is_same(source, &there) {
            let error = Error::new(ErrorKind::InvalidOption, "is the source as well");
            return Err(error.at(target).hint("name another target"));
        }
        if !force {
            return Err(exists(target));
        }
        if there.file_type().is_block_device() {
            return Ok(Self {
                target: target.to_path_buf(),
                home: Home::Device,
            });
        }
        // A link stays, and what it leads to is replaced.
        let real = fs::canonicalize(target)
            .map_err(|error| Error::new(ErrorKind::Open, "leads nowhere").at(target).because(error))?;
        let options = FileOptions {
            read_only: false,
            lock_timeout: Duration::ZERO,
        };
        let replaced = ImageFile::open(&real, options).map_err(|error| match error.kind() {
            ErrorKind::Open if there.is_file() => error.hint("it cannot be replaced: name another target"),
            _ => error,
        })?;
        Ok(Self::file(source, real, Some(replaced)))
    }

    fn file(source: &Path, target: PathBuf, replaced: Option<ImageFile>) -> Self {
        let rights = rights(source);
        let mut part = target.clone().into_os_string();
        part.push(PART_SUFFIX);
        let part = part.into();
        Self {
            target,
            home: Home::Part { part, replaced, rights },
        }
    }

    pub(crate) fn is_device(&self) -> bool {
        matches!(self.home, Home::Device)
    }

    /// Where the copy is made.
    pub(crate) fn path(&self) -> &Path {
        match &self.home {
            Home::Part { part, .. } => part,
            Home::Device => &self.target,
        }
    }

    /// The folder of the target.
    pub(crate) fn folder(&self) -> &Path {
        let folder = self.target.parent();
        folder
            .filter(|folder| !folder.as_os_str().is_empty())
            .unwrap_or(Path::new("."))
    }

    /// Makes the empty copy. What a killed run of this user left of one gives way.
    pub(crate) fn create(&self, options: &CreateOptions) -> Result<u64, Error> {
        match &self.home {
            Home::Part { part, rights, .. } => {
                Sidecar::forget(part)?;
                create_part(part, *rights, options)
            }
            Home::Device => create(&self.target, options),
        }
    }

    /// Is there a copy that an earlier run of this user left?
    pub(crate) fn is_begun(&self) -> Result<bool, Error> {
        check_part(self.path())?;
        Ok(self.path().exists())
    }

    /// An error about the copy is one about the target, which is the name that the user knows.
    pub(crate) fn blame(&self, error: Error) -> Error {
        match error.parts().path == Some(self.path()) {
            true => error.at(&self.target),
            false => error,
        }
    }

    /// Removes what was made of the copy. A device keeps what was written.
    pub(crate) fn discard(&self) {
        if let Home::Part { part, .. } = &self.home {
            // The error that matters came before.
            let _ = fs::remove_file(part);
            Sidecar::remove(part);
        }
    }

    /// Gives the copy its name.
    pub(crate) fn publish(&self) -> Result<(), Error> {
        let Home::Part { part, replaced, .. } = &self.home else {
            return Ok(());
        };
        let fail = |error: std::io::Error| {
            let what = format!("the finished copy {} cannot be given this name", part.display());
            Error::new(ErrorKind::Io, what).at(&self.target).because(error)
        };
        match replaced {
            Some(old) => {
                inherit(old.path(), part).map_err(fail)?;
                fs::rename(part, &self.target).map_err(fail)?;
            }
            None => self.rename_new(part, fail)?,
        }
        sync_folder(&self.target)?;
        Sidecar::remove(part);
        Ok(())
    }

    /// Nobody may have taken the name meanwhile.
    fn rename_new(&self, part: &Path, fail: impl Fn(std::io::Error) -> Error) -> Result<(), Error> {
        match renameat_with(CWD, part, CWD, &self.target, RenameFlags::NOREPLACE) {
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::EXIST) => Err(exists(&self.target)),
            // A file system that does not know the flag.
            Err(rustix::io::Errno::INVAL) if self.target.exists() => Err(exists(&self.target)),
            Err(rustix::io::Errno::INVAL) => fs::rename(part, &self.target).map_err(fail),
            Err(errno) => Err(fail(errno.into())),
        }
    }
}

fn exists(target: &Path) -> Error {
    let error = Error::new(ErrorKind::Exists, "exists already").at(target);
    error.hint("--force replaces it")
}

/// The mode of a new file that lets nobody read whom `source` does not let. The new file's group may be another one, so that it may
/// do what everybody may.
fn rights(source: &Path) -> u32 {
    let all = fs::metadata(source).map_or(0, |source| source.mode() & source.mode() >> 3 & 0o004);
    0o600 | all << 3 | all
}

/// The owner and the mode of what is replaced, so that whoever could use it still can, and nobody else.
fn inherit(old: &Path, new: &Path) -> std::io::Result<()> {
    let (old, made) = (fs::metadata(old)?, fs::metadata(new)?);
    if (old.uid(), old.gid()) != (made.uid(), made.gid())
        && let Err(error) = std::os::unix::fs::chown(new, Some(old.uid()), Some(old.gid()))
    {
        // Only root gives files away; others may replace what is not theirs all the same.
        tracing::warn!(path = %new.display(), %error, "owner_kept: the copy belongs to who made it");
    }
    fs::set_permissions(new, old.permissions())
}

/// Is `there` the very file or device that `source` is?
fn is_same(source: &Path, there: &Metadata) -> bool {
    fs::metadata(source).is_ok_and(|source| match there.file_type().is_block_device() {
        true => source.file_type().is_block_device() && source.rdev() == there.rdev(),
        false => (source.dev(), source.ino()) == (there.dev(), there.ino()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(force: bool, dir: &Path) -> Result<Place, Error> {
        Place::choose(&dir.join("source.img"), &dir.join("a.img"), force)
    }

    #[test]
    fn nothing_is_there_before_it_is_published() {
        let dir = tempfile::tempdir().unwrap();
        let place = place(false, dir.path()).unwrap();
        fs::write(place.path(), "copy").unwrap();
        assert!(!dir.path().join("a.img").exists());
        place.publish().unwrap();
        assert_eq!(fs::read(dir.path().join("a.img")).unwrap(), b"copy");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_name_taken_meanwhile_is_not_taken_away() {
        let dir = tempfile::tempdir().unwrap();
        let place = place(false, dir.path()).unwrap();
        fs::write(place.path(), "copy").unwrap();
        fs::write(dir.path().join("a.img"), "precious").unwrap();
        assert_eq!(place.publish().unwrap_err().kind(), ErrorKind::Exists);
        assert_eq!(fs::read(dir.path().join("a.img")).unwrap(), b"precious");
    }

    #[test]
    fn what_is_replaced_stays_until_then_and_leaves_its_mode() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("a.img");
        fs::write(&target, "old").unwrap();
        fs::set_permissions(&target, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(place(false, dir.path()).unwrap_err().kind(), ErrorKind::Exists);
        let first = place(true, dir.path()).unwrap();
        assert_eq!(place(true, dir.path()).unwrap_err().kind(), ErrorKind::Locked);
        fs::write(first.path(), "copy").unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"old");
        first.publish().unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"copy");
        assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_link_to_the_target_stays_a_link() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("real.img"), "old").unwrap();
        std::os::unix::fs::symlink("real.img", dir.path().join("a.img")).unwrap();
        let place = place(true, dir.path()).unwrap();
        fs::write(place.path(), "copy").unwrap();
        place.publish().unwrap();
        assert!(dir.path().join("a.img").is_symlink());
        assert_eq!(fs::read(dir.path().join("real.img")).unwrap(), b"copy");
    }
}
