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
    /// What the entry says for an address, where some drivers look for more.
    pub address: u64,
    /// The memory that the driver may use until the command has completed; [`Data::NONE`] if it uses none.
    pub data: Data,
}

impl Queue {
    /// Gives a command to a driver: `Ok(n)` or an error of the system's, as the driver answers. It counts as one of the
    /// [`net_ops`](crate::Config::net_ops), since it may take for ever.
    ///
    /// Memory or a file that does not exist ends the command alone, with `EINVAL` and `EBADF`; so does an engine other than
    /// io_uring, which has no such commands. A command in the kernel is not cancelled: the driver ends it.
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
            address,
            data,
        } = command;
        self.net_room()?;
        match self.arena.hold(data, Access::Fills) {
            Some((_, held)) => self.push_net(token, Work::Raw { op, payload, address }, Some(file), held),
            None => self.refuse_net(token, Errno::INVAL),
        }
    }

    /// Where memory is, for the payload of a command. `None`: it names no memory of this queue.
    pub fn address(&self, data: Data) -> Option<u64> {
        self.arena.locate(data)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use iomgr_core::{FileHandle, OpError, OpQueue, Owner};

    use super::*;
    use crate::{Config, EngineKind};

    const TOKEN: Token = Token::new(Owner(0), 7);

    fn queue(engine: EngineKind) -> Option<Queue> {
        let config = Config {
            engine,
            ..Config::default()
        };
        Queue::new(&config).map_err(|error| println!("skipped: {error}")).ok()
    }

    fn push(queue: &mut Queue, file: FileSlot, data: Data) {
        let command = RawCommand {
            file,
            op: 1,
            payload: [0; RAW_BYTES],
            address: 0,
            data,
        };
        // SAFETY: the command carries no address.
        unsafe { queue.push_raw(command, TOKEN) }.unwrap();
    }

    fn end(queue: &mut Queue) -> Result<u32, OpError> {
        queue.submit_and_wait(None).unwrap();
        let completion = queue.next_completion().unwrap();
        assert_eq!(completion.token, TOKEN);
        completion.result
    }

    #[test]
    fn memory_is_held_until_the_driver_has_answered() {
        for engine in [EngineKind::Uring, EngineKind::Sync] {
            let Some(mut queue) = queue(engine) else { return };
            let file = queue
                .add_file(&FileHandle::new(File::open("/dev/zero").unwrap()))
                .unwrap();
            let lease = queue.alloc(4096).unwrap();
            assert_eq!(queue.address(lease.data()).map(|address| address % 4096), Some(0));
            push(&mut queue, file, lease.data());
            assert!(queue.bytes(lease.data()).is_none(), "the driver may be at it");
            // No driver that has commands.
            assert!(matches!(end(&mut queue), Err(OpError::Os(_))));
            assert!(queue.bytes_mut(lease.data()).is_some());
            queue.free(lease);
            queue.remove_file(file);
            assert!(queue.is_idle());
        }
    }

    #[test]
    fn what_does_not_exist_ends_the_command_alone() {
        let Some(mut queue) = queue(EngineKind::Sync) else {
            return;
        };
        push(&mut queue, FileSlot(9), Data::NONE);
        assert_eq!(end(&mut queue), Err(OpError::Os(Errno::BADF)));
        let lease = queue.alloc(4096).unwrap();
        let gone = lease.data();
        queue.free(lease);
        assert_eq!(queue.address(gone), None);
        let file = queue
            .add_file(&FileHandle::new(File::open("/dev/zero").unwrap()))
            .unwrap();
        push(&mut queue, file, gone);
        assert_eq!(end(&mut queue), Err(OpError::Os(Errno::INVAL)));
    }
}
