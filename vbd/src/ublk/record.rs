//! What the next server of a ublk device has to know, in a file that outlives this one: which image, and how it was opened.
//!
//! ```text
//!  added ─► record written, locked ─► started ─► … ─► deleted: record removed
//!                                                 └─► killed: the lock falls ─► the next server locks it, and goes on
//! ```
//!
//! # Contract
//! - The file appears whole, for its owner only, before anybody can see the block device.
//! - Its lock is held as long as its server lives: who has it is the device's only server of ours.
//! - What is read is input like any other: it must be a small regular file of this user's that nobody else may write, of this
//!   boot, and about this very device and image. The driver keeps the device's mark, which no other device has.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use iomgr_core::policy::ManagerConfig;
use rustix::fs::{FlockOperation, OFlags, flock};
use serde::{Deserialize, Serialize};
use tqueue::filter::FilterConfig;

use super::target::TargetRecord;
use super::ublk_name;
use crate::claim::{Claim, FolderLock};
use crate::error::{Error, ErrorKind};
use crate::file::users_of;
use crate::runtime::{make_runtime_dir, runtime_dir};

/// The version of the file.
const VERSION: u32 = 1;
/// Parameters of managers are shorter, and nothing else in it is long.
const BYTES_MAX: u64 = 256 << 10;
/// Between two looks at a lock.
const PAUSE: Duration = Duration::from_millis(20);

/// The content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    v: u32,
    /// Devices do not outlive the kernel.
    boot_id: String,
    /// The number of the device.
    pub(crate) id: u32,
    /// What its driver keeps of it.
    pub(crate) mark: u64,
    /// The control socket.
    pub(crate) control: PathBuf,
    /// What sees every op, as on the command line.
    pub(crate) filters: Vec<String>,
    /// Who governs its requests, if that is a policy with parameters, not "none".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) manager: Option<ManagerConfig>,
    pub(crate) target: TargetRecord,
}

/// The file, locked. It goes away with this, if it is [ours](Self::own).
#[derive(Debug)]
pub(crate) struct RecordFile {
    claim: Claim,
    /// Locked.
    _file: File,
    record: Record,
}

/// Where the record of a device is.
pub(crate) fn record_path(id: u32) -> PathBuf {
    runtime_dir().join(state_name(id))
}

fn state_name(id: u32) -> String {
    format!("{}.state", ublk_name(id))
}

fn id_of(name: &OsStr) -> Option<u32> {
    let id = name.to_str()?.strip_prefix("ublkb")?.strip_suffix(".state")?;
    id.parse().ok().filter(|&id| OsStr::new(&state_name(id)) == name)
}

impl Record {
    pub(crate) fn new(
        id: u32,
        mark: u64,
        control: &Path,
        filters: &[FilterConfig],
        target: TargetRecord,
    ) -> Result<Self, Error> {
        Ok(Self {
            v: VERSION,
            boot_id: boot_id()?,
            id,
            mark,
            control: std::path::absolute(control).unwrap_or_else(|_| control.to_path_buf()),
            filters: filters.iter().map(ToString::to_string).collect(),
            manager: None,
            target,
        })
    }

    /// What is known of a device, whoever serves it.
    pub(crate) fn read(id: u32) -> Result<Self, Error> {
        let path = record_path(id);
        let file = open(&path).map_err(|error| not_there(&path, id, error))?;
        read(&file)
            .and_then(|bytes| Self::parse(&bytes, id))
            .map_err(|what| Error::new(ErrorKind::Server, what).at(&path))
    }

    /// Those in the runtime folder that can be believed. The others recover no device.
    pub(crate) fn all() -> Vec<Self> {
        Self::all_in(&runtime_dir())
    }

    pub(super) fn all_in(folder: &Path) -> Vec<Self> {
        // Often there is no folder.
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let found = entries.filter_map(|entry| {
            let id = id_of(&entry.file_name())?;
            let bytes = read(&open(&entry.path()).ok()?).ok()?;
            Self::parse(&bytes, id).ok()
        });
        found.collect()
    }

    /// Reads what was written for a device of this boot.
    fn parse(bytes: &[u8], id: u32) -> Result<Self, String> {
        let record: Self =
            serde_json::from_slice(bytes).map_err(|error| format!("is no record of a device: {error}"))?;
        if record.v != VERSION {
            return Err(format!("has version {}, and {VERSION} is read here", record.v));
        }
        if record.id != id {
            return Err(format!("is about device {}", record.id));
        }
        if record.boot_id != boot_id().map_err(|error| error.to_string())? {
            return Err("is from before the machine was started: its device is gone".into());
        }
        match record.control.is_absolute() {
            true => Ok(record),
            false => Err("names a control socket that is no absolute path".into()),
        }
    }
}

impl RecordFile {
    /// Writes a new one. What a device of this number has left before is replaced.
    pub(crate) fn write(record: Record) -> Result<Self, Error> {
        Self::write_at(make_runtime_dir()?.join(state_name(record.id)), record)
    }

    pub(crate) fn write_at(path: PathBuf, record: Record) -> Result<Self, Error> {
        let lock = FolderLock::of(&path)?;
        let fail = |error: io::Error| {
            Error::new(
                ErrorKind::Server,
                "what a next server needs cannot be written down; --recovery off does without",
            )
            .at(&path)
            .because(error)
        };
        let draft = path.with_extension(format!("state.{}", std::process::id()));
        let file = write_locked(&draft, &record).and_then(|file| fs::rename(&draft, &path).map(|()| file));
        let file = file.map_err(|error| {
            // There may be none.
            let _none = fs::remove_file(&draft);
            fail(error)
        })?;
        let claim = Claim::lay(&path, &lock).map_err(fail)?;
        Ok(Self {
            claim,
            _file: file,
            record,
        })
    }

    /// Takes over what a server has left that is gone: waits for its end, up to `deadline`. `lives` is asked whether it is well,
    /// and says who it is.
    pub(crate) fn take(id: u32, deadline: Instant, lives: impl Fn(&Record) -> Option<u32>) -> Result<Self, Error> {
        Self::take_at(record_path(id), id, deadline, lives)
    }

    fn take_at(
        path: PathBuf,
        id: u32,
        deadline: Instant,
        lives: impl Fn(&Record) -> Option<u32>,
    ) -> Result<Self, Error> {
        let refuse = |what: String| Error::new(ErrorKind::Server, what).at(&path);
        let file = open(&path).map_err(|error| not_there(&path, id, error))?;
        let bytes = read(&file).map_err(refuse)?;
        let record = Record::parse(&bytes, id).map_err(refuse)?;
        lock(&file, &path, deadline, || lives(&record))?;
        let folder = FolderLock::of(&path)?;
        let mut claim = Claim::lay(&path, &folder).map_err(|error| not_there(&path, id, error))?;
        // Where the device is not served in the end, the file is for who tries next.
        claim.own(false);
        match claim.is_of(&file) {
            true => Ok(Self {
                claim,
                _file: file,
                record,
            }),
            false => Err(refuse("was replaced by another server's meanwhile".into())),
        }
    }

    /// Removes what a server has left that is gone; that of one that lives ends with it.
    pub(crate) fn remove_dead(id: u32) {
        Self::remove_dead_at(&record_path(id));
    }

    fn remove_dead_at(path: &Path) {
        // First: what is opened then lies there until it is removed.
        let Ok(_folder) = FolderLock::of(path) else { return };
        let Ok(file) = open(path) else { return };
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            // Somebody else may have been faster.
            let _gone = fs::remove_file(path);
        }
    }

    /// What it says.
    pub(crate) fn record(&self) -> &Record {
        &self.record
    }

    /// Changes it: another file takes its place, whole or not at all.
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut Record)) -> Result<(), Error> {
        let mut record = self.record.clone();
        change(&mut record);
        let is_ours = self.claim.is_ours();
        *self = Self::write_at(self.claim.path().to_path_buf(), record)?;
        self.own(is_ours);
        Ok(())
    }

    /// Is it to go away with this?
    pub(crate) fn own(&mut self, is_ours: bool) {
        self.claim.own(is_ours);
    }
}

fn write_locked(path: &Path, record: &Record) -> io::Result<File> {
    // A draft of this name was left by a process that is dead, as its id is ours now.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    let mut bytes = serde_json::to_vec_pretty(record).map_err(io::Error::other)?;
    bytes.push(b'\n');
    if bytes.len() as u64 > BYTES_MAX {
        return Err(io::Error::other("it is too long"));
    }
    file.write_all(&bytes)?;
    Ok(file)
}

fn open(path: &Path) -> io::Result<File> {
    // A FIFO would be waited for, a terminal taken.
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW;
    let flags = i32::try_from(flags.bits()).expect("flags of open are an int");
    File::options().read(true).custom_flags(flags).open(path)
}

fn not_there(path: &Path, id: u32, error: io::Error) -> Error {
    if error.kind() == io::ErrorKind::NotFound {
        let what = format!(
            "nothing is known of ublk device {id}: it was not added by this program with recovery, or under another \
             IOMGR_RUNTIME_DIR"
        );
        return Error::new(ErrorKind::Server, what).hint(format!("`iomgr del -n {id}` deletes it"));
    }
    Error::new(ErrorKind::Server, "cannot be opened")
        .at(path)
        .because(error)
}

/// All of a file that can be trusted; else why not.
fn read(mut file: &File) -> Result<Vec<u8>, String> {
    let meta = file
        .metadata()
        .map_err(|error| format!("cannot be looked at: {error}"))?;
    if !meta.is_file() {
        return Err("is no regular file".into());
    }
    if meta.uid() != rustix::process::geteuid().as_raw() || meta.mode() & 0o022 != 0 {
        return Err("is not this user's alone, who knows what it says; `iomgr del` deletes the device".into());
    }
    let mut bytes = Vec::new();
    let len = (&mut file).take(BYTES_MAX + 1).read_to_end(&mut bytes);
    match len {
        Ok(len) if len as u64 > BYTES_MAX => Err("is too long to be a record of a device".into()),
        Ok(_) => Ok(bytes),
        Err(error) => Err(format!("cannot be read: {error}")),
    }
}

/// Waits for the end of the server that holds the file.
fn lock(file: &File, path: &Path, deadline: Instant, lives: impl Fn() -> Option<u32>) -> Result<(), Error> {
    let mut is_told = false;
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => {}
            Err(errno) => {
                return Err(Error::new(ErrorKind::Server, "cannot be locked")
                    .at(path)
                    .because(errno));
            }
        }
        let is_over = Instant::now() >= deadline;
        if (is_over || !is_told)
            && let Some(pid) = lives()
        {
            let what = format!("process {pid} serves the device, and is well");
            let hint = "`iomgr upgrade` hands it over to this program, `iomgr del` deletes it";
            return Err(Error::new(ErrorKind::Locked, what).hint(hint));
        }
        if !is_told {
            tracing::warn!(user = %users_of(path, 1), "device_served: waiting for its server to end");
            is_told = true;
        }
        if is_over {
            let what = format!("the device is still held by {}", users_of(path, 1));
            return Err(Error::new(ErrorKind::Locked, what)
                .at(path)
                .hint("end that first, or wait longer"));
        }
        thread::sleep(PAUSE);
    }
}

/// Names this run of the kernel.
fn boot_id() -> Result<String, Error> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let text = fs::read_to_string(path).map_err(|error| {
        Error::new(ErrorKind::Server, "cannot be read; is /proc mounted?")
            .at(path)
            .because(error)
    })?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
#[path = "record/tests.rs"]
mod tests;
