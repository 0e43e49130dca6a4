//! Opening a path, and what the kernel says about it.

use std::fs::File;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use iomgr_core::{Errno, FileHandle, Limits, SectorCount};
use rustix::fs::{AtFlags, Mode, OFlags, SeekFrom, StatxFlags};

use super::FileOptions;
use crate::{Error, ErrorKind};

/// Leases are aligned to this, so no memory is aligned to more.
const ALIGN_MAX: u32 = 4096;

/// Opens `path`: the file, what it can take, and whether that is past the page cache.
pub(super) fn open(path: &Path, options: FileOptions) -> Result<(FileHandle, Limits, bool), Error> {
    let file = File::from(open_fd(path, options.read_only).map_err(|errno| failed(path, errno))?);
    let kind = file.metadata().map_err(|error| failed(path, error))?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        let text = format!("{} is neither a file nor a block device", path.display());
        return Err(Error::new(ErrorKind::Device, text));
    }
    if kind.is_block_device() && !options.read_only && is_write_protected(&file) {
        let text = format!(
            "{} is a read-only block device; open it for reading only",
            path.display()
        );
        return Err(Error::new(ErrorKind::Device, text));
    }
    let align = direct_align(&file).filter(|_| !options.buffered);
    let is_direct = align.is_some() && set_direct(&file).is_ok();
    let limits = limits(
        &file,
        kind.is_block_device(),
        align.filter(|_| is_direct),
        options.read_only,
    );
    let limits = limits.map_err(|errno| failed(path, errno))?;
    Ok((FileHandle::new(file), limits, is_direct))
}

fn failed(path: &Path, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Device, format!("{} cannot be opened", path.display())).because(error)
}

/// Opens without waiting for anything: a FIFO would block otherwise.
fn open_fd(path: &Path, read_only: bool) -> Result<OwnedFd, Errno> {
    let access = if read_only { OFlags::RDONLY } else { OFlags::RDWR };
    let fd = rustix::fs::open(path, access | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())?;
    // On a description that never waits io_uring would fail ops that have to.
    let flags = rustix::fs::fcntl_getfl(&fd)?;
    rustix::fs::fcntl_setfl(&fd, flags - OFlags::NONBLOCK)?;
    Ok(fd)
}

/// The kernel opens such a device for writing all the same, and then fails each write with EPERM.
fn is_write_protected(device: &File) -> bool {
    let ro = device.metadata().and_then(|meta| {
        let (major, minor) = (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
        std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/ro"))
    });
    ro.is_ok_and(|ro| ro.trim() == "1")
}

fn set_direct(file: &File) -> Result<(), Errno> {
    let flags = rustix::fs::fcntl_getfl(file)?;
    rustix::fs::fcntl_setfl(file, flags | OFlags::DIRECT)
}

/// Is direct I/O switched on?
pub(super) fn is_direct(fd: BorrowedFd<'_>) -> bool {
    rustix::fs::fcntl_getfl(fd).is_ok_and(|flags| flags.contains(OFlags::DIRECT))
}

/// The unit of direct I/O, in bytes; `None` where there is none, or none that our memory is aligned to.
fn direct_align(file: &File) -> Option<u32> {
    // STATX_DIOALIGN, Linux 6.1; rustix has the fields, not the name.
    let dioalign = StatxFlags::from_bits_retain(0x2000);
    let stat = rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, dioalign).ok()?;
    let unit = stat.stx_dio_offset_align;
    let is_known = stat.stx_mask & dioalign.bits() != 0 && unit.is_power_of_two();
    (is_known && unit <= ALIGN_MAX && stat.stx_dio_mem_align <= ALIGN_MAX).then(|| unit.max(512))
}

fn limits(file: &File, is_block_device: bool, align: Option<u32>, read_only: bool) -> Result<Limits, Errno> {
    let (own, physical) = match is_block_device {
        true => (rustix::fs::ioctl_blksszget(file)?, rustix::fs::ioctl_blkpbszget(file)?),
        false => (512, 4096),
    };
    let block = align.unwrap_or(512).max(own);
    let bytes = match is_block_device {
        true => rustix::fs::seek(file, SeekFrom::End(0))?,
        false => file
            .metadata()
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?
            .size(),
    };
    Ok(Limits {
        size: SectorCount::from_bytes_floor(bytes - bytes % u64::from(block)),
        logical_block_bytes: block,
        physical_block_bytes: physical.max(block),
        optimal_io_bytes: 0,
        discard_granularity_bytes: physical.max(block),
        read_only,
        volatile_cache: true,
        needs_bytes: false,
        rotational: false,
    })
}
