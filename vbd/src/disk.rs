//! The stable device: a name, a locked image behind it, and statistics.

use std::error::Error as StdError;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use iomgr_core::stats::Figures;
use iomgr_core::{
    BlockStatus, Device, DeviceQueue, Errno, FileHandle, Limits, QueueContext, SECTOR_BYTES, Sector, SectorCount,
    SectorRange, Storage,
};
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind};
use crate::extents::Extents;
use crate::file::{FileExtent, FileOptions, ImageFile};
use crate::format::Format;
use crate::layout::Layout;
use crate::origin::Origin;
use crate::pause::{Memory, PauseStatus};
use crate::queue::FlushBoard;
use crate::retry::{Retries, RetryPolicy, RetryStatus};
use crate::runtime::default_name;
use crate::stable::{Attendance, Behind, Stable, StableQueue};
use crate::stats::Stats;

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
            lock_timeout: Duration::from_secs(2),
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

/// One image behind a disk, and what all queues share that serve it: a generation.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) name: String,
    /// Where it comes from, to open it again.
    pub(crate) origin: Origin,
    /// As it was opened; see [`limits`](Self::limits) for what may change.
    limits: Limits,
    /// Sectors, when they were last counted.
    size: AtomicU64,
    /// Discards and write-zeroes that have ended.
    pub(crate) holes_made: AtomicU64,
    pub(crate) medium: Medium,
    pub(crate) layout: Layout,
    cache: Cache,
    /// A flush failed (design, Durability 5).
    failed: AtomicBool,
    /// May FUA go down with the write itself? Only past the page cache: there the device takes it, while a buffered one is a
    /// write and a flush of its own, which would take errors away from the flushes that are counted.
    pub(crate) durable_writes: bool,
    pub(crate) flush_board: Arc<FlushBoard>,
    pub(crate) attendance: Attendance,
    pub(crate) retry: RetryPolicy,
    /// The disk's, whatever image is behind it.
    pub(crate) retries: Arc<Retries>,
    warnings: Vec<String>,
}

/// What the image lies on.
#[derive(Debug)]
pub(crate) enum Medium {
    File(ImageFile),
    #[cfg(feature = "test-utils")]
    Simulated(crate::test_utils::SimMedium),
}

impl Medium {
    pub(crate) fn storage(&self) -> &dyn Storage {
        match self {
            Self::File(file) => file,
            #[cfg(feature = "test-utils")]
            Self::Simulated(medium) => medium.storage(),
        }
    }

    pub(crate) fn handle(&self) -> FileHandle {
        match self {
            Self::File(file) => file.handle(),
            #[cfg(feature = "test-utils")]
            Self::Simulated(medium) => medium.handle(),
        }
    }

    /// See [`ImageFile::extent_at`].
    pub(crate) fn extent_at(&self, offset: u64) -> io::Result<FileExtent> {
        match self {
            Self::File(file) => file.extent_at(offset),
            #[cfg(feature = "test-utils")]
            Self::Simulated(_) => Ok(FileExtent::Data { end: u64::MAX }),
        }
    }

    fn path(&self) -> &Path {
        match self {
            Self::File(file) => file.path(),
            #[cfg(feature = "test-utils")]
            Self::Simulated(_) => Path::new("simulated"),
        }
    }

    fn is_rotational(&self) -> bool {
        match self {
            Self::File(file) => file.is_rotational(),
            #[cfg(feature = "test-utils")]
            Self::Simulated(_) => false,
        }
    }

    fn physical_block_bytes(&self) -> u32 {
        match self {
            Self::File(file) => file.physical_block_bytes(),
            #[cfg(feature = "test-utils")]
            Self::Simulated(_) => 4096,
        }
    }
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
        change.vacate(|queues| queues.wait(timeout))?;
        change.occupy(next);
        Ok(())
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
        let policy = match self.stable.behind() {
            Behind::Image(shared) => shared.retry,
            Behind::Nothing(pause) => pause.was.retry,
        };
        self.stable.retries.status(&policy)
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

impl Shared {
    pub(crate) fn open(path: &Path, options: &DiskOptions) -> Result<Self, Error> {
        let format = Format::resolve(options.format, path)?;
        let file = ImageFile::open(
            path,
            FileOptions {
                read_only: options.read_only,
                lock_timeout: options.lock_timeout,
            },
        )?;
        let mut warnings = Vec::new();
        let layout = Layout::open(&file, format, options, &mut warnings).map_err(|error| error.at(path))?;
        let cache = choose_cache(&file, options.cache, &mut warnings)?;
        let name = options.name.clone().unwrap_or_else(|| default_name(path));
        let origin = Origin::file(path, options, &name);
        let medium = Medium::File(file);
        Ok(Self {
            retry: options.retry,
            ..Self::assemble(name, origin, medium, layout, options.read_only, cache, warnings)
        })
    }

    pub(crate) fn assemble(
        name: String,
        origin: Origin,
        medium: Medium,
        layout: Layout,
        read_only: bool,
        cache: Cache,
        warnings: Vec<String>,
    ) -> Self {
        for warning in &warnings {
            tracing::warn!(disk = name, "{warning}");
        }
        let limits = Limits {
            size: layout.size(),
            logical_block_bytes: 512,
            physical_block_bytes: medium.physical_block_bytes(),
            optimal_io_bytes: layout.block_bytes(),
            discard_granularity_bytes: layout.discard_granularity_bytes(),
            read_only,
            volatile_cache: true,
            needs_bytes: layout.needs_bytes(),
            rotational: medium.is_rotational(),
        };
        let failed = AtomicBool::new(false);
        let durable_writes = cache == Cache::None;
        let flush_board = Arc::new(FlushBoard::new());
        Self {
            name,
            origin,
            size: AtomicU64::new(limits.size.0),
            limits,
            holes_made: AtomicU64::new(0),
            medium,
            layout,
            cache,
            failed,
            durable_writes,
            flush_board,
            attendance: Attendance::default(),
            retry: RetryPolicy::DEFAULT,
            retries: Arc::default(),
            warnings,
        }
    }

    /// What it is.
    pub(crate) fn info(&self) -> DiskInfo {
        DiskInfo {
            name: self.name.clone(),
            path: self.medium.path().to_path_buf(),
            format: self.layout.format_name().to_owned(),
            size_bytes: self.limits().size.0 * SECTOR_BYTES,
            read_only: self.is_read_only(),
            cache: self.cache,
            failed: self.has_failed(),
            paused: None,
        }
    }

    /// What is to be known of it while it is closed.
    pub(crate) fn memory(&self) -> Memory {
        // As clients were told. The file may have changed its size since.
        let size = self.size();
        Memory {
            limits: Limits { size, ..self.limits },
            info: self.info(),
            origin: self.origin.clone(),
            retry: self.retry,
            warnings: self.warnings.clone(),
        }
    }

    /// Lets others have the image, once it is closed.
    pub(crate) fn unlock(&self) {
        match &self.medium {
            Medium::File(file) => file.unlock(),
            #[cfg(feature = "test-utils")]
            Medium::Simulated(_) => {}
        }
    }

    /// What it can take now. A raw image may have been enlarged or cut meanwhile: its size is looked up again, and from then
    /// on requests are held against it. A VHD's size is part of the format.
    pub(crate) fn limits(&self) -> Limits {
        if self.layout.is_raw()
            && let Ok(bytes) = self.medium.storage().len_bytes()
        {
            self.size
                .store(SectorCount::from_bytes_floor(bytes).0, Ordering::Relaxed);
        }
        Limits {
            size: self.size(),
            ..self.limits
        }
    }

    /// The size by which requests are judged.
    pub(crate) fn size(&self) -> SectorCount {
        SectorCount(self.size.load(Ordering::Relaxed))
    }

    pub(crate) fn is_read_only(&self) -> bool {
        self.limits.read_only
    }

    /// See [`Disk::close`].
    pub(crate) fn close(&self) -> Result<(), Error> {
        let shared = self;
        let fail = |error: Box<dyn StdError + Send + Sync>| {
            Error::new(ErrorKind::Io, "cannot be closed cleanly; what was flushed is safe")
                .at(shared.medium.path())
                .because(error)
        };
        if shared.is_read_only() {
            return Ok(());
        }
        if shared.has_failed() {
            return Err(Error::new(
                ErrorKind::Io,
                "a flush failed while it was open: what was written after the last good flush may be lost; check it",
            )
            .at(shared.medium.path()));
        }
        #[cfg_attr(
            not(feature = "test-utils"),
            expect(irrefutable_let_patterns, reason = "tests add a second medium")
        )]
        if let Medium::File(file) = &shared.medium {
            // What follows writes single structures, not aligned to anything.
            file.set_direct(false).map_err(|error| fail(error.into()))?;
        }
        shared.medium.storage().sync().map_err(|error| fail(error.into()))?;
        shared.layout.close(shared.medium.storage()).map_err(fail)
    }

    /// Did a flush fail?
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// What a flush that has ended is worth.
    pub(crate) fn flush_verdict(&self) -> Result<(), Errno> {
        if self.has_failed() { Err(Errno::IO) } else { Ok(()) }
    }

    /// A flush failed: from now on nothing that needs one is acknowledged.
    pub(crate) fn fail(&self, errno: Errno) {
        if !self.failed.swap(true, Ordering::AcqRel) {
            tracing::error!(
                disk = self.name,
                %errno,
                "flush_failed: writes and flushes are refused from now on; stop, check the storage, and open the image again"
            );
        }
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

fn choose_cache(file: &ImageFile, wish: Cache, warnings: &mut Vec<String>) -> Result<Cache, Error> {
    if wish == Cache::Writeback {
        return Ok(wish);
    }
    if let Some(why) = file.direct_refusal() {
        warnings.push(format!(
            "direct I/O is not possible here ({why}); the page cache is used"
        ));
        return Ok(Cache::Writeback);
    }
    file.set_direct(true).map_err(|error| {
        Error::new(ErrorKind::Open, "direct I/O cannot be switched on")
            .at(file.path())
            .because(error)
    })?;
    Ok(Cache::None)
}

/// A raw image's size: whole sectors; the tail that is none is not served.
pub(crate) fn raw_size(file: &ImageFile, warnings: &mut Vec<String>) -> Result<SectorCount, Error> {
    let bytes = file
        .len_bytes()
        .map_err(|error| Error::new(ErrorKind::Io, "its size cannot be read").because(error))?;
    let tail = bytes % SECTOR_BYTES;
    if tail != 0 {
        warnings.push(format!("the last {tail} bytes are no whole sector and are not served"));
    }
    if bytes < SECTOR_BYTES {
        return Err(
            Error::new(ErrorKind::Format, format!("is too short for a disk: {bytes} bytes"))
                .hint("a disk has at least a sector of 512 bytes"),
        );
    }
    Ok(SectorCount::from_bytes_floor(bytes))
}

fn mode(read_only: bool) -> &'static str {
    if read_only { ", read-only" } else { "" }
}
