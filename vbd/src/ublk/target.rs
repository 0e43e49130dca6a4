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
    /// So are those of block devices; this is never. None of files, and before Linux 5.15.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    disk_seq: Option<u64>,
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

    /// Is it written to this image?
    pub(crate) fn writes_to(&self, image: &Path) -> bool {
        match self {
            Self::Null { .. } => false,
            Self::Disk(disk) => !disk.read_only && FileIdentity::at(image).is_ok_and(|file| file.is(&disk.file)),
        }
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
        let is_same = || FileIdentity::at(&path).map(|file| file.is(&self.file));
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
                disk_seq: disk_seq(Path::new("/sys"), meta.rdev()),
            },
            false => Self {
                device: meta.dev(),
                number: meta.ino(),
                born_ns: meta.created().ok().and_then(nanoseconds),
                disk_seq: None,
            },
        }
    }

    /// Is it the same, as far as both tell?
    fn is(&self, other: &Self) -> bool {
        let (here, there) = (self.disk_seq.or(other.disk_seq), other.disk_seq.or(self.disk_seq));
        (self.device, self.number, self.born_ns, here) == (other.device, other.number, other.born_ns, there)
    }
}

/// The how many-th disk of this kernel's it is: a loop device that gets another file is another one.
fn disk_seq(sys: &Path, number: u64) -> Option<u64> {
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    let folder = sys.join(format!("dev/block/{major}:{minor}"));
    // A partition's is its disk's, whose folder it lies in.
    let read = |name| std::fs::read_to_string(folder.join(name)).ok();
    let text = read("diskseq").or_else(|| read("../diskseq"))?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_disk_is_known_by_its_sequence_number_and_a_partition_by_its_disk_s() {
        let sys = tempfile::tempdir().unwrap();
        let disk = sys.path().join("devices/block/loop0");
        let by_number = sys.path().join("dev/block");
        fs::create_dir_all(disk.join("loop0p1")).unwrap();
        fs::create_dir_all(&by_number).unwrap();
        symlink(&disk, by_number.join("7:0")).unwrap();
        symlink(disk.join("loop0p1"), by_number.join("259:300")).unwrap();
        let [whole, part] = [(7, 0), (259, 300)].map(|(major, minor)| rustix::fs::makedev(major, minor));
        let seq = |number| disk_seq(sys.path(), number);
        assert_eq!((seq(whole), seq(part)), (None, None), "before Linux 5.15");
        fs::write(disk.join("diskseq"), "23\n").unwrap();
        assert_eq!((seq(whole), seq(part)), (Some(23), Some(23)));
        fs::write(disk.join("diskseq"), "many\n").unwrap();
        assert_eq!(seq(whole), None);
    }

    #[test]
    fn another_disk_of_the_same_number_is_another() {
        let number = rustix::fs::makedev(7, 0);
        let loop0 = |disk_seq| FileIdentity {
            device: 0,
            number,
            born_ns: None,
            disk_seq,
        };
        assert!(loop0(Some(1)).is(&loop0(Some(1))));
        assert!(!loop0(Some(2)).is(&loop0(Some(1))));
        // What one of them does not tell.
        assert!(loop0(None).is(&loop0(Some(1))) && loop0(Some(1)).is(&loop0(None)) && loop0(None).is(&loop0(None)));
        let other = FileIdentity {
            number: number + 1,
            ..loop0(Some(1))
        };
        assert!(!other.is(&loop0(Some(1))));
    }

    /// Of every block device of this machine that has one, as the kernel shows it elsewhere.
    #[test]
    fn what_this_kernel_tells_is_found() {
        let Ok(disks) = fs::read_dir("/sys/block") else {
            println!("skipped: no /sys/block here");
            return;
        };
        for disk in disks.flatten().map(|entry| entry.path()) {
            let [seq, number] = ["diskseq", "dev"].map(|name| fs::read_to_string(disk.join(name)).ok());
            let (Some(seq), Some(number)) = (seq, number) else {
                continue;
            };
            let (major, minor) = number.trim().split_once(':').unwrap();
            let number = rustix::fs::makedev(major.parse().unwrap(), minor.parse().unwrap());
            let seq = seq.trim().parse().ok();
            assert_eq!(disk_seq(Path::new("/sys"), number), seq, "{disk:?}");
            let node = Path::new("/dev").join(disk.file_name().unwrap());
            if fs::metadata(&node).is_ok_and(|meta| meta.rdev() == number) {
                assert_eq!(FileIdentity::at(&node).unwrap().disk_seq, seq, "{node:?}");
            }
        }
    }
}
