//! Memory of one's own that a queue can take in for a time: whole pages, zeroed.

use std::fmt;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::slice;

use rustix::mm::munmap;

use super::{PAGE, map};
use crate::{Error, ErrorKind};

/// Memory aligned to 4096 bytes, as direct I/O wants it, that a [`Queue`](crate::Queue) works on while it is
/// [lent](crate::Queue::lend) to it. It is a mapping of its own, which no child process inherits.
pub struct AlignedBuf {
    base: NonNull<u8>,
    len: u32,
}

// SAFETY: the mapping is owned, as a boxed slice owns its bytes.
unsafe impl Send for AlignedBuf {}
// SAFETY: a shared reference only reads.
unsafe impl Sync for AlignedBuf {}

impl AlignedBuf {
    /// `len` zeros; at least one.
    pub fn new(len: u32) -> Result<Self, Error> {
        if len == 0 {
            return Err(Error::config("a buffer has at least one byte"));
        }
        let base = map(mapped_bytes(len)).map_err(|errno| {
            let context = format!("mapping {len} bytes for a buffer (address space, overcommit or `ulimit -v`)");
            Error::new(ErrorKind::Memory, context, errno)
        })?;
        Ok(Self { base, len })
    }

    /// A copy of `bytes`: at least one, and less than 4 GiB.
    pub fn copied_from(bytes: &[u8]) -> Result<Self, Error> {
        let len = u32::try_from(bytes.len()).map_err(|_| Error::config("a buffer is shorter than 4 GiB"))?;
        let mut buf = Self::new(len)?;
        buf.copy_from_slice(bytes);
        Ok(buf)
    }

    /// How long it is.
    pub fn len_bytes(&self) -> u32 {
        self.len
    }

    pub(super) fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// Leaves it to the kernel for good.
    pub(super) fn leak(self) {
        let _kept = ManuallyDrop::new(self);
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the mapping is as long, initialised (anonymous) and ours; nobody writes to it while `self` is borrowed.
        unsafe { slice::from_raw_parts(self.base.as_ptr(), self.len as usize) }
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` keeps every other reference away.
        unsafe { slice::from_raw_parts_mut(self.base.as_ptr(), self.len as usize) }
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no reference into it outlives `self`. A queue that works on it keeps it.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), mapped_bytes(self.len)) };
    }
}

impl fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AlignedBuf")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

fn mapped_bytes(len: u32) -> usize {
    (len as usize).next_multiple_of(PAGE as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_aligned_zeroed_and_as_long_as_asked_for() {
        let mut buf = AlignedBuf::new(5000).unwrap();
        assert_eq!((buf.base().addr() % 4096, buf.len_bytes()), (0, 5000));
        assert!(buf.len() == 5000 && buf.iter().all(|&byte| byte == 0));
        buf.fill(7);
        assert_eq!(*AlignedBuf::copied_from(&buf).unwrap(), [7; 5000]);
        assert!(AlignedBuf::new(0).is_err());
    }
}
