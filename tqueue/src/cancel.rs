//! Giving ops up: what had not begun ends as never started, what is in the kernel is detached.
//!
//! ```text
//!  queued, no engine has seen it ──► NeverStarted, at once
//!  held by a filter ───────────────► NeverStarted, at once or in the next pass: only its timer is in the engine
//!  socket, poll, timer ────────────► ECANCELED, or what it came to meanwhile
//!  disk op in the kernel ──────────► its own end; NeverStarted if the kernel says that it had not begun it
//! ```
//!
//! io_uring does not stop a disk op that was issued to a device: the bytes land all the same, maybe seconds later. What it can take
//! back is an op that still lies in its own queue for worker threads. It is asked for that, and believed only if it says both
//! that it found the op there (the cancel's own result) and that the op was not run (the op's result).

use iomgr_core::{Errno, OpError, Token};

use crate::Queue;
use crate::inflight::{Key, Stage};

/// What giving ops up came to at once. Each of them completes all the same, exactly once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cancelled {
    /// Ops that no engine had seen. They end as [`OpError::NeverStarted`]: nothing was read or written.
    pub never_started: usize,
    /// Socket, poll and timer ops that end soon: as `ECANCELED`, or as what they came to meanwhile.
    pub ending: usize,
    /// Disk ops in the kernel. They go on to their own end and keep their memory until then; one that comes short or is
    /// interrupted is not continued and ends as `ECANCELED`. What the kernel had not begun ends as `NeverStarted` as well.
    pub detached: usize,
}

/// How far giving up goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Disk ops that the kernel has are left alone.
    Queue,
    /// The kernel is asked to give back what it has not begun.
    Kernel,
}

impl Queue {
    /// Gives up every op with this token. Ops that were given up before are not counted again.
    pub fn cancel(&mut self, token: Token) -> Cancelled {
        self.give_up(Reach::Kernel, |other| other == token)
    }

    /// Gives up every op that is outstanding.
    pub fn cancel_all(&mut self) -> Cancelled {
        self.give_up(Reach::Kernel, |_| true)
    }

    /// Gives up every op whose token `is_meant`.
    pub(crate) fn give_up(&mut self, reach: Reach, is_meant: impl Fn(Token) -> bool) -> Cancelled {
        let mut cancelled = Cancelled {
            never_started: self.give_up_commands(&is_meant),
            ..Cancelled::default()
        };
        for index in 0..self.ops.capacity() {
            let Some((key, entry)) = self.ops.by_index(index) else {
                continue;
            };
            if !is_meant(entry.token) || entry.cancelled {
                continue;
            }
            // What waits in the engine for a filter's sake is a timer there: its own op has not begun.
            let held = self.filters.as_ref().is_some_and(|chain| chain.holds(index));
            match (entry.stage, entry.work.is_disk()) {
                (Stage::Queued, _) if !entry.seen || held => {
                    cancelled.never_started += 1;
                    self.end_queued(key, OpError::NeverStarted);
                }
                (Stage::Queued, true) if reach == Reach::Queue => {}
                // The kernel did a part of it, or had no resources for it, and is not at it now.
                (Stage::Queued, _) => {
                    cancelled.ending += 1;
                    self.end_queued(key, OpError::Os(Errno::CANCELED));
                }
                (Stage::Issued, true) if reach == Reach::Queue => cancelled.detached += 1,
                (Stage::Issued, is_disk) if !entry.quiet => {
                    entry.cancelled = true;
                    self.cancels.push_back(key);
                    cancelled.never_started += usize::from(held);
                    cancelled.ending += usize::from(!is_disk && !held);
                    cancelled.detached += usize::from(is_disk);
                }
                // A quiet send is over as soon as the kernel has seen it.
                _ => {}
            }
        }
        cancelled
    }

    fn end_queued(&mut self, key: Key, error: OpError) {
        self.disk.retain(|&other| other != key);
        self.net.retain(|&other| other != key);
        self.end(key, Err(error));
    }
}
