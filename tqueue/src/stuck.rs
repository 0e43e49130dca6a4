//! Disk ops that the kernel keeps for too long: each is reported once, with its file and its place.
//!
//! The clock is read once in a pass that has disk ops, and only where an op may have become stuck are they looked through: at most
//! once a second, and about once in [`Config::stuck_after`](crate::Config::stuck_after) where ops come and go. A queue that sleeps is
//! woken for that by the engine's alarm, of which there is one, however many ops there are.

use std::time::Duration;

use iomgr_core::{OpError, Timestamp};

use crate::Queue;
use crate::engine::Wait;
use crate::files::{FileIndex, Files};
use crate::inflight::{Entry, Stage, Work};

/// Ops that get a line of their own in the log, each time that somebody looks. The others are counted.
const LINES_MAX: u64 = 4;
/// Between two looks.
const LOOK_AFTER: Duration = Duration::from_secs(1);
/// The clock of a pass may be so much behind.
const CLOCK_LAG: Duration = Duration::from_millis(20);

/// When to look next.
#[derive(Debug)]
pub(crate) struct Watch {
    after: Duration,
    /// When the pass began, if it has disk ops. May lag by [`CLOCK_LAG`].
    pub(crate) now: Timestamp,
    /// No op that is not reported yet gets stuck before.
    next: Timestamp,
}

impl Watch {
    const NEVER: Timestamp = Timestamp::from_nanos(u64::MAX);

    pub(crate) fn new(after: Duration) -> Self {
        Self {
            after,
            now: Timestamp::ZERO,
            next: Self::NEVER,
        }
    }

    /// Ops are about to be issued.
    pub(crate) fn issues(&mut self) {
        self.next = self.next.min(self.now + self.after);
    }
}

impl Queue {
    /// Looks whether disk ops are stuck, if it is time to. Once a pass, before anything is issued.
    pub(crate) fn watch(&mut self) {
        if self.load.disk_issued == 0 && self.disk.is_empty() {
            return;
        }
        // Whoever works on the queue has asked for the time in this pass, most likely.
        self.watch.now = self.told.take().unwrap_or_else(|| self.engine.coarse_now());
        if self.watch.now >= self.watch.next {
            self.look_for_stuck();
        }
    }

    /// Makes sure that the next look takes place although the thread is about to sleep. True: the wait was cut short.
    pub(crate) fn set_alarm(&mut self, wait: Wait) -> (Wait, bool) {
        if self.load.disk_issued == 0 || self.watch.next == Watch::NEVER {
            return (wait, false);
        }
        self.engine.set_alarm(self.watch.next + CLOCK_LAG, wait)
    }

    fn look_for_stuck(&mut self) {
        let Watch { after, now, .. } = self.watch;
        let mut next = Watch::NEVER;
        let mut found = 0;
        for index in 0..self.ops.capacity() {
            let Some((_, entry)) = self.ops.by_index(index) else {
                continue;
            };
            if entry.stage != Stage::Issued || !entry.work.is_disk() || entry.stuck {
                continue;
            }
            if entry.since + after > now {
                next = next.min(entry.since + after);
                continue;
            }
            entry.stuck = true;
            found += 1;
            if found <= LINES_MAX {
                report(&self.files, entry, now);
            }
        }
        if found > LINES_MAX {
            tracing::warn!(ops = found - LINES_MAX, "ops_stuck: so many more ops do not come back");
        }
        self.counters.stuck += found;
        self.watch.next = next.max(now + LOOK_AFTER);
        if next == Watch::NEVER {
            self.watch.next = next;
        }
    }

    /// An op that was reported has ended.
    pub(crate) fn stuck_op_ended(&self, entry: &Entry, result: Result<u32, OpError>) {
        let place = Place::of(&self.files, entry);
        let after_s = self.watch.now.since(entry.since).as_secs();
        tracing::info!(
            file = place.file,
            op = place.op,
            offset = place.offset,
            after_s,
            ?result,
            "op_unstuck"
        );
    }
}

fn report(files: &Files, entry: &Entry, now: Timestamp) {
    let Place { file, op, offset, len } = Place::of(files, entry);
    let for_s = now.since(entry.since).as_secs();
    tracing::warn!(
        file,
        op,
        offset,
        len,
        for_s,
        "op_stuck: the kernel keeps it; look for a disk or server that does not answer"
    );
}

/// An op, for people.
struct Place {
    file: String,
    op: &'static str,
    offset: u64,
    len: u64,
}

impl Place {
    fn of(files: &Files, entry: &Entry) -> Self {
        let (op, offset, len) = match entry.work {
            Work::Read { offset, run } => ("read", offset, run.len().into()),
            Work::Write { offset, run, .. } => ("write", offset, run.len().into()),
            Work::Discard { offset, len } => ("discard", offset, len),
            Work::Zero { offset, len, .. } => ("write-zeroes", offset, len),
            Work::Prefetch { offset, len } => ("prefetch", offset, len),
            _ => ("flush", 0, 0),
        };
        let file = entry.file.map_or_else(String::new, |file| file_name(files, file));
        Self { file, op, offset, len }
    }
}

/// The path under which the kernel knows a file.
fn file_name(files: &Files, index: FileIndex) -> String {
    let fd = files[index].raw_fd();
    let path = std::fs::read_link(format!("/proc/self/fd/{fd}"));
    path.map_or_else(|_| format!("descriptor {fd}"), |path| path.display().to_string())
}
