//! The stable device: a name, a locked image behind it, and statistics.

use std::error::Error as StdError;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use iomgr_core::stats::Figures;
use iomgr_core::{BlockStatus, Device, DeviceQueue, Errno, FileHandle, Limits, QueueContext, Sector, SectorRange};
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind};
use crate::extents::Extents;
use crate::format::Format;
use crate::generation::Shared;
use crate::layout::Layout;
use crate::patience::PATIENCE;
use crate::pause::PauseStatus;
use crate::retry::{RetryPolicy, RetryStatus};
use crate::stable::{Behind, Stable, StableQueue, Witness};
use crate::stats::Stats;
use crate::ublk::check_not_waiting;

/// Does the host's page cache hold the image's bytes?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cache {
    /// No: direct I/O, where the file can do it in units of 512 bytes; buffered otherwise, with a warning.
    None,
    /// Yes; flushes write it back.
    #[default]
    Writeback,
}

/// How to open a disk.
#[derive(Clone, Debug)]
pub struct DiskOptions {
    /// What people call it; from the file's name if not given.
    pub name: Option<String>,
    /// The format, where the extension does not tell it or lies.
    pub format: Option<Format>,
    /// Refuse writes, and open the file for reading only.
    pub read_only: bool,
    /// Restore a footer that a crash tore, so that the image can be written again.
    pub repair: bool,
    /// The page cache's part.
    pub cache: Cache,
    /// How long to wait for somebody else's lock.
    pub lock_timeout: Duration,
    /// Which errors of the file pass, and for how long requests are tried again.
    pub retry: RetryPolicy,
}

impl Default for DiskOptions {
    fn default() -> Self {
        Self {
            name: None,
            format: None,
            read_only: false,
            repair: false,
            cache: Cache::default(),
            lock_timeout: PATIENCE,
            retry: RetryPolicy::DEFAULT,
        }
    }
}

/// What a disk is, for people and programs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DiskInfo {
    /// What people call it.
    pub name: String,
    /// The image.
    #[serde(serialize_with = "crate::path_text::serialize")]
    pub path: PathBuf,
    /// `raw`, `vhd-fixed` or `vhd-dynamic`.
    pub format: String,
    /// Bytes.
    pub size_bytes: u64,
    /// Are writes refused?
    pub read_only: bool,
    /// What became of the wish about the page cache.
    pub cache: Cache,
    /// A flush failed: writes and flushes are refused until the image is opened again.
    pub failed: bool,
    /// It is paused: the image is closed for a time, and the rest says how it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<PauseStatus>,
}

/// A virtual block device over an image, which can be replaced. Cheap to clone; all clones are the same disk.
#[derive(Clone, Debug)]
pub struct Disk {
    pub(crate) stable: Arc<Stable>,
}

impl Disk {
    /// Opens the image at `path`: locks it, then reads its metadata.
    pub fn open(path: &Path, options: &DiskOptions) -> Result<Self, Error> {
        Shared::open(path, options).map(Self::over)
    }

    pub(crate) fn over(generation: Shared) -> Self {
        Self {
            stable: Arc::new(Stable::new(generation)),
        }
    }

    /// Puts the image at `path`, of the same size, behind the disk, whatever is going on: requests that were begun end on
    /// the old image, which is flushed and closed; what comes meanwhile waits, and goes to the new one. None fails.
    ///
    /// # Errors
    /// The new image cannot be opened, or has another size or mode; the disk is [paused](Self::pause); requests on the old one
    /// do not end within `timeout`: nothing has changed. The old one cannot be flushed or closed: it stays, as one whose
    /// flush has failed.
    pub fn replace(&self, path: &Path, options: &DiskOptions, timeout: Duration) -> Result<(), Error> {
        let options = DiskOptions {
            name: Some(self.stable.name.clone()),
            ..options.clone()
        };
        let change = self.stable.change();
        change.check_unwitnessed()?;
        let now = change.image()?.limits();
        let next = Shared::open(path, &options)?;
        let new = next.limits();
        if (new.size, new.read_only) != (now.size, now.read_only) {
            let what = format!(
                "has {} sectors{}, the disk has {}{}: an image is replaced by one that clients cannot tell from it",
                new.size.0,
                mode(new.read_only),
                now.size.0,
                mode(now.read_only),
            );
            return Err(Error::new(ErrorKind::InvalidOption, what).at(path));
        }
        check_not_waiting(&next.info())?;
        next.make_durable()?;
        change.vacate(|queues| queues.wait(timeout))?;
        change.occupy(next);
        Ok(())
    }

    /// Has `witness` hear of each image that follows, before the first request gets to it; its error refuses the image.
    pub(crate) fn tell_of_images(&self, witness: impl Fn(&Shared) -> Result<(), Error> + Send + Sync + 'static) {
        self.stable.tell_of_images(Witness::new(witness));
    }

    /// From now on nobody pauses it, or puts another image behind it: that is the next server's. False: it is paused, or about
    /// to be.
    pub(crate) fn keep_image(&self) -> bool {
        self.stable.keep_image()
    }

    /// What opening had to say, besides errors.
    pub fn warnings(&self) -> Vec<String> {
        match self.stable.behind() {
            Behind::Image(shared) => shared.warnings.clone(),
            Behind::Nothing(pause) => pause.was.warnings.clone(),
        }
    }

    /// What it is.
    pub fn info(&self) -> DiskInfo {
        match self.stable.behind() {
            Behind::Image(shared) => shared.info(),
            Behind::Nothing(pause) => DiskInfo {
                paused: Some(pause.status()),
                ..pause.was.info.clone()
            },
        }
    }

    /// Is `path` the image that it writes to?
    pub fn is_writer_of(&self, path: &Path) -> bool {
        let identity = |path: &Path| {
            let meta = std::fs::metadata(path).ok()?;
            Some((meta.dev(), meta.ino(), meta.rdev()))
        };
        let info = self.info();
        !info.read_only && identity(&info.path).is_some_and(|it| identity(path) == Some(it))
    }

    /// What it has done since it was opened.
    pub fn stats(&self) -> Stats {
        Stats::new(&self.figures())
    }

    /// When its figures were zero.
    pub(crate) fn since(&self) -> Instant {
        self.stable.since
    }

    pub(crate) fn figures(&self) -> [Figures; 4] {
        self.stable.figures()
    }

    /// How its errors pass.
    pub fn retry_status(&self) -> RetryStatus {
        self.stable.retries.status(&self.retry_policy())
    }

    /// As it was asked for.
    pub(crate) fn retry_policy(&self) -> RetryPolicy {
        match self.stable.behind() {
            Behind::Image(shared) => shared.retry,
            Behind::Nothing(pause) => pause.was.retry,
        }
    }

    /// From now on nobody waits for anything but storage that is at work: what is to be tried again ends with its error at
    /// once, and what a [pause](Self::pause) holds with `ESHUTDOWN`. For the disk's end.
    pub fn end_retries(&self) {
        self.stable.end_waits();
    }

    /// What it is made of, from a sector on. Reads metadata, never data.
    pub fn extents(&self, from: Sector) -> Extents {
        Extents::new(self.stable.image(), from)
    }

    /// What is known, without reading data, about the first sectors of `range`: a blocking look, for tools. It
    /// ends where another kind begins, or the range. Partly written blocks of other writers are data here.
    ///
    /// # Errors
    /// `InvalidInput` for a range that is empty or not on the disk; `EBUSY` while it is paused; the file system's own.
    pub fn block_status(&self, range: SectorRange) -> io::Result<BlockStatus> {
        let shared = self.stable.image().ok_or(Errno::BUSY)?;
        if range.is_empty() || !range.fits(shared.limits().size) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        shared.block_status(range)
    }

    /// The image's file, if it is a regular one.
    pub(crate) fn regular_file(&self) -> Option<FileHandle> {
        let shared = self.stable.image()?;
        (!shared.medium.storage().is_block_device()).then(|| shared.medium.handle())
    }

    /// The same, if the disk is the file's bytes from the first on.
    pub(crate) fn plain_file(&self) -> Option<FileHandle> {
        let shared = self.stable.image()?;
        let is_plain = matches!(&shared.layout, Layout::Plain(plain) if plain.offset_bytes == 0);
        is_plain.then(|| self.regular_file()).flatten()
    }

    /// Lets the page cache forget what is flushed, so that what is read next comes from the disk below.
    pub(crate) fn forget_cached(&self) {
        let handle = self.stable.image().map(|shared| shared.medium.handle());
        let Some(file) = handle.as_ref().and_then(FileHandle::fd) else {
            return;
        };
        if let Err(error) = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed) {
            tracing::warn!(%error, "cache_kept: what is read may come from memory");
        }
    }

    /// Closes the image cleanly: flushes it and gives reserved space back. All queues must be closed before; without this
    /// call the image is left as a crash would leave it, which is safe, too. A paused disk's is closed already, and now stays so.
    pub fn close(&self) -> Result<(), Error> {
        self.stable.change().close()
    }
}

impl Device for Disk {
    fn name(&self) -> &str {
        &self.stable.name
    }

    fn limits(&self) -> Limits {
        self.stable.limits()
    }

    fn open_queue(&self, cx: QueueContext<'_>) -> Result<Box<dyn DeviceQueue>, Box<dyn StdError + Send + Sync>> {
        Ok(Box::new(StableQueue::open(Arc::clone(&self.stable), cx)?))
    }
}

fn mode(read_only: bool) -> &'static str {
    if read_only { ", read-only" } else { "" }
}

#[cfg(test)]
mod tests {
    use std::fs::{File, OpenOptions};
    use std::sync::Mutex;

    use tqueue::EngineKind;

    use super::*;
    use crate::blocking::BlockingDisk;
    use crate::test_log::hearing;

    /// What others do to an image below a disk is in the log, as is what clients meet then.
    #[test]
    fn an_image_that_is_cut_short_is_told_of() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.img");
        File::create_new(&path).unwrap().set_len(1 << 20).unwrap();
        let disk = Disk::open(&path, &DiskOptions::default()).unwrap();
        let mut queue = BlockingDisk::open(&disk, EngineKind::Auto).unwrap();
        let said = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&said);
        let cut = OpenOptions::new().write(true).open(&path).unwrap();
        hearing(
            move |line| heard.lock().unwrap().push(line.to_owned()),
            || {
                cut.set_len(4096).unwrap();
                queue.read(&mut [0; 512], Sector(64)).unwrap_err();
                assert_eq!(disk.limits().size.0, 8);
            },
        );
        let said = said.lock().unwrap();
        assert_eq!(said.len(), 2, "{said:?}");
        for (line, parts) in said.iter().zip([
            [
                "WARN",
                "request_failed",
                "disk=\"a\"",
                "read of 1 sectors at sector 64",
                "Input/output error",
            ],
            ["WARN", "size_changed", "disk=\"a\"", "before=2048", "now=8"],
        ]) {
            assert!(parts.iter().all(|part| line.contains(part)), "{line}");
        }
    }
}
