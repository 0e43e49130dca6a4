//! Where ops enter and leave a queue's filters.
//!
//! A held op waits as a timer of its own in the engine, so that every engine holds it on its own clock, and a wait for
//! completions ends in time to let it go.

use iomgr_core::{FileHandle, FileSlot, Op, OpError};

use super::chain::Admission;
use super::{FilterOp, OpKinds};
use crate::Queue;
use crate::buf::Arena;
use crate::inflight::{Inflight, Key, Stage, Work};
use crate::run::Run;

impl Queue {
    /// A filter that looks at bytes, as its text form has it. With one of those, memory that is out of reach cannot be used
    /// ([`DataHome::Registered`]).
    ///
    /// [`DataHome::Registered`]: iomgr_core::DataHome::Registered
    pub fn filter_of_bytes(&self) -> Option<&str> {
        self.filters.as_ref()?.of_bytes()
    }

    /// Queues an op that was pushed, or does what the filters say.
    #[cold]
    pub(crate) fn enter_filters(&mut self, key: Key, op: Op) {
        let now = self.now();
        let chain = self.filters.as_mut().expect("asked for only where there are filters");
        let entry = *self.ops.at(key);
        let file = entry.file.expect("a disk op has a file");
        let looks = chain.needs_bytes() && matches!(entry.work, Work::Write { .. });
        let run = entry.work.run().filter(|_| looks);
        let seen = FilterOp {
            place: key.index,
            op,
            handle: self.files[file].handle(),
            now,
            bytes: run.and_then(|run| look(&self.arena, &self.ops, key, run)),
        };
        match chain.before(&seen, entry.work) {
            Admission { hold, .. } if !hold.is_zero() => {
                self.ops.at(key).work = Work::Timer { at: now + hold };
                self.net.push_back(key);
            }
            Admission { refusal: None, .. } => self.disk.push_back(key),
            Admission {
                refusal: Some(errno), ..
            } => self.end(key, Err(OpError::Os(errno))),
        }
    }

    /// How an op ends for its owner; `None` if it does not end: its time to go on has come.
    #[inline]
    pub(crate) fn leave_filters(&mut self, key: Key, result: Result<u32, OpError>) -> Option<Result<u32, OpError>> {
        if self.filters.is_none() {
            return Some(result);
        }
        self.release(key, result).map(|result| self.judge_end(key, result))
    }

    /// Lets a held op go on; what ended, ended.
    #[cold]
    fn release(&mut self, key: Key, result: Result<u32, OpError>) -> Option<Result<u32, OpError>> {
        let chain = self.filters.as_mut()?;
        let Some(held) = chain.release(key.index) else {
            return Some(result);
        };
        let entry = self.ops.at(key);
        // Only its timer was ever in an engine.
        entry.work = held.work;
        entry.seen = false;
        match (result, held.refusal) {
            (Ok(_), _) | (Err(OpError::Os(crate::Errno::CANCELED)), _) if entry.cancelled => {
                Some(Err(OpError::NeverStarted))
            }
            (Ok(_), Some(errno)) => Some(Err(OpError::Os(errno))),
            (Ok(_), None) => {
                self.disk.push_back(key);
                None
            }
            (Err(error), _) => Some(Err(error)),
        }
    }

    /// Asks the filters about an op's end.
    #[cold]
    fn judge_end(&mut self, key: Key, result: Result<u32, OpError>) -> Result<u32, OpError> {
        let now = self.now();
        let entry = *self.ops.at(key);
        let (Some(chain), Some(file)) = (&mut self.filters, entry.file) else {
            return result;
        };
        let Some(seen) = chain.leave(key.index) else {
            return result;
        };
        let op = seen.op();
        let is_read = OpKinds::of(&op.action) == OpKinds::READ;
        let looks = chain.needs_bytes() && (result.is_ok() || !is_read);
        let run = seen.run().filter(|_| looks);
        let view = FilterOp {
            place: key.index,
            op,
            handle: self.files[file].handle(),
            now,
            bytes: run.and_then(|run| look(&self.arena, &self.ops, key, run)),
        };
        let judged = chain.after(&seen, &view, result.map(|_| ()));
        let whole = u32::try_from(view.len_bytes()).unwrap_or(u32::MAX);
        judged.map(|()| result.unwrap_or(whole))
    }

    /// Tells the filters of a file.
    pub(crate) fn tell_of_file(&mut self, file: FileSlot, handle: &FileHandle) {
        let filters = self.filters.iter_mut().flat_map(|chain| chain.filters());
        filters.for_each(|filter| filter.file_added(file, handle));
    }

    /// Tells the filters that a file is gone.
    pub(crate) fn tell_of_forgotten(&mut self, file: FileSlot) {
        let filters = self.filters.iter_mut().flat_map(|chain| chain.filters());
        filters.for_each(|filter| filter.file_removed(file));
    }
}

/// The bytes of an op that no engine is at.
fn look<'a>(arena: &'a Arena, ops: &Inflight, key: Key, run: Run) -> Option<&'a [u8]> {
    let issued = ops
        .iter()
        .filter(|(other, entry)| *other != key && entry.stage == Stage::Issued);
    let held = ops.find(key)?.held?;
    arena.settled(run, held, issued.filter_map(|(_, entry)| entry.work.filled()))
}
