//! The lock on an image: taken, waited for, and whose it may be.

use std::fs::{DirEntry, File};
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

/// The processes that have a lock on the file, or, if none is seen to have one, those that have it open; as far as this one may see.
/// Who asks has it open `own` times, which do not count.
pub(crate) fn users_of(path: &Path, own: usize) -> String {
    let users = procfs_users(path, own).unwrap_or_default();
    let holds_any = users.iter().any(|user| user.holds);
    let named: Vec<_> = users
        .into_iter()
        .filter(|user| user.holds || !holds_any)
        .map(|user| user.name)
        .collect();
    if named.is_empty() {
        "another process".to_owned()
    } else {
        named.join(", ")
    }
}

/// A process that has a file open.
struct User {
    name: String,
    /// And a lock on it. Others may wait for theirs.
    holds: bool,
}

fn procfs_users(path: &Path, asking: usize) -> io::Result<Vec<User>> {
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
        let is_wanted = |fd: &DirEntry| {
            let meta = std::fs::metadata(fd.path());
            meta.is_ok_and(|meta| (meta.dev(), meta.ino()) == (wanted.dev(), wanted.ino()))
        };
        let opened: Vec<_> = descriptors.flatten().filter(is_wanted).collect();
        let is_own = pid == own;
        let not_counted = if is_own { asking } else { 0 };
        if opened.len() <= not_counted {
            continue;
        }
        let comm = || std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
        users.push(User {
            name: if is_own {
                "this process".to_owned()
            } else {
                format!("process {pid} ({})", comm().trim())
            },
            holds: opened.iter().any(|fd| holds_lock(&process, fd)),
        });
    }
    Ok(users)
}

/// Is there a lock that belongs to this descriptor's description? There the kernel shows it.
fn holds_lock(process: &DirEntry, fd: &DirEntry) -> bool {
    let info = std::fs::read_to_string(process.path().join("fdinfo").join(fd.file_name()));
    info.is_ok_and(|info| info.lines().any(|line| line.starts_with("lock:")))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn who_only_waits_is_not_called_a_user() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.img");
        let file = File::create_new(&path).unwrap();
        // Another process that has it open, until its stdin is closed.
        let mut waiting = Command::new("sh");
        let waiting = waiting
            .args(["-c", "echo; read line"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut waiting = waiting.stderr(File::open(&path).unwrap()).spawn().unwrap();
        std::io::Read::read_exact(&mut waiting.stdout.take().unwrap(), &mut [0]).unwrap();
        let pid = waiting.id().to_string();
        assert!(users_of(&path, 1).contains(&pid), "{}", users_of(&path, 1));
        assert!(lock(&file, false).unwrap().is_some());
        assert_eq!(users_of(&path, 0), "this process");
        drop(waiting.stdin.take());
        waiting.wait().unwrap();
    }
}
