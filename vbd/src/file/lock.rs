//! The lock on an image: taken, waited for, and whose it may be.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Instant;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use crate::error::{Error, ErrorKind};
use crate::patience::wait_until;

/// Tries for the lock; `Ok(None)`: somebody else has it.
pub(super) fn lock(file: &File, shared: bool) -> Result<Option<()>, Error> {
    let kind = if shared { libc::F_RDLCK } else { libc::F_WRLCK };
    match set_lock(file, kind) {
        Ok(()) => Ok(Some(())),
        Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EACCES) => Ok(None),
        Err(errno) => Err(Error::new(ErrorKind::Open, "cannot be locked").because(errno)),
    }
}

/// Gives it up.
pub(super) fn unlock(file: &File) -> io::Result<()> {
    Ok(set_lock(file, libc::F_UNLCK)?)
}

/// Locks the whole file, or unlocks it.
fn set_lock(file: &File, kind: libc::c_int) -> nix::Result<()> {
    let whole_file = libc::flock {
        l_type: i16::try_from(kind).expect("lock types are small"),
        l_whence: i16::try_from(libc::SEEK_SET).expect("SEEK_SET is 0"),
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(file, FcntlArg::F_OFD_SETLK(&whole_file)).map(drop)
}

/// Asks `attempt` until it has an answer or the deadline is over; `own` is how often who asks has the file open.
pub(super) fn wait_for<T>(
    deadline: Instant,
    path: &Path,
    own: usize,
    attempt: impl FnMut() -> Result<Option<T>, Error>,
) -> Result<T, Error> {
    let tell = || {
        tracing::warn!(path = %path.display(), user = %users_of(path, own), "image_locked: waiting for its user to end");
    };
    wait_until(deadline, attempt, tell)?.ok_or_else(|| in_use(path, own))
}

pub(super) fn in_use(path: &Path, own: usize) -> Error {
    let hint =
        "end that first (after a crash, its last writes may still be on their way: verbs with `--lock-timeout` wait)";
    Error::new(ErrorKind::Locked, format!("is in use by {}", users_of(path, own)))
        .at(path)
        .hint(hint)
}

/// The processes that have the file open, as far as this one may see; the kernel does not tell who holds such a lock. Who asks has
/// it open `own` times, which do not count.
pub(crate) fn users_of(path: &Path, own: usize) -> String {
    let users = procfs_users(path, own).unwrap_or_default();
    if users.is_empty() {
        "another process".to_owned()
    } else {
        users.join(", ")
    }
}

fn procfs_users(path: &Path, asking: usize) -> io::Result<Vec<String>> {
    let wanted = std::fs::metadata(path)?;
    let own = std::process::id().to_string();
    let mut users = Vec::new();
    for process in std::fs::read_dir("/proc")?.flatten() {
        let pid = process.file_name().to_string_lossy().into_owned();
        if !pid.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let Ok(descriptors) = std::fs::read_dir(process.path().join("fd")) else {
            continue;
        };
        let opened = descriptors
            .flatten()
            .filter_map(|fd| std::fs::metadata(fd.path()).ok())
            .filter(|meta| (meta.dev(), meta.ino()) == (wanted.dev(), wanted.ino()))
            .count();
        if pid == own {
            users.extend((opened > asking).then(|| "this process".to_owned()));
        } else if opened > 0 {
            let name = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            users.push(format!("process {pid} ({})", name.trim()));
        }
    }
    Ok(users)
}
