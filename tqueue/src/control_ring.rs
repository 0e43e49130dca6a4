//! A ring for the control commands of a driver: one at a time, 80 bytes each, waited for.
//!
//! ```text
//!  buffer ─► payload names its address ─► IORING_OP_URING_CMD, 128-byte entry ─► wait ─► buffer holds the answer
//! ```
//!
//! # Contract
//! - The buffer belongs to the kernel while a command is on its way, and to the caller in between.
//! - A command that does not end in time takes ring and buffer with it: they are leaked rather than freed under the
//!   kernel's hands, and every further command fails.
#![allow(
    unsafe_code,
    reason = "a command may carry addresses that the kernel will follow; only who builds it can know"
)]

use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use rustix::io::Errno;

use crate::engine::clock;
use crate::{Error, setup};

/// Bytes of the buffer: more than any control structure has.
const BUFFER_BYTES: usize = 4096;

/// A ring for control commands.
pub struct ControlRing {
    uring: ManuallyDrop<IoUring<squeue::Entry128, cqueue::Entry>>,
    buffer: ManuallyDrop<Box<[u8; BUFFER_BYTES]>>,
    /// A command did not end.
    lost: bool,
}

impl std::fmt::Debug for ControlRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ControlRing")
            .field("lost", &self.lost)
            .finish_non_exhaustive()
    }
}

impl ControlRing {
    /// Bytes of a command besides its number.
    pub const PAYLOAD_BYTES: usize = 80;

    /// Sets a ring up.
    pub fn new() -> Result<Self, Error> {
        let uring = IoUring::<squeue::Entry128, cqueue::Entry>::builder()
            .dontfork()
            .build(1);
        let uring = uring.map_err(|error| setup::no_ring(&error, 1))?;
        Ok(Self {
            uring: ManuallyDrop::new(uring),
            buffer: ManuallyDrop::new(Box::new([0; BUFFER_BYTES])),
            lost: false,
        })
    }

    /// The memory that commands may name.
    pub fn buffer(&mut self) -> &mut [u8] {
        // A lost command still works on the memory, which nobody may see any more.
        let len = if self.lost { 0 } else { BUFFER_BYTES };
        &mut self.buffer[..len]
    }

    /// Where it is.
    pub fn buffer_address(&mut self) -> u64 {
        self.buffer.as_mut_ptr().expose_provenance() as u64
    }

    /// Runs a command of the driver behind `file`, and waits for its end: the driver's answer.
    ///
    /// # Errors
    /// The driver's; `TIMEDOUT` when it did not end in time, and `NOTCONN` ever after.
    ///
    /// # Safety
    /// The only memory that the driver touches on account of this command is [`buffer`](Self::buffer).
    pub unsafe fn run(
        &mut self,
        file: BorrowedFd<'_>,
        op: u32,
        payload: [u8; Self::PAYLOAD_BYTES],
        timeout: Duration,
    ) -> Result<u32, Errno> {
        if self.lost {
            return Err(Errno::NOTCONN);
        }
        let entry = opcode::UringCmd80::new(Fd(file.as_raw_fd()), op).cmd(payload).build();
        // SAFETY: the only memory that the entry names is the buffer, by this function's contract; it lives until the command
        // has ended, or for ever.
        unsafe { self.uring.submission().push(&entry) }.expect("one command at a time, in a ring with room for one");
        self.wait(timeout)
    }

    fn wait(&mut self, timeout: Duration) -> Result<u32, Errno> {
        let deadline = clock() + timeout;
        loop {
            if let Some(done) = self.uring.completion().next() {
                let failed = || Errno::from_raw_os_error(-done.result());
                return u32::try_from(done.result()).map_err(|_| failed());
            }
            let left = deadline.since(clock());
            if left.is_zero() {
                self.lost = true;
                return Err(Errno::TIMEDOUT);
            }
            let time = Timespec::new().sec(left.as_secs()).nsec(left.subsec_nanos());
            let entered = self
                .uring
                .submitter()
                .submit_with_args(1, &SubmitArgs::new().timespec(&time));
            match entered.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO)) {
                Ok(_) | Err(Errno::INTR | Errno::TIME | Errno::AGAIN | Errno::BUSY) => {}
                Err(errno) => {
                    // Whether the kernel has seen the command is not known.
                    self.lost = true;
                    return Err(errno);
                }
            }
        }
    }
}

impl Drop for ControlRing {
    fn drop(&mut self) {
        if self.lost {
            tracing::error!("control_ring_leaked: a command did not end; the ring and its buffer are not freed");
            return;
        }
        // SAFETY: dropped once, here, and never used again.
        unsafe { ManuallyDrop::drop(&mut self.uring) };
        // SAFETY: likewise; no command is on its way.
        unsafe { ManuallyDrop::drop(&mut self.buffer) };
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    /// A file whose driver has no commands answers at once; the ring goes on.
    #[test]
    fn the_driver_s_answer_comes_back() {
        let Ok(mut ring) = ControlRing::new() else {
            return println!("skipped: no ring with 128-byte entries here");
        };
        let null = std::fs::File::open("/dev/zero").unwrap();
        for _ in 0..3 {
            // SAFETY: no address is given.
            let answer = unsafe { ring.run(null.as_fd(), 7, [0; 80], Duration::from_secs(10)) };
            assert!(answer.is_err(), "{answer:?}");
            assert_ne!(answer, Err(Errno::TIMEDOUT));
            assert_eq!(ring.buffer().len(), BUFFER_BYTES);
        }
    }
}
