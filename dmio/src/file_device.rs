//! A plain file or block device as a device: its bytes from the first on, past the page cache where that is possible.
//!
//! It is lean: one op for a request, and nothing is tried again. Images with a format, a lock, retries and statistics are the
//! business of others; every [`Device`] can be a client's.
//!
//! # Contract
//! - One queue at a time: the kernel tells of a failed write-back once per open file description, so each queue has one of
//!   its own. Open the path again for another client.
//! - Requests that want a flush share one; a flush covers what had ended when it was asked for.
//! - Nothing locks the file: whoever else writes to it is not kept out.
//!
//! # Cancellation
//! What waits in the queue of ops never starts. What the kernel has goes on to its own end, unless the kernel says that it
//! had not begun.
//!
//! # Errors
//! A flush that fails is final: from then on writes and flushes fail with `EIO` until the path is opened again, as nobody can know
//! what of the page cache has become durable.

mod open;
mod queue;

use std::error::Error as StdError;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use iomgr_core::{Device, DeviceQueue, FileHandle, Limits, QueueContext};

use self::queue::FileQueue;
use crate::Error;

/// How to open a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileOptions {
    /// Open for reading only.
    pub read_only: bool,
    /// Use the page cache even where direct I/O is possible.
    pub buffered: bool,
}

/// See the module.
#[derive(Debug)]
pub struct FileDevice {
    name: String,
    file: FileHandle,
    limits: Limits,
    shared: Arc<Shared>,
}

/// What a device and its queue both look at.
#[derive(Debug)]
struct Shared {
    /// Writes are durable by themselves where they are asked to be, because no page cache lies between.
    is_direct: bool,
    has_queue: AtomicBool,
    /// A flush failed.
    has_failed: AtomicBool,
}

impl FileDevice {
    /// Opens a regular file or a block device, as large as it is now; a tail shorter than a logical block is cut off.
    ///
    /// With direct I/O, regions and memory are aligned as the file wants it: see [`Limits::logical_block_bytes`], 4096 at most for
    /// memory. Where the file has none, or wants more than 4096 bytes, the page cache is used.
    pub fn open(path: &Path, options: FileOptions) -> Result<Self, Error> {
        let (file, limits, is_direct) = open::open(path, options)?;
        Ok(Self::with_file(path.display().to_string(), file, limits, is_direct))
    }

    /// A device over a file that is open already, or a simulated one, with the limits that are given.
    pub fn over(name: impl Into<String>, file: FileHandle, limits: Limits) -> Self {
        let is_direct = file.fd().is_none_or(open::is_direct);
        Self::with_file(name.into(), file, limits, is_direct)
    }

    fn with_file(name: String, file: FileHandle, limits: Limits, is_direct: bool) -> Self {
        let shared = Shared {
            is_direct,
            has_queue: AtomicBool::new(false),
            has_failed: AtomicBool::new(false),
        };
        Self {
            name,
            file,
            limits,
            shared: Arc::new(shared),
        }
    }

    /// Is it read and written past the page cache?
    pub fn is_direct(&self) -> bool {
        self.shared.is_direct
    }
}

impl Device for FileDevice {
    fn name(&self) -> &str {
        &self.name
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn open_queue(&self, cx: QueueContext<'_>) -> Result<Box<dyn DeviceQueue>, Box<dyn StdError + Send + Sync>> {
        if cx.count > 1 || self.shared.has_queue.swap(true, Ordering::AcqRel) {
            let text = format!("{} has a queue already: open the path again for another one", self.name);
            return Err(text.into());
        }
        match cx.io.add_file(&self.file) {
            Ok(file) => Ok(Box::new(FileQueue::new(
                Arc::clone(&self.shared),
                self.limits,
                file,
                &cx,
            ))),
            Err(errno) => {
                self.shared.has_queue.store(false, Ordering::Release);
                Err(format!("the queue of ops cannot take {}: {errno}", self.name).into())
            }
        }
    }
}

#[cfg(test)]
mod tests;
