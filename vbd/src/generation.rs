//! A generation: one image behind a disk, and what all queues share that serve it.

use std::error::Error as StdError;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use iomgr_core::{Errno, FileHandle, Limits, SECTOR_BYTES, SectorCount, Storage};

use crate::create::sync_folder;
use crate::disk::{Cache, DiskInfo, DiskOptions};
use crate::error::{Error, ErrorKind};
use crate::file::{FileExtent, FileOptions, ImageFile};
use crate::format::Format;
use crate::layout::Layout;
use crate::origin::Origin;
use crate::pause::Memory;
use crate::queue::FlushBoard;
use crate::retry::{Retries, RetryPolicy};
use crate::runtime::{check_disk_name, default_name};
use crate::stable::Attendance;

/// See the module.
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
    pub(crate) warnings: Vec<String>,
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

    pub(crate) fn path(&self) -> &Path {
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

    fn discard_granularity_bytes(&self) -> u32 {
        match self {
            Self::File(file) => file.discard_granularity_bytes(),
            #[cfg(feature = "test-utils")]
            Self::Simulated(_) => 4096,
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

impl Shared {
    pub(crate) fn open(path: &Path, options: &DiskOptions) -> Result<Self, Error> {
        options.name.as_deref().map_or(Ok(()), check_disk_name)?;
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
            discard_granularity_bytes: match layout.block_bytes() {
                0 => medium.discard_granularity_bytes(),
                block => block,
            },
            read_only,
            volatile_cache: true,
            // Whatever is to be zeros, the queue below can make it so.
            needs_bytes: false,
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

    /// What clients have flushed was durable in the old image, so it must be in this one, which may be a fresh copy.
    pub(crate) fn make_durable(&self) -> Result<(), Error> {
        let path = self.medium.path();
        self.medium.storage().sync().map_err(|error| {
            Error::new(
                ErrorKind::Io,
                "cannot be flushed, so it cannot be served in another's place",
            )
            .at(path)
            .because(error)
        })?;
        let has_name = match &self.medium {
            Medium::File(file) => !file.is_block_device(),
            #[cfg(feature = "test-utils")]
            Medium::Simulated(_) => false,
        };
        if has_name && let Err(error) = sync_folder(path) {
            tracing::warn!(
                disk = self.name,
                error = error.line(),
                "name_volatile: a power cut may take a new file's name"
            );
        }
        Ok(())
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
            let now = SectorCount::from_bytes_floor(bytes).0;
            let before = self.size.swap(now, Ordering::Relaxed);
            if now != before {
                tracing::warn!(
                    disk = self.name,
                    before,
                    now,
                    "size_changed: the image was enlarged or cut by others; in sectors"
                );
            }
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

    /// See [`Disk::close`](crate::Disk::close).
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
            Error::new(ErrorKind::Open, format!("is too short for a disk: {bytes} bytes"))
                .hint("a disk has at least a sector of 512 bytes"),
        );
    }
    Ok(SectorCount::from_bytes_floor(bytes))
}
