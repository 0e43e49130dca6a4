//! Commands of a kernel driver (`IORING_OP_URING_CMD`) among the ops of a queue: 16 bytes that only the driver understands.
//!
//! A ublk server fetches and commits requests with these, on the very ring that carries the I/O which they cause.
#![allow(
    unsafe_code,
    reason = "a command may carry addresses that the kernel will follow; only who builds it can know"
)]

use std::collections::VecDeque;

use iomgr_core::{Data, Errno, FileSlot, OpError, Token};

use crate::buf::{Access, Held};
use crate::engine::Engine;
use crate::files::FileIndex;
use crate::inflight::Key;
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

/// What the ring is told of a command.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Command {
    pub(crate) file: FileIndex,
    pub(crate) op: u32,
    pub(crate) payload: [u8; RAW_BYTES],
    pub(crate) address: u64,
}

/// The commands that have not completed. They are none of the queue's other ops: nothing of them is ever continued, retried,
/// cancelled or watched.
#[derive(Debug)]
pub(crate) struct Commands {
    given: Box<[Option<Given>]>,
    vacant: Vec<u32>,
    /// Those that found no room in the ring, oldest first.
    waiting: VecDeque<(u32, Command)>,
}

/// What is kept for a command until it has completed.
#[derive(Clone, Copy, Debug)]
struct Given {
    token: Token,
    file: FileIndex,
    held: Option<Held>,
}

impl Commands {
    pub(crate) fn new(count: u32) -> Self {
        Self {
            given: vec![None; count as usize].into(),
            vacant: (0..count).rev().collect(),
            waiting: VecDeque::with_capacity(count as usize),
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.given.len() - self.vacant.len()
    }

    /// The tokens of all.
    pub(crate) fn tokens(&self) -> impl Iterator<Item = Token> {
        self.given.iter().flatten().map(|given| given.token)
    }

    fn insert(&mut self, given: Given) -> u32 {
        let place = self.vacant.pop().expect("as many places as ops of the kind");
        self.given[place as usize] = Some(given);
        place
    }

    fn at(&self, place: u32) -> &Given {
        self.given[place as usize].as_ref().expect("a command that was given")
    }

    fn remove(&mut self, place: u32) -> Given {
        self.vacant.push(place);
        self.given[place as usize].take().expect("a command completes once")
    }
}

impl Queue {
    /// Gives a command to a driver: `Ok(n)` or an error of the system's, as the driver answers. It counts as one of the
    /// [`net_ops`](crate::Config::net_ops), since it may take for ever.
    ///
    /// Memory or a file that does not exist ends the command alone, with `EINVAL` and `EBADF`; an engine other than io_uring has
    /// no such commands (`EOPNOTSUPP`). A command in the kernel is not cancelled: the driver ends it.
    ///
    /// # Safety
    /// Whatever memory the driver touches on account of this command, before it completes, lies in `command.data`, which the
    /// queue holds until then, as it does for a read: nobody can look at it, and it is not leased again. After the
    /// completion the driver touches none of it.
    pub unsafe fn push_raw(&mut self, command: RawCommand, token: Token) -> Result<(), NetFull> {
        self.net_room()?;
        if !matches!(self.engine, Engine::Ring(_)) {
            return self.refuse_net(token, Errno::OPNOTSUPP);
        }
        let Some(file) = self.files.take(command.file) else {
            return self.refuse_net(token, Errno::BADF);
        };
        let Some((_, held)) = self.arena.hold(command.data, Access::Fills) else {
            self.file_done(file);
            return self.refuse_net(token, Errno::INVAL);
        };
        self.counters.pushed += 1;
        self.load.net += 1;
        let RawCommand {
            op, payload, address, ..
        } = command;
        let place = self.commands.insert(Given { token, file, held });
        let command = Command {
            file,
            op,
            payload,
            address,
        };
        // Right away, so that nothing is done twice for it; but behind those that found no room in the ring.
        if !self.commands.waiting.is_empty() || !self.issue_command(place, &command) {
            self.commands.waiting.push_back((place, command));
        }
        Ok(())
    }

    fn issue_command(&mut self, place: u32, command: &Command) -> bool {
        let issued = self.engine.command(Key::of_command(place), command, &self.files);
        self.load.net_issued += u32::from(issued);
        self.counters.sqes += u64::from(issued);
        issued
    }

    /// Issues those that found no room.
    pub(crate) fn fill_commands(&mut self) {
        while let Some((place, command)) = self.commands.waiting.pop_front() {
            if !self.issue_command(place, &command) {
                return self.commands.waiting.push_front((place, command));
            }
        }
    }

    /// Takes the driver's answer.
    pub(crate) fn command_done(&mut self, place: u32, result: i32) {
        self.load.net_issued -= 1;
        let result = u32::try_from(result).map_err(|_| OpError::Os(Errno::from_raw_os_error(-result)));
        self.end_command(place, result);
    }

    /// Gives up those of some tokens that the ring has not seen; says how many.
    pub(crate) fn give_up_commands(&mut self, is_meant: impl Fn(Token) -> bool) -> usize {
        let mut count = 0;
        for _ in 0..self.commands.waiting.len() {
            let (place, command) = self.commands.waiting.pop_front().expect("they were counted");
            if is_meant(self.commands.at(place).token) {
                count += 1;
                self.end_command(place, Err(OpError::NeverStarted));
            } else {
                self.commands.waiting.push_back((place, command));
            }
        }
        count
    }

    fn end_command(&mut self, place: u32, result: Result<u32, OpError>) {
        let Given { token, file, held } = self.commands.remove(place);
        if let Some(held) = held {
            self.arena.release(held);
        }
        self.file_done(file);
        self.complete(token, result, false);
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
        if let Some(mut queue) = queue(EngineKind::Uring) {
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
        let Some(mut calls) = queue(EngineKind::Sync) else {
            return;
        };
        push(&mut calls, FileSlot(9), Data::NONE);
        assert_eq!(end(&mut calls), Err(OpError::Os(Errno::OPNOTSUPP)));
        let Some(mut queue) = queue(EngineKind::Uring) else {
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
