//! Vectors: the parts of memory that one call fills or writes, as the kernel wants them.
//!
//! # Contract
//! The ring's vectors stay as they are until the kernel has consumed the entries that point to them. It copies them then
//! (`IORING_FEAT_SUBMIT_STABLE`, which the setup insists on), so they can be made anew while the ops go on.

use std::io;
use std::os::fd::RawFd;

use crate::buf::Arena;
use crate::engine::Call;
use crate::run::Run;

/// Room for the vectors of some calls, one behind the other, and behind them for that of a call made right here.
pub(crate) struct Vectors {
    parts: Box<[libc::iovec]>,
    /// Where the room for a call made here begins: the kernel may still have to look at what lies before.
    here: usize,
    used: usize,
}

/// One call's vector.
#[derive(Clone, Copy)]
pub(super) struct Vector {
    pub(super) parts: *const libc::iovec,
    pub(super) count: u32,
}

const NOTHING: libc::iovec = libc::iovec {
    iov_base: std::ptr::null_mut(),
    iov_len: 0,
};

impl std::fmt::Debug for Vectors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vectors")
            .field("used", &self.used)
            .finish_non_exhaustive()
    }
}

impl Vectors {
    /// Room for `kept` parts in all, and `most` parts of a call made here.
    pub(crate) fn new(kept: u32, most: u32) -> Self {
        Self {
            parts: vec![NOTHING; (kept + most) as usize].into(),
            here: kept as usize,
            used: 0,
        }
    }

    /// Forgets all vectors; nobody may look at them any more.
    pub(super) fn clear(&mut self) {
        self.used = 0;
    }

    /// Is there room for `count` parts that stay?
    pub(super) fn has_room(&self, count: usize) -> bool {
        self.here - self.used >= count
    }

    /// Makes a vector that stays until [`clear`](Self::clear).
    pub(super) fn keep(&mut self, runs: &[Run], arena: &Arena) -> Vector {
        let vector = self.fill(self.used, runs, arena);
        self.used += runs.len();
        vector
    }

    /// Reads or writes right here, in one system call; the result is as in a completion entry.
    pub(crate) fn call(&mut self, fd: RawFd, call: Call, runs: &[Run], arena: &Arena) -> i32 {
        let Vector { parts, count } = self.fill(self.here, runs, arena);
        let count = i32::try_from(count).expect("vectors are short");
        let moved = match call {
            Call::ReadMany { offset } => {
                // SAFETY: the ops hold the runs; the call fills them, and no Rust reference to them exists meanwhile.
                unsafe { libc::preadv(fd, parts, count, offset.cast_signed()) }
            }
            Call::WriteMany { offset, durable } => {
                let flags = if durable { libc::RWF_DSYNC } else { 0 };
                // SAFETY: the ops hold the runs, so they stay mapped; the call only reads them.
                unsafe { libc::pwritev2(fd, parts, count, offset.cast_signed(), flags) }
            }
            _ => unreachable!("only reads and writes are merged"),
        };
        match i32::try_from(moved) {
            Ok(n) if n >= 0 => n,
            _ => -io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO),
        }
    }

    fn fill(&mut self, at: usize, runs: &[Run], arena: &Arena) -> Vector {
        let parts = &mut self.parts[at..][..runs.len()];
        for (part, run) in parts.iter_mut().zip(runs) {
            part.iov_base = arena.address(*run).cast();
            part.iov_len = run.len() as usize;
        }
        Vector {
            parts: parts.as_ptr(),
            count: u32::try_from(runs.len()).expect("vectors are short"),
        }
    }
}
