//! Commands of a kernel driver (`IORING_OP_URING_CMD`) among the ops of a queue: 16 bytes that only the driver understands.
//!
//! A ublk server fetches and commits requests with these, on the very ring that carries the I/O which they cause.
#![allow(
    unsafe_code,
    reason = "a command may carry addresses that the kernel will follow; only who builds it can know"
)]

use iomgr_core::{Data, Errno, FileSlot, Token};

use crate::buf::Access;
use crate::inflight::Work;
use crate::{NetFull, Queue};

/// Bytes of a command besides its number: what an entry of the usual size has room for.
pub const RAW_BYTES: usize = 16;

/// A command for the driver behind a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawCommand {
    /// The driver's file.
    pub file: FileSlot,
    /// The driver's number of the command.
    pub op: u32,
    /// What the driver is told.
    pub payload: [u8; RAW_BYTES],
    /// The memory that the driver may use until the command has completed; [`Data::NONE`] if it uses none.
    pub data: Data,
}

impl Queue {
    /// Gives a command to a driver: `Ok(n)` or an error of the system's, as the driver answers. It counts as one of the
    /// [`net_ops`](crate::Config::net_ops), since it may take for ever.
    ///
    /// Memory or a file that does not exist ends the command alone, with `EINVAL` and `EBADF`; so does an engine other than
    /// io_uring, with `EINVAL`. A command in the kernel is not cancelled: the driver ends it.
    ///
    /// # Safety
    /// Whatever memory the driver touches on account of this command, before it completes, lies in `command.data`, which the
    /// queue holds until then, as it does for a read: nobody can look at it, and it is not leased again. After the
    /// completion the driver touches none of it.
    pub unsafe fn push_raw(&mut self, command: RawCommand, token: Token) -> Result<(), NetFull> {
        let RawCommand {
            file,
            op,
            payload,
            data,
        } = command;
        self.net_room()?;
        match self.arena.hold(data, Access::Fills) {
            Some((_, held)) => self.push_net(token, Work::Raw { op, payload }, Some(file), held),
            None => self.refuse_net(token, Errno::INVAL),
        }
    }

    /// Where memory is, for the payload of a command. `None`: it names no memory of this queue.
    pub fn address(&self, data: Data) -> Option<u64> {
        self.arena.locate(data)
    }
}
