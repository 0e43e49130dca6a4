//! From op to call, and from the call's result to the op's end, or to its next call.

use iomgr_core::{Errno, OpError};

use crate::Queue;
use crate::buf::ZEROS_BYTES;
use crate::engine::{ALL_SENT, Call, Issued, Outcome, Surroundings, UNBEGUN};
use crate::inflight::{Attempt, Entry, Key, NIL, Stage, Way, Work};
use crate::net::Interest;
use crate::plan::{Kind, PlanOp};

/// Times in a row that an op is tried again when the kernel has no resources for it; then whoever pushed it is told.
pub(crate) const REFUSALS_MAX: u8 = 3;

/// Likewise when it is interrupted. Signals come and go; a file system that answers nothing else must not keep the thread.
pub(crate) const INTERRUPTS_MAX: u8 = 100;

/// What a result means for its op.
pub(crate) enum Verdict {
    End(Result<u32, OpError>),
    Again,
}

impl Queue {
    /// Hands an op to the engine. False: not now.
    pub(crate) fn issue(&mut self, key: Key) -> bool {
        let call = match self.next_call(key) {
            Ok(call) => call,
            Err(result) => {
                self.end(key, result);
                return true;
            }
        };
        let Self {
            engine,
            arena,
            files,
            sends,
            counters,
            ops,
            load,
            runs,
            watch,
            ..
        } = self;
        let entry = ops.at(key);
        let on = &mut Surroundings {
            arena,
            files,
            sends,
            counters,
            runs,
        };
        let issued = engine.issue(key, entry.file, call, on);
        if issued == Issued::NoRoom {
            return false;
        }
        entry.stage = Stage::Issued;
        let again = std::mem::replace(&mut entry.seen, true);
        entry.since = watch.now;
        if entry.work.is_disk() {
            counters.resubmissions += u64::from(again);
            load.disk_issued += 1;
            load.disk_merged += 1;
        } else {
            load.net_issued += 1;
        }
        if issued == Issued::Quiet {
            entry.quiet = true;
            load.quiet += 1;
            load.quiet_alone |= entry.file.is_none_or(|file| files[file].listens == 0);
        }
        true
    }

    /// What to ask the kernel for next; `Err`: the op needs no kernel to end.
    fn next_call(&mut self, key: Key) -> Result<Call, Result<u32, OpError>> {
        let entry = self.ops.at(key);
        if entry.attempt == Attempt::Poll {
            let receives = matches!(entry.work, Work::Recv { .. });
            let interest = if receives { Interest::READ } else { Interest::WRITE };
            return Ok(Call::Poll { interest });
        }
        Ok(match entry.work {
            Work::Read { offset, run } => Call::Read { offset, run },
            Work::Write { offset, run, durable } => Call::Write { offset, run, durable },
            Work::Flush => Call::Sync,
            Work::Discard { .. } | Work::Zero { .. } => return self.next_zeros(key),
            Work::Prefetch { offset, len } => {
                let len = u32::try_from(len).unwrap_or(u32::MAX);
                Call::WillNeed { offset, len }
            }
            Work::Recv { run } => Call::Recv { run },
            Work::Send { run } => Call::Send {
                run,
                attempt: entry.attempt,
            },
            Work::SendMany { slot } => Call::SendMany {
                slot,
                skip: entry.moved,
                attempt: entry.attempt,
            },
            Work::Poll { interest } => Call::Poll { interest },
            Work::Timer { at } => Call::Timer { at },
        })
    }

    /// The best way to zero or discard that the file has not refused yet. Only a hole gives space back, and a range whose
    /// space must stay gets no hole.
    fn next_zeros(&mut self, key: Key) -> Result<Call, Result<u32, OpError>> {
        let entry = *self.ops.at(key);
        let file = entry.file.expect("a disk op has a file");
        let can = self.files[file].can;
        let (way, call) = match entry.work {
            Work::Discard { offset, len } if can.punch => (Way::Punch, Call::Punch { offset, len }),
            Work::Zero {
                offset,
                len,
                unmap: true,
                ..
            } if can.punch => (Way::Punch, Call::Punch { offset, len }),
            Work::Zero { offset, len, fast, .. } if can.zero_range && (!fast || self.zeroes_ranges_fast(&entry)) => {
                (Way::Range, Call::ZeroRange { offset, len })
            }
            Work::Zero { fast: true, .. } => return Err(Err(OpError::Os(Errno::OPNOTSUPP))),
            Work::Zero { offset, len, .. } => {
                let len = self.clamp_to_file(&entry, offset, len);
                if len == 0 {
                    return Err(Ok(0));
                }
                let run = self.arena.zeros().first(u32::try_from(len).unwrap_or(ZEROS_BYTES));
                (
                    Way::Write,
                    Call::Write {
                        offset,
                        run,
                        durable: false,
                    },
                )
            }
            // A file that cannot discard does so successfully.
            _ => return Err(Ok(0)),
        };
        self.ops.at(key).way = way;
        Ok(call)
    }

    /// On a file a range is zeroed in its metadata. On a block device the kernel may well write zeros instead; only to punch a
    /// hole there never comes to that.
    fn zeroes_ranges_fast(&self, entry: &Entry) -> bool {
        let file = entry.file.expect("a disk op has a file");
        self.engine.growing_from(&self.files, file).is_some()
    }

    /// Cuts a range at the end of a file, because writing zeros there would make it grow.
    fn clamp_to_file(&self, entry: &Entry, offset: u64, len: u64) -> u64 {
        let file = entry.file.expect("a disk op has a file");
        let end = self.engine.growing_from(&self.files, file);
        end.map_or(len, |end| end.saturating_sub(offset).min(len))
    }

    /// Takes a result.
    pub(crate) fn settle(&mut self, outcome: Outcome) {
        let Outcome { key, result } = outcome;
        if let Some(place) = key.command() {
            return self.command_done(place, result);
        }
        let Some(entry) = self.ops.get(key).filter(|entry| entry.stage == Stage::Issued) else {
            return;
        };
        if result == UNBEGUN {
            entry.unbegun = true;
            return;
        }
        if entry.next_member != NIL {
            return self.split_completion(key, result);
        }
        if result == ALL_SENT && !entry.quiet {
            // The mark of a send that failed after all: its own entry came first.
            return;
        }
        entry.stage = Stage::Queued;
        let quiet = std::mem::take(&mut entry.quiet);
        let is_disk = entry.work.is_disk();
        self.load.quiet -= u32::from(quiet);
        self.counters.quiet_sends += u64::from(result == ALL_SENT);
        if is_disk {
            self.load.disk_issued -= 1;
            self.load.disk_merged -= 1;
        } else {
            self.load.net_issued -= 1;
        }
        match self.judge(key, result) {
            Verdict::End(result) => self.end(key, result),
            Verdict::Again if self.ops.at(key).cancelled => self.end(key, Err(OpError::Os(Errno::CANCELED))),
            // In front, so that an op is not overtaken by all that came after it.
            Verdict::Again if is_disk => {
                self.ops.at(key).tried = true;
                self.disk.push_front(key);
            }
            Verdict::Again => self.net.push_front(key),
        }
    }

    fn judge(&mut self, key: Key, result: i32) -> Verdict {
        let entry = self.ops.at(key);
        if entry.attempt == Attempt::Poll && result >= 0 {
            entry.attempt = Attempt::Wait;
            return Verdict::Again;
        }
        match u32::try_from(result) {
            Ok(n) => {
                (entry.refusals, entry.interrupts) = (0, 0);
                self.advance(key, n)
            }
            Err(_) if result == ALL_SENT => Verdict::End(Ok(self.total(key))),
            Err(_) => self.fail(key, Errno::from_raw_os_error(-result)),
        }
    }

    /// Takes note of `n` bytes that were moved.
    fn advance(&mut self, key: Key, n: u32) -> Verdict {
        let entry = self.ops.at(key);
        let left = match &mut entry.work {
            Work::Read { .. } if n == 0 => return Verdict::End(Err(OpError::EndOfFile)),
            Work::Recv { .. } | Work::Poll { .. } | Work::Timer { .. } => {
                return Verdict::End(Ok(n));
            }
            Work::Flush | Work::Discard { .. } | Work::Prefetch { .. } => return Verdict::End(Ok(0)),
            Work::Zero { .. } if entry.way != Way::Write => return Verdict::End(Ok(0)),
            // Nothing was moved, and no error was given: trying again would go on for ever.
            _ if n == 0 => return Verdict::End(Err(OpError::Os(Errno::IO))),
            Work::Read { .. } | Work::Write { .. } => u64::from(entry.forward(n)),
            Work::Zero { offset, len, .. } => {
                *offset += u64::from(n);
                *len -= u64::from(n);
                *len
            }
            Work::Send { run } => {
                *run = run.skip(n);
                u64::from(run.len())
            }
            Work::SendMany { slot } => self.sends.total(*slot) - entry.moved - u64::from(n),
        };
        entry.moved += u64::from(n);
        entry.attempt = Attempt::Wait;
        if left == 0 {
            return Verdict::End(Ok(u32::try_from(entry.moved).unwrap_or(u32::MAX)));
        }
        self.counters.continued += 1;
        Verdict::Again
    }

    /// Bytes of a whole send.
    fn total(&mut self, key: Key) -> u32 {
        let entry = self.ops.at(key);
        let total = match entry.work {
            Work::Send { run } => entry.moved + u64::from(run.len()),
            Work::SendMany { slot } => self.sends.total(slot),
            _ => 0,
        };
        u32::try_from(total).expect("checked when it was pushed")
    }

    /// Decides between the next attempt and the end.
    fn fail(&mut self, key: Key, errno: Errno) -> Verdict {
        let entry = self.ops.at(key);
        let again = match (entry.work, errno) {
            (Work::Timer { .. }, Errno::TIME) => return Verdict::End(Ok(0)),
            (work, Errno::CANCELED) if work.is_disk() && entry.unbegun && !entry.tried => {
                return Verdict::End(Err(OpError::NeverStarted));
            }
            (work, Errno::INTR) if !work.is_disk() || entry.interrupts < INTERRUPTS_MAX => {
                entry.interrupts = entry.interrupts.saturating_add(1);
                true
            }
            // A hint that cannot be taken was given all the same.
            (Work::Prefetch { .. }, _) => return Verdict::End(Ok(0)),
            (Work::Recv { .. } | Work::Send { .. } | Work::SendMany { .. }, Errno::AGAIN) => {
                entry.attempt = match entry.attempt {
                    Attempt::NoWait => Attempt::Wait,
                    Attempt::Wait | Attempt::Poll => Attempt::Poll,
                };
                true
            }
            (_, Errno::AGAIN) => {
                entry.refusals += 1;
                entry.refusals <= REFUSALS_MAX
            }
            (Work::Discard { .. } | Work::Zero { .. }, Errno::OPNOTSUPP | Errno::NOSYS) => self.other_way(key),
            _ => false,
        };
        if !again {
            return Verdict::End(Err(OpError::Os(errno)));
        }
        self.counters.retried += 1;
        Verdict::Again
    }

    /// Remembers what the file cannot do. False: there is no other way.
    fn other_way(&mut self, key: Key) -> bool {
        let entry = self.ops.at(key);
        let (way, file) = (entry.way, entry.file.expect("a disk op has a file"));
        let can = &mut self.files[file].can;
        match way {
            Way::Punch => can.punch = false,
            Way::Range => can.zero_range = false,
            Way::Write => return false,
        }
        true
    }
}

impl Entry {
    /// Takes `n` bytes off a read or write; says how many are left.
    pub(crate) fn forward(&mut self, n: u32) -> u32 {
        let (Work::Read { offset, run } | Work::Write { offset, run, .. }) = &mut self.work else {
            unreachable!("only reads and writes go forward");
        };
        *offset += u64::from(n);
        *run = run.skip(n);
        run.len()
    }

    /// The op as the plan sees it.
    pub(crate) fn plan_op(&self, key: Key) -> PlanOp {
        let (kind, offset, len) = match self.work {
            Work::Read { offset, run } => (Kind::Read, offset, u64::from(run.len())),
            Work::Write { offset, run, durable } => (Kind::Write { durable }, offset, u64::from(run.len())),
            Work::Discard { offset, len } => (Kind::Discard, offset, len),
            Work::Zero {
                offset,
                len,
                unmap,
                fast,
            } => (Kind::Zero { unmap, fast }, offset, len),
            Work::Prefetch { offset, len } => (Kind::Prefetch, offset, len),
            _ => (Kind::Flush, 0, 0),
        };
        let file = self.file.expect("a disk op has a file");
        let is_drivers = self.work.run().is_some_and(|run| run.driver().is_some());
        PlanOp {
            key,
            file,
            kind,
            offset,
            len,
            alone: self.alone || is_drivers,
        }
    }
}
