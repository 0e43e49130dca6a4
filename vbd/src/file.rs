//! Files and block devices: opened, locked and measured before a byte of them is believed.
//!
//! # Contract
//! The lock is an open-file-description lock over the whole file, taken on the very description that all I/O uses, so
//! that it lives exactly as long as that I/O: after a crash the kernel grants it to the next process only when the dead
//! one's last request has landed (design, Durability 6). QEMU's own image locks are locks of the same kind on single bytes
//! of the file, so QEMU and we exclude each other.
//!
//! Direct I/O is switched on later, on the same description, by [`ImageFile::set_direct`]: metadata is read through the
//! page cache.

mod lock;
mod part;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use iomgr_core::{FileHandle, Storage};
use rustix::fs::{AtFlags, FallocateFlags, Mode, OFlags, StatxFlags};

use crate::error::{Error, ErrorKind};
pub(crate) use lock::users_of;
use lock::{in_use, lock, unlock, wait_for};
pub(crate) use part::check_part;

/// A locked file or block device.
#[derive(Debug)]
pub struct ImageFile {
    file: File,
    shared: Arc<OwnedFd>,
    path: PathBuf,
    block_device: bool,
    read_only: bool,
}

/// How to open a file.
#[derive(Clone, Copy, Debug)]
pub struct FileOptions {
    /// Open for reading only, with a shared lock.
    pub read_only: bool,
    /// Wait so long for somebody else's lock; what a killed process had in flight holds it until it has landed.
    pub lock_timeout: Duration,
}

/// A run of a file's bytes, up to `end`, which may lie behind the file's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileExtent {
    /// They may be anything.
    Data {
        /// The first byte behind.
        end: u64,
    },
    /// They take no space, and read as zeros.
    Hole {
        /// The first byte behind.
        end: u64,
    },
}

impl ImageFile {
    /// Opens and locks `path`, a regular file or a block device.
    pub fn open(path: &Path, options: FileOptions) -> Result<Self, Error> {
        let deadline = Instant::now() + options.lock_timeout;
        let fd = wait_for(deadline, path, 0, || open_fd(path, options.read_only))?;
        let file = File::from(fd);
        let block_device = is_block_device(&file, path)?;
        if block_device && !options.read_only {
            check_writable(&file, path)?;
        }
        wait_for(deadline, path, 1, || lock(&file, options.read_only))?;
        Self::adopt(file, path, block_device, options.read_only)
    }

    /// Creates `path`, which must not exist unless `replace`, and locks it.
    pub fn create(path: &Path, replace: bool) -> Result<Self, Error> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | creation(path, replace);
        let fd = rustix::fs::open(path, flags, Mode::from_raw_mode(0o644)).map_err(|errno| match errno {
            rustix::io::Errno::EXIST => Error::new(ErrorKind::Exists, "exists already")
                .at(path)
                .hint("--force replaces it"),
            rustix::io::Errno::BUSY => in_use(path, 0),
            rustix::io::Errno::ISDIR => no_image("a directory").at(path),
            _ => Error::new(ErrorKind::Open, "cannot be created").at(path).because(errno),
        })?;
        let file = File::from(fd);
        let block_device = is_block_device(&file, path)?;
        if block_device {
            check_writable(&file, path)?;
        }
        wait_for(Instant::now(), path, 1, || lock(&file, false))?;
        if !block_device {
            file.set_len(0)
                .map_err(|error| Error::new(ErrorKind::Io, "cannot be emptied").at(path).because(error))?;
        }
        Self::adopt(file, path, block_device, false)
    }

    fn adopt(file: File, path: &Path, block_device: bool, read_only: bool) -> Result<Self, Error> {
        // One description, two descriptors: the second goes to the queues, and both keep the lock alive.
        let shared = file.as_fd().try_clone_to_owned().map_err(|error| {
            Error::new(ErrorKind::Open, "cannot duplicate the descriptor")
                .at(path)
                .because(error)
        })?;
        Ok(Self {
            file,
            shared: Arc::new(shared),
            path: path.to_path_buf(),
            block_device,
            read_only,
        })
    }

    /// For the queues: the same open file description.
    pub fn handle(&self) -> FileHandle {
        FileHandle::Fd(Arc::clone(&self.shared))
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Was it opened for reading only?
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Gives the lock up before the file is closed: nobody may read or write by this description any more.
    pub(crate) fn unlock(&self) {
        if let Err(error) = unlock(&self.file) {
            tracing::warn!(path = %self.path.display(), %error, "image_still_locked: until nobody looks at it any more");
        }
    }

    /// Switches direct I/O (no page cache) on or off for everybody who uses this description.
    pub fn set_direct(&self, on: bool) -> io::Result<()> {
        let flags = rustix::fs::fcntl_getfl(&self.file)?;
        Ok(rustix::fs::fcntl_setfl(
            &self.file,
            if on {
                flags | OFlags::DIRECT
            } else {
                flags - OFlags::DIRECT
            },
        )?)
    }

    /// Why direct I/O in units of 512 bytes is impossible here; `None` if it is possible.
    pub fn direct_refusal(&self) -> Option<String> {
        // STATX_DIOALIGN, Linux 6.1; rustix has the fields, not the name.
        let dioalign = StatxFlags::from_bits_retain(0x2000);
        match rustix::fs::statx(&self.file, "", AtFlags::EMPTY_PATH, dioalign) {
            Ok(stat) if stat.stx_mask & dioalign.bits() == 0 => {
                Some("the file system does not say how to align it".into())
            }
            Ok(stat) if stat.stx_dio_offset_align == 0 => Some("the file system has no direct I/O".into()),
            Ok(stat) if stat.stx_dio_offset_align > 512 || stat.stx_dio_mem_align > 512 => Some(format!(
                "it needs offsets aligned to {} bytes and memory to {}, and disks have sectors of 512",
                stat.stx_dio_offset_align, stat.stx_dio_mem_align
            )),
            Ok(_) => None,
            Err(errno) => Some(format!("statx: {errno}")),
        }
    }

    /// Do seeks cost? Asked of block devices only.
    pub fn is_rotational(&self) -> bool {
        self.queue_limit("rotational") == Some(1)
    }

    /// The unit in which space can be given back, in bytes; 0 for a block device that takes none back, or cannot say that
    /// what it took reads as zeros.
    pub fn discard_granularity_bytes(&self) -> u32 {
        /// File systems are made of such blocks, or smaller ones.
        const BLOCK: u32 = 4096;
        match (
            self.queue_limit("write_zeroes_max_bytes"),
            self.queue_limit("discard_granularity"),
        ) {
            (Some(0), _) => 0,
            (_, Some(unit)) => u32::try_from(unit).unwrap_or(0),
            (_, None) => BLOCK,
        }
    }

    /// A limit of a block device, as `/sys` has it; a partition's is its disk's.
    fn queue_limit(&self, name: &str) -> Option<u64> {
        let queues = ["queue", "../queue"].iter().filter(|_| self.block_device);
        queues
            .filter_map(|queue| attribute(&self.file, &format!("{queue}/{name}")))
            .next()
    }

    /// The unit that is written without read-modify-write below, in bytes: what a block device says, else 4096.
    pub fn physical_block_bytes(&self) -> u32 {
        let size = if self.block_device {
            rustix::fs::ioctl_blkpbszget(&self.file).unwrap_or(4096)
        } else {
            4096
        };
        size.clamp(512, 1 << 16)
    }

    /// Has the file system set space aside for all of the file; `false` where it cannot do such a thing.
    pub(crate) fn reserve(&self) -> io::Result<bool> {
        use rustix::io::Errno;
        let len = self.len_bytes()?;
        let reserve = || rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, len);
        match rustix::io::retry_on_intr(reserve) {
            Ok(()) => Ok(true),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Is the byte at `offset` in a hole, and where does that end, or the data? Block devices, file systems without holes
    /// and what is behind the end of a file count as data without an end. Space that was allocated ahead and never written
    /// counts as a hole, as file systems see it.
    ///
    /// It moves the description's file position, which nobody uses.
    pub fn extent_at(&self, offset: u64) -> io::Result<FileExtent> {
        use rustix::fs::{SeekFrom, seek};
        use rustix::io::Errno;
        let endless = FileExtent::Data { end: u64::MAX };
        if self.block_device {
            return Ok(endless);
        }
        match seek(&self.file, SeekFrom::Data(offset)) {
            Ok(start) if start > offset => Ok(FileExtent::Hole { end: start }),
            Ok(_) => match seek(&self.file, SeekFrom::Hole(offset)) {
                Ok(end) if end > offset => Ok(FileExtent::Data { end }),
                // Somebody has punched it meanwhile, or cut the file short.
                Ok(_) | Err(Errno::NXIO) => Ok(endless),
                Err(errno) => Err(errno.into()),
            },
            Err(Errno::NXIO) => match self.len_bytes()? {
                end if end > offset => Ok(FileExtent::Hole { end }),
                _ => Ok(endless),
            },
            Err(Errno::INVAL) => Ok(endless),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl Storage for ImageFile {
    fn len_bytes(&self) -> io::Result<u64> {
        if self.block_device {
            Ok(rustix::fs::seek(&self.file, rustix::fs::SeekFrom::End(0))?)
        } else {
            Ok(self.file.metadata()?.size())
        }
    }

    fn is_block_device(&self) -> bool {
        self.block_device
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(buf, offset)
    }

    fn zero_range(&self, offset: u64, len: u64) -> io::Result<()> {
        use rustix::io::Errno;
        if len == 0 {
            return Ok(());
        }
        match rustix::fs::fallocate(
            &self.file,
            FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            offset,
            len,
        ) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => write_zeros(&self.file, offset, len),
            other => Ok(other?),
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if self.block_device {
            return Err(io::ErrorKind::Unsupported.into());
        }
        self.file.set_len(len)
    }
}

fn write_zeros(file: &File, offset: u64, len: u64) -> io::Result<()> {
    let zeros = vec![0; 1 << 20];
    let mut at = offset;
    while at < offset + len {
        let part = usize::try_from(offset + len - at).map_or(zeros.len(), |rest| rest.min(zeros.len()));
        file.write_all_at(&zeros[..part], at)?;
        at += part as u64;
    }
    Ok(())
}

/// Opens without waiting for anything (a FIFO would otherwise block); `Ok(None)`: in use, try again.
fn open_fd(path: &Path, read_only: bool) -> Result<Option<OwnedFd>, Error> {
    let access = if read_only { OFlags::RDONLY } else { OFlags::RDWR };
    let exclusive = !read_only && is_path_of_block_device(path);
    let flags = access | OFlags::CLOEXEC | OFlags::NONBLOCK | if exclusive { OFlags::EXCL } else { OFlags::empty() };
    match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(fd) => {
            // A non-blocking description would make io_uring fail ops that have to wait.
            rustix::fs::fcntl_getfl(&fd)
                .and_then(|flags| set_flags(&fd, flags - OFlags::NONBLOCK))
                .map_err(|errno| Error::new(ErrorKind::Open, "cannot be opened").at(path).because(errno))?;
            Ok(Some(fd))
        }
        Err(rustix::io::Errno::BUSY) => Ok(None),
        Err(errno) => {
            let error = match errno {
                rustix::io::Errno::NOENT if path.is_symlink() => {
                    Error::new(ErrorKind::Open, "is a symbolic link that leads nowhere")
                        .hint("make what it leads to, or remove it")
                }
                rustix::io::Errno::NOENT => Error::new(ErrorKind::Open, "does not exist")
                    .hint("`iomgr create` makes an image, `serve --create SIZE` too"),
                rustix::io::Errno::ACCESS | rustix::io::Errno::PERM if !read_only => {
                    Error::new(ErrorKind::Open, "may not be written by this user").hint("--read-only needs less")
                }
                rustix::io::Errno::ROFS => {
                    Error::new(ErrorKind::Open, "lies on a read-only file system").hint("try --read-only")
                }
                rustix::io::Errno::ISDIR => return Err(no_image("a directory").at(path)),
                _ => Error::new(ErrorKind::Open, "cannot be opened"),
            };
            Err(error.at(path).because(errno))
        }
    }
}

/// Sets a description's flags. When an image was read last is of no use to anybody, and to note it would cost every read; but only
/// its owner and root may do without.
fn set_flags(fd: &OwnedFd, flags: OFlags) -> rustix::io::Result<()> {
    let set = |flags| rustix::fs::fcntl_setfl(fd, flags);
    set(flags | OFlags::NOATIME).or_else(|_| set(flags))
}

/// How to create: a block device is there already, and O_EXCL then means what it means in [`is_path_of_block_device`].
fn creation(path: &Path, replace: bool) -> OFlags {
    match replace {
        false => OFlags::CREATE | OFlags::EXCL,
        true if is_path_of_block_device(path) => OFlags::EXCL,
        true => OFlags::CREATE,
    }
}

/// On a block device O_EXCL keeps out mounts and other exclusive users, which know nothing of file locks.
fn is_path_of_block_device(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|meta| meta.file_type().is_block_device())
}

fn is_block_device(file: &File, path: &Path) -> Result<bool, Error> {
    let meta = file
        .metadata()
        .map_err(|error| Error::new(ErrorKind::Open, "fstat failed").at(path).because(error))?;
    let kind = meta.file_type();
    if kind.is_block_device() || kind.is_file() {
        return Ok(kind.is_block_device());
    }
    let what = if kind.is_dir() { "a directory" } else { "not a file" };
    Err(no_image(what).at(path))
}

fn no_image(what: &str) -> Error {
    Error::new(ErrorKind::Open, format!("is {what}")).hint("images are regular files or block devices")
}

/// The kernel opens a device that may not be written for writing all the same, and then fails each write with EPERM.
fn check_writable(device: &File, path: &Path) -> Result<(), Error> {
    if attribute(device, "ro") != Some(1) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Open, "is a read-only block device")
        .at(path)
        .hint("--read-only serves it as it is, `blockdev --setrw` lets it be written"))
}

/// What `/sys` says of a block device, where that is a number.
fn attribute(device: &File, name: &str) -> Option<u64> {
    let device = device.metadata().ok()?.rdev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let text = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/{name}"));
    text.ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: FileOptions = FileOptions {
        read_only: false,
        lock_timeout: Duration::ZERO,
    };
    const READ: FileOptions = FileOptions {
        read_only: true,
        lock_timeout: Duration::ZERO,
    };

    #[test]
    fn one_writer_or_many_readers() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.img");
        let writer = ImageFile::create(&path, false).unwrap();
        let error = ImageFile::open(&path, NOW).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Locked);
        assert_eq!(error.parts().what, "is in use by this process");
        assert_eq!(ImageFile::open(&path, READ).unwrap_err().kind(), ErrorKind::Locked);
        drop(writer);
        let _readers = [
            ImageFile::open(&path, READ).unwrap(),
            ImageFile::open(&path, READ).unwrap(),
        ];
        assert_eq!(ImageFile::open(&path, NOW).unwrap_err().kind(), ErrorKind::Locked);
    }

    #[test]
    fn reads_leave_the_time_of_access_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.img");
        drop(ImageFile::create(&path, false).unwrap());
        let image = ImageFile::open(&path, READ).unwrap();
        let flags = rustix::fs::fcntl_getfl(&image.file).unwrap();
        assert!(flags.contains(OFlags::NOATIME) && !flags.contains(OFlags::NONBLOCK));
    }

    #[test]
    fn a_handle_keeps_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.img");
        let handle = ImageFile::create(&path, false).unwrap().handle();
        assert_eq!(ImageFile::open(&path, NOW).unwrap_err().kind(), ErrorKind::Locked);
        drop(handle);
        assert!(ImageFile::open(&path, NOW).is_ok());
    }

    #[test]
    fn a_fifo_and_a_directory_are_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("f.img");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(ImageFile::open(&fifo, READ).unwrap_err().kind(), ErrorKind::Open);
        assert_eq!(ImageFile::open(dir.path(), READ).unwrap_err().kind(), ErrorKind::Open);
    }

    #[test]
    fn create_replaces_only_when_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.img");
        std::fs::write(&path, "precious").unwrap();
        assert_eq!(ImageFile::create(&path, false).unwrap_err().kind(), ErrorKind::Exists);
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        ImageFile::create(&path, true).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"");
    }

    #[test]
    fn data_is_found_between_holes() {
        const KIB: u64 = 1 << 10;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.img");
        let file = ImageFile::create(&path, false).unwrap();
        file.set_len(1024 * KIB).unwrap();
        assert_eq!(file.extent_at(0).unwrap(), FileExtent::Hole { end: 1024 * KIB });
        file.write_at(&[1; 4096], 512 * KIB).unwrap();
        assert_eq!(file.extent_at(0).unwrap(), FileExtent::Hole { end: 512 * KIB });
        assert_eq!(file.extent_at(513 * KIB).unwrap(), FileExtent::Data { end: 516 * KIB });
        assert_eq!(file.extent_at(900 * KIB).unwrap(), FileExtent::Hole { end: 1024 * KIB });
        assert_eq!(file.extent_at(1024 * KIB).unwrap(), FileExtent::Data { end: u64::MAX });
    }
}
