//! The real driver: the one place where addresses are given to it and its memory is looked at.
#![allow(
    unsafe_code,
    reason = "commands carry addresses that the kernel follows, and it shares memory: both here, and only here"
)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;

use crossbeam_channel::{Receiver, bounded};
use iomgr_core::{Data, DataHome, Errno, FileHandle, FileSlot, OpError, OpQueue, Token};
use rustix::fs::{Access, access};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use tqueue::{ControlRing, NetFull, Queue, RawCommand, RawPlace, RawTarget};

use crate::abi::{Descriptor, QueueOp, control_command, queue_command, registered_at};
use crate::driver::{CharDevice, ControlCall, ControlPort, Delivery, Driver, QueuePort};
use crate::{CONTROL_PATH, Error, ErrorKind, block_path, char_path, descriptors_offset};

/// `prctl`'s number for it, which `libc` does not have.
const PR_SET_IO_FLUSHER: libc::c_int = 57;

/// The kernel's own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KernelDriver;

impl Driver for KernelDriver {
    fn control(&self) -> Result<Box<dyn ControlPort>, Error> {
        let device = open(Path::new(CONTROL_PATH)).map_err(|error| no_control(&error))?;
        let ring = ControlRing::new().map_err(|error| {
            Error::new(ErrorKind::Queue, "ublk needs io_uring, which cannot be had").caused_by(error)
        })?;
        Ok(Box::new(KernelControl { device, ring }))
    }

    fn open(&self, device: u32) -> Result<Arc<dyn CharDevice>, Error> {
        let path = char_path(device);
        let file = open(&path).map_err(|error| not_opened(&path, error))?;
        Ok(Arc::new(KernelDevice {
            file: Arc::new(file.into()),
        }))
    }

    fn may_use(&self, node: &Path) -> bool {
        access(node, Access::READ_OK | Access::WRITE_OK).is_ok()
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

fn no_control(error: &io::Error) -> Error {
    let errno = Errno::from_io_error(error).unwrap_or(Errno::IO);
    let (kind, text) = match errno {
        Errno::NOENT | Errno::NODEV | Errno::NXIO => (
            ErrorKind::NoDriver,
            format!("no {CONTROL_PATH}: the kernel has no ublk driver, or it is not loaded (`modprobe ublk_drv`)"),
        ),
        Errno::ACCESS | Errno::PERM => (
            ErrorKind::Denied,
            format!("this user may not use {CONTROL_PATH}; be root, or have an udev rule that permits it"),
        ),
        _ => (ErrorKind::Os, format!("{CONTROL_PATH} cannot be opened")),
    };
    Error::new(kind, text).caused_by(errno)
}

fn not_opened(path: &Path, error: io::Error) -> Error {
    let (kind, why) = match Errno::from_io_error(&error) {
        Some(Errno::BUSY) => (ErrorKind::Busy, "another process serves this device"),
        Some(Errno::NOENT) => (ErrorKind::Os, "there is no such node; is /dev a devtmpfs here?"),
        Some(Errno::ACCESS | Errno::PERM) => (ErrorKind::Denied, "this user may not open it"),
        _ => (ErrorKind::Os, "cannot be opened"),
    };
    Error::new(kind, format!("{}: {why}", path.display())).caused_by(error)
}

/// The control device and its ring.
#[derive(Debug)]
struct KernelControl {
    device: File,
    ring: ControlRing,
}

impl ControlPort for KernelControl {
    fn run(&mut self, call: ControlCall, structure: &mut [u8]) -> Result<(), Errno> {
        let path = call.by_path.then(|| char_path(call.device).into_os_string().into_vec());
        // With its end, as C has it.
        let path = path.map(|path| [path, vec![0]].concat()).unwrap_or_default();
        let buffer = self.ring.buffer().get_mut(..path.len() + structure.len());
        let (path_place, place) = buffer.ok_or(Errno::NOTCONN)?.split_at_mut(path.len());
        path_place.copy_from_slice(&path);
        place.copy_from_slice(structure);
        let short = |len: usize| u16::try_from(len).expect("paths and structures are short");
        let lens = (short(path.len() + structure.len()), short(path.len()));
        let address = if lens.0 == 0 { 0 } else { self.ring.buffer_address() };
        let mut payload = [0; ControlRing::PAYLOAD_BYTES];
        let command = control_command(call.device, lens, address, call.data);
        payload[..command.len()].copy_from_slice(&command);
        // SAFETY: the command names the ring's own buffer, which is longer than what it says, or no memory at all.
        unsafe {
            self.ring
                .run(self.device.as_fd(), call.op.number(), payload, call.timeout)
        }?;
        let len = structure.len();
        structure.copy_from_slice(&self.ring.buffer()[path.len()..][..len]);
        Ok(())
    }

    fn write_back(&self, device: u32) -> Receiver<Result<(), Errno>> {
        let (written, receiver) = bounded(1);
        let sync = move || {
            let synced = File::open(block_path(device)).and_then(|block| block.sync_all());
            // Nobody waits when a queue thread has failed.
            let _nobody = written.send(synced.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO)));
        };
        // Without a thread the receiver hears that nobody will tell.
        let _thread = std::thread::Builder::new().name("write-back".into()).spawn(sync);
        receiver
    }
}

/// `/dev/ublkcN`.
#[derive(Debug)]
struct KernelDevice {
    file: Arc<OwnedFd>,
}

impl CharDevice for KernelDevice {
    fn open_queue(&self, index: u16, depth: u16, io: &mut Queue) -> Result<Box<dyn QueuePort>, Error> {
        become_io_flusher();
        let fail = |what: &'static str| {
            move |errno: Errno| Error::new(ErrorKind::Os, format!("queue {index}: {what}")).caused_by(errno)
        };
        let descriptors =
            Descriptors::map(&self.file, index, depth).map_err(fail("its descriptors cannot be mapped"))?;
        let file = io.add_file(&FileHandle::Fd(Arc::clone(&self.file)));
        Ok(Box::new(KernelQueue {
            index,
            file: file.map_err(fail("its device cannot be registered"))?,
            descriptors,
            tags: vec![None; depth.into()].into(),
        }))
    }
}

/// One queue of it.
#[derive(Debug)]
struct KernelQueue {
    index: u16,
    file: FileSlot,
    descriptors: Descriptors,
    /// Those that were fetched.
    tags: Box<[Option<KernelTag>]>,
}

/// A tag that was fetched.
#[derive(Clone, Copy, Debug)]
struct KernelTag {
    place: RawPlace,
    /// Where its buffer is: a tag keeps the one that it was fetched with. 0 with zero copy.
    copied: u64,
}

impl KernelQueue {
    fn push(&self, io: &mut Queue, op: QueueOp, tag: u16, result: i32) -> Result<(), NetFull> {
        let KernelTag { place, copied } = self.tags[usize::from(tag)].expect("a tag is fetched before all else");
        let command = RawCommand {
            op: op.number(),
            payload: queue_command(self.index, tag, result, copied),
        };
        // SAFETY: for this tag the driver copies to and from the buffer that the command names, which is the tag's for good, no
        // more than the device's largest request, which is as long as the buffer (`Tags::new`); and only between the command's issue and its
        // completion: a read's data when it commits, a write's when it delivers. With zero copy it names none, and the
        // driver touches no memory of ours.
        unsafe { io.push_raw(place, command) }
    }
}

impl QueuePort for KernelQueue {
    fn fetch(&mut self, io: &mut Queue, tag: u16, buffer: Data, token: Token) -> Result<(), Errno> {
        let (copied, address, data) = match buffer.home {
            DataHome::Registered(_) => (0, registered_at(tag), Data::NONE),
            _ => (io.address(buffer).ok_or(Errno::INVAL)?, 0, buffer),
        };
        let file = self.file;
        let place = io.add_place(RawTarget { file, address, data }, token)?;
        self.tags[usize::from(tag)] = Some(KernelTag { place, copied });
        self.push(io, QueueOp::Fetch, tag, 0).map_err(|NetFull| Errno::NOBUFS)
    }

    fn commit(&mut self, io: &mut Queue, tag: u16, result: i32) -> Result<(), NetFull> {
        self.push(io, QueueOp::CommitAndFetch, tag, result)
    }

    fn delivered(&mut self, _io: &mut Queue, tag: u16, result: Result<u32, OpError>) -> Result<Delivery, Errno> {
        match result {
            Ok(0) => Ok(Delivery::Request(self.descriptors.read(tag))),
            // `UBLK_IO_RES_ABORT`.
            Err(OpError::Os(Errno::NODEV)) => Ok(Delivery::Aborted),
            Err(error) => Err(error.errno()),
            // It would want data to be fetched in a second step, which was not asked for.
            Ok(_) => Err(Errno::PROTO),
        }
    }

    fn close(self: Box<Self>, io: &mut Queue) {
        let tags = self.tags.iter().flatten();
        tags.for_each(|tag| io.remove_place(tag.place));
        io.remove_file(self.file);
    }
}

/// A descriptor in the kernel's memory: in words, as a volatile read goes piece by piece.
type DescriptorWords = [u64; Descriptor::BYTES / 8];

/// The descriptors of a queue, which the kernel writes and we read.
#[derive(Debug)]
struct Descriptors {
    base: NonNull<DescriptorWords>,
    len: usize,
    depth: u16,
}

impl Descriptors {
    fn map(device: &OwnedFd, queue: u16, depth: u16) -> Result<Self, Errno> {
        let page = rustix::param::page_size();
        let len = (usize::from(depth) * Descriptor::BYTES).next_multiple_of(page);
        let flags = MapFlags::SHARED | MapFlags::POPULATE;
        // SAFETY: a fresh mapping, at an address that the kernel chooses, touches no memory of ours.
        let base = unsafe {
            mmap(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ,
                flags,
                device,
                descriptors_offset(queue, page as u64),
            )
        }?;
        Ok(Self {
            base: NonNull::new(base.cast()).ok_or(Errno::NOMEM)?,
            len,
            depth,
        })
    }

    /// A tag's descriptor, after its command has completed: until the request is committed the kernel leaves it alone.
    fn read(&self, tag: u16) -> Descriptor {
        assert!(tag < self.depth, "a tag lies below the depth");
        // SAFETY: the tag's descriptor lies in the mapping, which is as long as `depth` of them.
        let place = unsafe { self.base.add(usize::from(tag)) };
        // SAFETY: the place is mapped and readable, and any bytes are valid; the kernel wrote it before it completed the
        // command, and does not write now. Volatile, because it does so behind the compiler's back.
        let words = unsafe { place.read_volatile() };
        let bytes = words.map(u64::to_ne_bytes);
        Descriptor::parse(bytes.as_flattened().try_into().expect("as many bytes as words have"))
    }
}

impl Drop for Descriptors {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no reference into it was ever made.
        let _unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// Lets the kernel know that memory is written back through this thread: it must not wait for that itself.
fn become_io_flusher() {
    // SAFETY: it changes flags of the calling thread, and touches no memory.
    let done = unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) };
    if done != 0 {
        let error = io::Error::last_os_error();
        tracing::warn!(%error, "io_flusher_denied: when memory is short, writing it back through this device may wait for itself");
    }
}
