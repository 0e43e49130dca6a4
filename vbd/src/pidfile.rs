//! Pid files: who serves, for service managers that want a file.
//!
//! The file appears with its content and is locked as long as its process lives, so that one that a dead process left
//! is told from a live one's without believing a number, which another process may have by now.

use std::fs::{self, File};
use std::io::{ErrorKind as Io, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock};

use crate::claim::{Claim, FolderLock};
use crate::error::{Error, ErrorKind};

/// A file with this process's id; it goes away with this.
#[derive(Debug)]
pub struct PidFile {
    claim: Claim,
    /// Locked.
    _file: File,
}

impl PidFile {
    /// Would [`write`](Self::write) be refused?
    pub fn check(path: &Path) -> Result<(), Error> {
        let lock = FolderLock::of(path)?;
        refuse_others(path, &lock)
    }

    /// Writes it. What a dead process left is replaced.
    ///
    /// # Errors
    /// The file belongs to a process that runs, or holds no process id and may be anything.
    pub fn write(path: &Path) -> Result<Self, Error> {
        let lock = FolderLock::of(path)?;
        refuse_others(path, &lock)?;
        let fail = |error: std::io::Error| {
            Error::new(ErrorKind::Server, "the pid file cannot be written")
                .at(path)
                .because(error)
        };
        let draft = draft(path);
        let file = write_locked(&draft).and_then(|file| fs::rename(&draft, path).map(|()| file));
        let file = file.map_err(|error| {
            // There may be none.
            let _ = fs::remove_file(&draft);
            fail(error)
        })?;
        let claim = Claim::lay(path, &lock).map_err(fail)?;
        Ok(Self { claim, _file: file })
    }

    /// Where.
    pub fn path(&self) -> &Path {
        self.claim.path()
    }
}

fn draft(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    name.into()
}

fn write_locked(path: &Path) -> std::io::Result<File> {
    // A draft of this name was left by a process that is dead, as its id is ours now.
    match fs::remove_file(path) {
        Err(error) if error.kind() != Io::NotFound => return Err(error),
        _ => {}
    }
    let mut options = File::options();
    let mut file = options.write(true).create_new(true).mode(0o644).open(path)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    writeln!(file, "{}", std::process::id())?;
    Ok(file)
}

fn refuse_others(path: &Path, _lock: &FolderLock) -> Result<(), Error> {
    let refuse = |what: String| Err(Error::new(ErrorKind::Server, what).at(path));
    // A FIFO would be waited for, a terminal taken.
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW;
    let custom = i32::try_from(flags.bits()).expect("flags of open are an int");
    let file = match File::options().read(true).custom_flags(custom).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == Io::NotFound => return Ok(()),
        Err(error) => return Err(unreadable(path, error)),
    };
    let mut text = String::new();
    // Any process id is shorter.
    let is_text = (&file).take(32).read_to_string(&mut text).is_ok();
    let pid = text.trim();
    if !is_text || pid.len() > 10 || !pid.bytes().all(|byte| byte.is_ascii_digit()) {
        return refuse("exists and holds no process id; choose another path for the pid file".into());
    }
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(_) => refuse(format!(
            "belongs to process {pid}, which runs; end it, or choose another path for the pid file"
        )),
    }
}

fn unreadable(path: &Path, error: std::io::Error) -> Error {
    Error::new(
        ErrorKind::Server,
        "exists and cannot be read; choose another path for the pid file",
    )
    .at(path)
    .because(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_the_pid_as_long_as_it_lives() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        let file = PidFile::write(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        let refused = PidFile::check(&path).unwrap_err().to_string();
        assert!(
            refused.contains(&format!("process {}", std::process::id())),
            "{refused}"
        );
        assert!(PidFile::write(&path).is_err());
        drop(file);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_dead_process_s_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        fs::write(&path, "1\n").unwrap();
        PidFile::check(&path).unwrap();
        let _file = PidFile::write(&path).unwrap();
        assert_ne!(fs::read_to_string(&path).unwrap(), "1\n");
    }

    #[test]
    fn what_is_no_pid_file_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.img");
        for content in [&b"precious"[..], &[0xff; 64], b"12345678901234567890123456789012345x"] {
            fs::write(&path, content).unwrap();
            assert!(PidFile::write(&path).is_err());
            assert_eq!(fs::read(&path).unwrap(), content);
        }
        assert!(PidFile::write(dir.path()).is_err());
    }
}
