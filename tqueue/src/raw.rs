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

/// What is the same in all commands of a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawTarget {
    /// The driver's file.
    pub file: FileSlot,
    /// What the entry says for an address, where some drivers look for more.
    pub address: u64,
    /// The memory that the driver may use until a command has completed; [`Data::NONE`] if it uses none.
    pub data: Data,
}

/// A place from which a driver is given one command at a time. What a command needs is looked up when its place is made, and
/// stays until the place is given up: the file, and the lease behind the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawPlace(u32);

/// A command for the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawCommand {
    /// The driver's number of it.
    pub op: u32,
    /// What the driver is told.
    pub payload: [u8; RAW_BYTES],
}

/// All places, and the commands that have not completed. These are none of the queue's other ops: nothing of them is ever
/// continued, retried, cancelled or watched.
#[derive(Debug)]
pub(crate) struct Commands {
    places: Box<[Option<Place>]>,
    vacant: Vec<u32>,
    /// Commands that have not completed.
    given: usize,
    /// Those of them that found no room in the ring, oldest first.
    waiting: VecDeque<(u32, RawCommand)>,
}

/// A place that is in use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) file: FileIndex,
    pub(crate) address: u64,
    token: Token,
    kept: Option<Held>,
    /// A command has not completed.
    is_given: bool,
    /// It was given up meanwhile.
    is_over: bool,
}

impl Commands {
    pub(crate) fn new(count: u32) -> Self {
        Self {
            places: vec![None; count as usize].into(),
            vacant: (0..count).rev().collect(),
            given: 0,
            waiting: VecDeque::with_capacity(count as usize),
        }
    }

    /// How many have not completed.
    pub(crate) fn len(&self) -> usize {
        self.given
    }

    /// The tokens of all that have not completed.
    pub(crate) fn tokens(&self) -> impl Iterator<Item = Token> {
        let given = self.places.iter().flatten().filter(|place| place.is_given);
        given.map(|place| place.token)
    }

    fn at(&mut self, at: u32) -> &mut Place {
        self.places[at as usize]
            .as_mut()
            .expect("a place is used until it is given up")
    }
}

impl Queue {
    /// Makes a place for commands that end as `token`. `EBADF`, `EINVAL`: there is no such file, or memory. `ENOBUFS`: there are as many
    /// places as [`net_ops`](crate::Config::net_ops). `EOPNOTSUPP`: only io_uring has such commands.
    pub fn add_place(&mut self, target: RawTarget, token: Token) -> Result<RawPlace, Errno> {
        if !matches!(self.engine, Engine::Ring(_)) {
            return Err(Errno::OPNOTSUPP);
        }
        let at = *self.commands.vacant.last().ok_or(Errno::NOBUFS)?;
        let kept = self.arena.keep(target.data, Access::Fills).ok_or(Errno::INVAL)?;
        let Some(file) = self.files.take(target.file) else {
            kept.into_iter().for_each(|kept| self.arena.let_go(kept));
            return Err(Errno::BADF);
        };
        self.commands.vacant.pop();
        self.commands.places[at as usize] = Some(Place {
            file,
            address: target.address,
            token,
            kept,
            is_given: false,
            is_over: false,
        });
        Ok(RawPlace(at))
    }

    /// Gives a place up. A command that is with the driver completes all the same, and then lets go of what it needs.
    pub fn remove_place(&mut self, RawPlace(at): RawPlace) {
        self.commands.at(at).is_over = true;
        self.vacate(at);
    }

    /// Gives a driver a command from a place: it ends with `Ok(n)` or an error of the system's, as the driver answers. It counts as
    /// one of the [`net_ops`](crate::Config::net_ops), since it may take for ever. A command in the kernel is not cancelled: the
    /// driver ends it.
    ///
    /// # Panics
    /// If the place's last command has not completed.
    ///
    /// # Safety
    /// Whatever memory the driver touches on account of this command, before it completes, lies in the `data` of the place, which
    /// the queue holds until then, as it does for a read: nobody can look at it. After the completion the driver touches none of it.
    pub unsafe fn push_raw(&mut self, RawPlace(at): RawPlace, command: RawCommand) -> Result<(), NetFull> {
        self.net_room()?;
        let place = self.commands.at(at);
        assert!(!place.is_given, "a place has one command at a time");
        place.is_given = true;
        if let Some(kept) = place.kept {
            self.arena.hold_kept(kept);
        }
        self.commands.given += 1;
        self.counters.pushed += 1;
        self.load.net += 1;
        // Right away, so that nothing is done twice for it; but behind those that found no room in the ring.
        if !self.commands.waiting.is_empty() || !self.issue_command(at, command) {
            self.commands.waiting.push_back((at, command));
        }
        Ok(())
    }

    #[inline]
    fn issue_command(&mut self, at: u32, command: RawCommand) -> bool {
        let place = self.commands.at(at);
        let issued = self.engine.command(Key::of_command(at), place, command, &self.files);
        self.load.net_issued += u32::from(issued);
        self.counters.sqes += u64::from(issued);
        issued
    }

    /// Issues those that found no room.
    pub(crate) fn fill_commands(&mut self) {
        while let Some((at, command)) = self.commands.waiting.pop_front() {
            if !self.issue_command(at, command) {
                return self.commands.waiting.push_front((at, command));
            }
        }
    }

    /// Takes the driver's answer.
    #[inline]
    pub(crate) fn command_done(&mut self, at: u32, result: i32) {
        self.load.net_issued -= 1;
        let result = u32::try_from(result).map_err(|_| OpError::Os(Errno::from_raw_os_error(-result)));
        self.end_command(at, result);
    }

    /// Gives up those of some tokens that the ring has not seen; says how many.
    pub(crate) fn give_up_commands(&mut self, is_meant: impl Fn(Token) -> bool) -> usize {
        let mut count = 0;
        for _ in 0..self.commands.waiting.len() {
            let (at, command) = self.commands.waiting.pop_front().expect("they were counted");
            if is_meant(self.commands.at(at).token) {
                count += 1;
                self.end_command(at, Err(OpError::NeverStarted));
            } else {
                self.commands.waiting.push_back((at, command));
            }
        }
        count
    }

    #[inline]
    fn end_command(&mut self, at: u32, result: Result<u32, OpError>) {
        let place = self.commands.at(at);
        place.is_given = false;
        let Place {
            token, kept, is_over, ..
        } = *place;
        self.commands.given -= 1;
        if let Some(kept) = kept {
            self.arena.release(kept);
        }
        if is_over {
            self.vacate(at);
        }
        self.complete(token, result, false);
    }

    /// Lets go of what a place that was given up needed, unless a command needs it.
    fn vacate(&mut self, at: u32) {
        let place = self.commands.places[at as usize].take_if(|place| !place.is_given);
        if let Some(Place { file, kept, .. }) = place {
            kept.into_iter().for_each(|kept| self.arena.let_go(kept));
            self.file_done(file);
            self.commands.vacant.push(at);
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

    fn target(file: FileSlot, data: Data) -> RawTarget {
        RawTarget { file, address: 0, data }
    }

    fn push(queue: &mut Queue, place: RawPlace) {
        let command = RawCommand {
            op: 1,
            payload: [0; RAW_BYTES],
        };
        // SAFETY: the command carries no address.
        unsafe { queue.push_raw(place, command) }.unwrap();
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
            let place = queue.add_place(target(file, lease.data()), TOKEN).unwrap();
            for _ in 0..2 {
                assert!(queue.bytes_mut(lease.data()).is_some(), "no command is under way");
                push(&mut queue, place);
                assert!(queue.bytes(lease.data()).is_none(), "the driver may be at it");
                // No driver that has commands.
                assert!(matches!(end(&mut queue), Err(OpError::Os(_))));
            }
            queue.remove_place(place);
            queue.free(lease);
            queue.remove_file(file);
            assert!(queue.is_idle());
            assert_eq!(queue.files.len(), 0);
        }
    }

    #[test]
    fn a_place_keeps_what_it_needs_until_its_command_has_completed() {
        let Some(mut queue) = queue(EngineKind::Uring) else {
            return;
        };
        let file = queue
            .add_file(&FileHandle::new(File::open("/dev/zero").unwrap()))
            .unwrap();
        let (free, lease) = (queue.arena.free_bytes(), queue.alloc(4096).unwrap());
        let place = queue.add_place(target(file, lease.data()), TOKEN).unwrap();
        queue.free(lease);
        queue.remove_file(file);
        push(&mut queue, place);
        queue.remove_place(place);
        assert!(queue.arena.free_bytes() < free && queue.files.len() == 1);
        assert!(matches!(end(&mut queue), Err(OpError::Os(_))));
        assert!(queue.arena.free_bytes() == free && queue.files.len() == 0);
    }

    #[test]
    fn there_is_no_place_for_what_does_not_exist() {
        let Some(mut calls) = queue(EngineKind::Sync) else {
            return;
        };
        let nothing = target(FileSlot(9), Data::NONE);
        assert_eq!(calls.add_place(nothing, TOKEN), Err(Errno::OPNOTSUPP));
        let Some(mut queue) = queue(EngineKind::Uring) else {
            return;
        };
        assert_eq!(queue.add_place(nothing, TOKEN), Err(Errno::BADF));
        let (free, lease) = (queue.arena.free_bytes(), queue.alloc(4096).unwrap());
        assert_eq!(
            queue.add_place(target(FileSlot(9), lease.data()), TOKEN),
            Err(Errno::BADF)
        );
        let gone = lease.data();
        queue.free(lease);
        assert_eq!((queue.address(gone), queue.arena.free_bytes()), (None, free));
        let file = queue
            .add_file(&FileHandle::new(File::open("/dev/zero").unwrap()))
            .unwrap();
        assert_eq!(queue.add_place(target(file, gone), TOKEN), Err(Errno::INVAL));
        for _ in 0..Config::default().net_ops {
            queue.add_place(target(file, Data::NONE), TOKEN).unwrap();
        }
        assert_eq!(queue.add_place(target(file, Data::NONE), TOKEN), Err(Errno::NOBUFS));
    }
}
