//! Merged ops: several ops as one call, and one result for several ops (`split_completion`).
//!
//! ```text
//!  issue_group      op ─► op ─► op          the first one's key is the call's; the others follow by `next_member`
//!  result 10 of 12  ended │ ended │ 2 left  bytes are handed out in the order of the file
//!  result EIO       alone · alone · alone   each is tried again by itself, so that only the guilty one fails
//! ```
//!
//! A failed group of durable writes is different in one point: its error may be that of the sync, and then it is repeated by
//! nobody. So when all parts went well alone, the last one reports it ([`Debt`]).
//!
//! A group lives as long as its call. What is left of it goes back to the front of the queue, where the next plan sees it.

use iomgr_core::{Errno, OpError};

use crate::Queue;
use crate::engine::{Call, Issued, Surroundings};
use crate::inflight::{Debt, Entry, Key, NIL, Stage, Work};
use crate::run::Run;
use crate::settle::{INTERRUPTS_MAX, REFUSALS_MAX, Verdict};

/// What the result of a merged op means for its members.
#[derive(Clone, Copy)]
enum Share {
    /// So many bytes were moved, from the first member on.
    Bytes(u32),
    /// The file ends before the first of them.
    EndOfFile,
    /// Nothing happened: all again.
    Again,
    /// The kernel gave them back before it had begun, because one of them was given up: the others again.
    Unbegun,
    /// Something is wrong with one of them, or with their being one.
    Apart,
}

impl Queue {
    /// Hands a group of the plan to the engine. False: not now.
    pub(crate) fn issue_group(&mut self, at: usize) -> bool {
        if let [key] = *self.plan.group(at) {
            return self.issue(key);
        }
        let call = self.merged_call(at);
        let Self {
            engine,
            arena,
            files,
            sends,
            counters,
            ops,
            plan,
            runs,
            ..
        } = self;
        let members = plan.group(at);
        let file = ops.at(members[0]).file;
        let on = &mut Surroundings {
            arena,
            files,
            sends,
            counters,
            runs,
        };
        if engine.issue(members[0], file, call, on) == Issued::NoRoom {
            return false;
        }
        self.link(at);
        true
    }

    /// The call for a group; its runs go to `runs`.
    fn merged_call(&mut self, at: usize) -> Call {
        let Self { ops, plan, runs, .. } = self;
        let members = plan.group(at);
        runs.clear();
        for &key in members {
            let run = ops.at(key).run();
            match runs.last_mut().and_then(|last| last.joined(run)) {
                Some(joined) => *runs.last_mut().expect("it has a last one") = joined,
                None => runs.push(run),
            }
        }
        match (ops.at(members[0]).work, runs.as_slice()) {
            (Work::Read { offset, .. }, &[run]) => Call::Read { offset, run },
            (Work::Read { offset, .. }, _) => Call::ReadMany { offset },
            (Work::Write { offset, durable, .. }, &[run]) => Call::Write { offset, run, durable },
            (Work::Write { offset, durable, .. }, _) => Call::WriteMany { offset, durable },
            _ => unreachable!("only reads and writes are merged"),
        }
    }

    /// Notes that a group was issued.
    fn link(&mut self, at: usize) {
        let members = self.plan.group(at);
        let mut next = NIL;
        for &key in members.iter().rev() {
            let entry = self.ops.at(key);
            self.counters.resubmissions += u64::from(entry.seen);
            entry.stage = Stage::Issued;
            entry.seen = true;
            entry.since = self.watch.now;
            entry.next_member = std::mem::replace(&mut next, key.index);
        }
        let count = u32::try_from(members.len()).expect("groups are short");
        self.counters.merges += u64::from(count - 1);
        self.load.disk_issued += count;
        self.load.disk_merged += 1;
    }

    /// Takes the result of a merged op, whose first member `first` is.
    pub(crate) fn split_completion(&mut self, first: Key, result: i32) {
        self.load.disk_merged -= 1;
        let mut share = self.share(first, result);
        let mut next = first.index;
        let mut again = 0;
        while next != NIL {
            let (key, entry) = self.ops.by_index(next).expect("members are outstanding");
            next = std::mem::replace(&mut entry.next_member, NIL);
            entry.stage = Stage::Queued;
            self.load.disk_issued -= 1;
            match self.hand_out(key, &mut share) {
                Verdict::End(result) => self.end(key, result),
                Verdict::Again if self.ops.at(key).cancelled => self.end(key, Err(OpError::Os(Errno::CANCELED))),
                Verdict::Again => {
                    self.ops.at(key).tried |= !matches!(share, Share::Unbegun);
                    // In front and in order, so that none is overtaken by all that came after it.
                    self.disk.insert(again, key);
                    again += 1;
                }
            }
        }
        self.counters.continued += u64::from(again > 0 && matches!(share, Share::Bytes(_)));
    }

    fn share(&mut self, first: Key, result: i32) -> Share {
        let entry = self.ops.at(first);
        let reads = matches!(entry.work, Work::Read { .. });
        let share = match u32::try_from(result) {
            Ok(0) if reads => Share::EndOfFile,
            Ok(0) => Share::Apart,
            Ok(n) => Share::Bytes(n),
            Err(_) => match Errno::from_raw_os_error(-result) {
                Errno::INTR if entry.interrupts < INTERRUPTS_MAX => {
                    entry.interrupts += 1;
                    Share::Again
                }
                Errno::CANCELED if std::mem::take(&mut entry.unbegun) => Share::Unbegun,
                Errno::AGAIN if entry.refusals < REFUSALS_MAX => {
                    entry.refusals += 1;
                    Share::Again
                }
                errno => {
                    self.owe(first, errno);
                    Share::Apart
                }
            },
        };
        self.counters.retried += u64::from(matches!(share, Share::Again));
        self.counters.splits += u64::from(matches!(share, Share::Apart));
        share
    }

    /// Notes the error of a merged durable write with all of its parts. It may come from what was written long before, and the
    /// kernel tells so only once: parts that then go well must not make that a success.
    fn owe(&mut self, first: Key, errno: Errno) {
        if !matches!(self.ops.at(first).work, Work::Write { durable: true, .. }) {
            return;
        }
        let mut next = first.index;
        while next != NIL {
            let (_, entry) = self.ops.by_index(next).expect("members are outstanding");
            entry.debt = Some(Debt { first, errno });
            next = entry.next_member;
        }
    }

    /// The result of a part that was in debt: an error of its own settles it for all; else the last of them reports it.
    pub(crate) fn settle_debt(&mut self, debt: Debt, result: Result<u32, OpError>) -> Result<u32, OpError> {
        let given_up = matches!(result, Err(OpError::NeverStarted | OpError::Os(Errno::CANCELED)));
        if result.is_err() && !given_up {
            self.ops.in_debt(debt).for_each(|entry| entry.debt = None);
        } else if self.ops.in_debt(debt).next().is_none() {
            return Err(OpError::Os(debt.errno));
        }
        result
    }

    /// Gives a member its share of a result.
    fn hand_out(&mut self, key: Key, share: &mut Share) -> Verdict {
        let entry = self.ops.at(key);
        match share {
            Share::Bytes(left) => {
                let n = entry.run().len().min(*left);
                *left -= n;
                (entry.refusals, entry.interrupts) = (0, 0);
                entry.advance_member(n)
            }
            Share::EndOfFile => Verdict::End(Err(OpError::EndOfFile)),
            Share::Unbegun if entry.cancelled && !entry.tried => Verdict::End(Err(OpError::NeverStarted)),
            Share::Again | Share::Unbegun => Verdict::Again,
            Share::Apart => {
                entry.alone = true;
                Verdict::Again
            }
        }
    }
}

impl Entry {
    /// The memory of a read or write.
    fn run(&self) -> Run {
        match self.work {
            Work::Read { run, .. } | Work::Write { run, .. } => run,
            _ => unreachable!("only reads and writes are merged"),
        }
    }

    /// Takes note of `n` bytes that were moved.
    fn advance_member(&mut self, n: u32) -> Verdict {
        self.moved += u64::from(n);
        match self.forward(n) {
            0 => Verdict::End(Ok(u32::try_from(self.moved).expect("a run is shorter"))),
            _ => Verdict::Again,
        }
    }
}

#[cfg(test)]
#[cfg(feature = "test-utils")]
mod tests;
