//! What is behind a ublk device, as its record tells it: enough to open the very same again.

use std::ffi::OsString;
use std::fs::Metadata;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::disk::{Cache, Disk, DiskInfo, DiskOptions};
use crate::error::{Error, ErrorKind};
use crate::null::NullDevice;
use crate::retry::{RetryOn, RetryPolicy};
use crate::server::UblkTarget;

/// What is served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum TargetRecord {
    Null { name: String, size_bytes: u64 },
    Disk(DiskRecord),
}

/// An image, and how it was opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DiskRecord {
    name: String,
    path: PathRecord,
    file: FileIdentity,
    format: String,
    read_only: bool,
    cache: Cache,
    retry_on: Vec<String>,
    retry_timeout_ms: u64,
}

/// A path, which need not be Unicode, as JSON is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum PathRecord {
    Text(String),
    Bytes(Vec<u8>),
}

/// The file that was found there: another one at the same place is another disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileIdentity {
    device: u64,
    /// Of a block device, its own number: its node may be made anew.
    number: u64,
    /// Numbers are used again.
    born_ns: Option<u64>,
}

impl TargetRecord {
    /// About what is open now.
    pub(crate) fn of(target: &UblkTarget) -> Result<Self, Error> {
        match target {
            UblkTarget::Null(null) => {
                let info = null.info();
                Ok(Self::Null {
                    name: info.name,
                    size_bytes: info.size_bytes,
                })
            }
            UblkTarget::Disk(disk) => Self::of_image(disk.info(), disk.retry_policy()),
        }
    }

    /// About an image.
    pub(crate) fn of_image(info: DiskInfo, retry: RetryPolicy) -> Result<Self, Error> {
        DiskRecord::of(info, retry).map(Self::Disk)
    }

    /// Opens it again. An image is locked first: that is granted when the last write of the server that died has landed.
    pub(crate) fn open(&self, lock_timeout: Duration) -> Result<UblkTarget, Error> {
        match self {
            Self::Null { name, size_bytes } => Ok(UblkTarget::Null(Arc::new(NullDevice::new(name, *size_bytes)))),
            Self::Disk(disk) => disk.open(lock_timeout).map(UblkTarget::Disk),
        }
    }
}

impl DiskRecord {
    fn of(info: DiskInfo, retry: RetryPolicy) -> Result<Self, Error> {
        let path = std::path::absolute(&info.path).unwrap_or(info.path);
        Ok(Self {
            name: info.name,
            file: FileIdentity::at(&path)?,
            path: PathRecord::of(&path),
            format: match info.format.as_str() {
                "raw" => "raw",
                _ => "vhd",
            }
            .to_owned(),
            read_only: info.read_only,
            cache: info.cache,
            retry_on: retry.also.iter_names().map(|(name, _)| name.to_owned()).collect(),
            retry_timeout_ms: u64::try_from(retry.timeout.as_millis()).unwrap_or(u64::MAX),
        })
    }

    fn open(&self, lock_timeout: Duration) -> Result<Disk, Error> {
        let path = self.path.path();
        let refuse = |what: String| Error::new(ErrorKind::Server, what).at(&path);
        if !path.is_absolute() {
            return Err(refuse("is no absolute path, as a record of a device has one".into()));
        }
        let error =
            |name: &String| RetryOn::from_name(name).ok_or_else(|| refuse(format!("{name} is no error that may pass")));
        let options = DiskOptions {
            name: Some(self.name.clone()),
            format: Some(self.format.parse()?),
            read_only: self.read_only,
            // Its server died in the middle of something.
            repair: !self.read_only,
            cache: self.cache,
            lock_timeout,
            retry: RetryPolicy {
                also: self.retry_on.iter().map(error).collect::<Result<_, _>>()?,
                timeout: Duration::from_millis(self.retry_timeout_ms),
            },
        };
        // Before the lock is waited for, and again when it is held.
        let is_same = || FileIdentity::at(&path).map(|file| file == self.file);
        let another =
            || refuse("is not the image that the device was added with; put that back, or delete the device".into());
        if !is_same()? {
            return Err(another());
        }
        let disk = Disk::open(&path, &options)?;
        match is_same()? {
            true => Ok(disk),
            false => Err(another()),
        }
    }
}

impl PathRecord {
    fn of(path: &Path) -> Self {
        match path.to_str() {
            Some(text) => Self::Text(text.to_owned()),
            None => Self::Bytes(path.as_os_str().as_bytes().to_vec()),
        }
    }

    fn path(&self) -> PathBuf {
        match self {
            Self::Text(text) => text.into(),
            Self::Bytes(bytes) => OsString::from_vec(bytes.clone()).into(),
        }
    }
}

fn nanoseconds(time: SystemTime) -> Option<u64> {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    u64::try_from(since.as_nanos()).ok()
}

impl FileIdentity {
    fn at(path: &Path) -> Result<Self, Error> {
        let meta = std::fs::metadata(path);
        let meta = meta.map_err(|error| {
            Error::new(ErrorKind::Open, "cannot be looked at")
                .at(path)
                .because(error)
        })?;
        Ok(Self::of(&meta))
    }

    fn of(meta: &Metadata) -> Self {
        match meta.file_type().is_block_device() {
            true => Self {
                device: 0,
                number: meta.rdev(),
                born_ns: None,
            },
            false => Self {
                device: meta.dev(),
                number: meta.ino(),
                born_ns: meta.created().ok().and_then(nanoseconds),
            },
        }
    }
}
