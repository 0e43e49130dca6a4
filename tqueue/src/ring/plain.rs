//! Plain calls for files that lie in memory: no ring, no worker thread.

use std::io;
use std::os::fd::RawFd;

use super::Ring;
use crate::buf::Arena;
use crate::engine::{Call, Surroundings};

impl Ring {
    /// Does the work of a disk call right here, with the result that a completion entry would carry.
    pub(super) fn plain_call(&mut self, fd: RawFd, call: Call, on: &Surroundings<'_>) -> Option<i32> {
        match call {
            // It has no address here.
            Call::Read { run, .. } | Call::Write { run, .. } if run.driver().is_some() => None,
            // On a file in memory there is nothing to be made durable.
            Call::WriteMany { offset, .. } => {
                let durable = false;
                let call = Call::WriteMany { offset, durable };
                Some(self.vectors.call(fd, call, on.runs, on.arena))
            }
            Call::ReadMany { .. } => Some(self.vectors.call(fd, call, on.runs, on.arena)),
            _ => single(fd, call, on.arena),
        }
    }
}

fn single(fd: RawFd, call: Call, arena: &Arena) -> Option<i32> {
    let result = match call {
        Call::Read { offset, run } => {
            // SAFETY: the op holds the run; the call fills it, and no Rust reference to it exists meanwhile.
            unsafe { libc::pread64(fd, arena.address(run).cast(), run.len() as usize, offset.cast_signed()) }
        }
        // On a file in memory there is nothing to be made durable.
        Call::Write { offset, run, .. } => {
            // SAFETY: the op holds the run, so it stays mapped; the call only reads it.
            unsafe { libc::pwrite64(fd, arena.address(run).cast(), run.len() as usize, offset.cast_signed()) }
        }
        Call::Sync => 0,
        // It is in memory.
        Call::WillNeed { .. } => 0,
        Call::Punch { offset, len } => plain_allocate(fd, offset, len, libc::FALLOC_FL_PUNCH_HOLE),
        Call::ZeroRange { offset, len } => plain_allocate(fd, offset, len, libc::FALLOC_FL_ZERO_RANGE),
        _ => return None,
    };
    Some(match i32::try_from(result) {
        Ok(n) if n >= 0 => n,
        _ => -io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO),
    })
}

fn plain_allocate(fd: RawFd, offset: u64, len: u64, mode: i32) -> isize {
    let mode = mode | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: no memory is involved.
    unsafe { libc::fallocate64(fd, mode, offset.cast_signed(), len.cast_signed()) as isize }
}
