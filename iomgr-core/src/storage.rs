//! Blocking access to one file: what opening, checking and repairing an image need.

use std::io;

/// A file or block device, by blocking calls. The data path never uses it: it goes through [`OpQueue`](crate::OpQueue).
///
/// A shell implements it for real files; the simulated disk implements it too, so that images open after a simulated
/// power cut by the same code.
pub trait Storage {
    /// Size in bytes; a block device's capacity.
    fn len_bytes(&self) -> io::Result<u64>;

    /// Is it a block device: fixed in size, and with bytes of its past where a fresh file would have zeros?
    fn is_block_device(&self) -> bool;

    /// Fills `buf` from byte `offset`. `UnexpectedEof` where the file ends before.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all of `buf` at byte `offset`, growing a file where needed.
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()>;

    /// Makes `len` bytes from `offset` read as zeros, as a hole where the file allows it. Never changes the size.
    fn zero_range(&self, offset: u64, len: u64) -> io::Result<()>;

    /// Makes everything written so far survive a power cut (`fdatasync`).
    fn sync(&self) -> io::Result<()>;

    /// Cuts or grows a file to `len` bytes; the grown part reads as zeros. A block device answers `Unsupported`.
    fn set_len(&self, len: u64) -> io::Result<()>;
}

impl<S: Storage + ?Sized> Storage for &S {
    fn len_bytes(&self) -> io::Result<u64> {
        (**self).len_bytes()
    }

    fn is_block_device(&self) -> bool {
        (**self).is_block_device()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        (**self).read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        (**self).write_at(buf, offset)
    }

    fn zero_range(&self, offset: u64, len: u64) -> io::Result<()> {
        (**self).zero_range(offset, len)
    }

    fn sync(&self) -> io::Result<()> {
        (**self).sync()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        (**self).set_len(len)
    }
}
