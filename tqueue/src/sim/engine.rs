//! The simulated engine: hands calls to the machine and fetches results from it.

use std::sync::{MutexGuard, PoisonError};

use iomgr_core::{SimFile, Timestamp};
use rustix::io::Errno;

use super::SimHandle;
use super::op::{Act, Ended, Ticket};
use super::world::World;
use crate::Error;
use crate::buf::Arena;
use crate::counters::Counters;
use crate::engine::{Call, Issued, Outcome, Surroundings, Wait};
use crate::fifo::Fifo;
use crate::files::FileIndex;
use crate::inflight::Key;
use crate::run::Run;

/// One queue's side of the machine.
#[derive(Debug)]
pub(crate) struct SimEngine {
    machine: SimHandle,
    ticket: Ticket,
    /// Reads on their way, and where their bytes go.
    reads: Vec<(Key, Vec<Run>)>,
    /// Writes on their way that take their bytes when they are done, and where from.
    late_writes: Vec<(Key, Vec<Run>)>,
    outcomes: Fifo<Outcome>,
}

impl SimEngine {
    pub(crate) fn new(machine: &SimHandle) -> Self {
        let ticket = machine.world().new_queue();
        Self {
            machine: machine.clone(),
            ticket,
            reads: Vec::new(),
            late_writes: Vec::new(),
            outcomes: Fifo::default(),
        }
    }

    pub(crate) fn issue(&mut self, key: Key, file: Option<FileIndex>, call: Call, on: &mut Surroundings<'_>) -> Issued {
        let mut world = self.machine.0.lock().unwrap_or_else(PoisonError::into_inner);
        if world.refuses(self.ticket) {
            return Issued::NoRoom;
        }
        on.counters.sqes += 1;
        if let Call::Timer { at } = call {
            world.start_timer(self.ticket, key, at);
            return Issued::Taken;
        }
        let file = file
            .and_then(|index| on.files[index].simulated())
            .filter(|&file| world.has_file(file));
        let Some(file) = file else {
            drop(world);
            self.end(key, Err(Errno::BADF));
            return Issued::Taken;
        };
        let act = match call {
            Call::Read { offset, run } => {
                self.reads.push((key, vec![run]));
                Act::Read { offset, len: run.len() }
            }
            Call::ReadMany { offset } => {
                self.reads.push((key, on.runs.to_vec()));
                let len = on.runs.iter().map(|run| run.len()).sum();
                Act::Read { offset, len }
            }
            Call::WriteMany { offset, durable } => {
                self.late_writes
                    .extend(world.takes_late().then(|| (key, on.runs.to_vec())));
                let bytes = gather(on.runs, on.arena);
                Act::Write { offset, bytes, durable }
            }
            Call::Write { offset, run, durable } => {
                self.late_writes.extend(world.takes_late().then(|| (key, vec![run])));
                let bytes = gather(&[run], on.arena);
                Act::Write { offset, bytes, durable }
            }
            Call::Sync => Act::Flush {
                covered: world.file(file).position(),
            },
            Call::Punch { offset, len } | Call::ZeroRange { offset, len } => Act::Zero { offset, len },
            // The machine has no page cache to be filled, and no network.
            _ => Act::Fail(Errno::OPNOTSUPP),
        };
        world.start(self.ticket, key, file, act);
        Issued::Taken
    }

    pub(crate) fn cancel(&mut self, key: Key) -> bool {
        self.world().cancel(self.ticket, key);
        true
    }

    pub(crate) fn enter(&mut self, wait: Wait, on: &mut Surroundings<'_>) -> Result<(), Error> {
        on.counters.enters += 1;
        let mut world = self.machine.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody changes memory from here on until this returns.
        for (key, runs) in &self.late_writes {
            world.retake(self.ticket, *key, gather(runs, on.arena));
        }
        world.tick();
        let limit = match wait {
            _ if !self.outcomes.is_empty() => None,
            Wait::No => None,
            Wait::Forever => Some(Timestamp::from_nanos(u64::MAX)),
            Wait::AtMost(time) => Some(world.now() + time),
        };
        if let Some(limit) = limit {
            world.wait(self.ticket, limit);
        }
        let ended: Vec<Ended> = world.take_ended(self.ticket).collect();
        drop(world);
        for Ended { key, result, bytes } in ended {
            self.late_writes.retain(|(write, _)| *write != key);
            if let Some(at) = self.reads.iter().position(|(read, _)| *read == key) {
                let (_, runs) = self.reads.swap_remove(at);
                scatter(&bytes, &runs, on.arena);
            }
            self.end(key, result);
        }
        Ok(())
    }

    pub(crate) fn next_outcome(&mut self, counters: &mut Counters) -> Option<Outcome> {
        let outcome = self.outcomes.pop()?;
        counters.cqes += 1;
        Some(outcome)
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.world().now()
    }

    pub(crate) fn growing_from(&self, file: SimFile) -> Option<u64> {
        let mut world = self.world();
        let file = world.file(file);
        (!file.is_block_device).then(|| file.len())
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.machine.world()
    }

    fn end(&mut self, key: Key, result: Result<u32, Errno>) {
        let result = match result {
            Ok(n) => i32::try_from(n).expect("ops are shorter than 2 GiB"),
            Err(errno) => -errno.raw_os_error(),
        };
        self.outcomes.push(Outcome { key, result });
    }
}

/// The bytes of runs, one behind the other.
fn gather(runs: &[Run], arena: &Arena) -> Vec<u8> {
    runs.iter().flat_map(|&run| arena.run(run)).copied().collect()
}

/// Puts bytes into runs, one behind the other; the last ones may get none.
fn scatter(mut bytes: &[u8], runs: &[Run], arena: &mut Arena) {
    for &run in runs {
        let (part, rest) = bytes.split_at(bytes.len().min(run.len() as usize));
        arena.run_mut(run)[..part.len()].copy_from_slice(part);
        bytes = rest;
    }
}
