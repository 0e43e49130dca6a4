//! Filters: what stands between a queue's users and its engine, sees each op, and may hold it, fail it, or look at its bytes.
//!
//! ```text
//!            ┌──────── before, in order ────────┐
//!  push ─────┤ fault ──► latency ──► checksum ──┼──► queued ─► plan, merge ─► engine ─┐
//!            │   │ fail      │ hold             │                                     │
//!            │   │           └─► timer ─────────┼──► queued …                         │
//!            │   ▼                              │                                     │
//!  complete ─┤ fault ◄── latency ◄── checksum ◄─┼──── split_completion ◄──────────────┘
//!            └──────── after, in reverse ───────┘
//! ```
//!
//! A filter sees disk ops as they were pushed: one by one, before any is merged with its neighbours, and as they end,
//! after a merged op's result was given to its parts. What the queue does in between (a short transfer continued, an
//! interrupted op tried again) it does not see. Shipped are [`fault`], [`latency`], [`trace`] and [`checksum`]; the idea of
//! filters in a queue, and of the first and last of these, is that of blktap2's `tapdisk-filter`.
//!
//! # Contract
//! - Each op that a filter's [`before`](Filter::before) let go comes to its [`after`](Filter::after) once, however it
//!   ended: cancelled, or failed by a filter behind it. An op that it failed itself does not.
//! - Socket, poll and timer ops are not seen, nor ops that are refused when they are pushed, nor ops of no bytes.
//! - A held op is in nobody's way: it takes none of the queue's [`size`](crate::Config::size), and the thread does not wait.
//!   Several filters hold an op for the sum of their times, and it fails at the end of them if a filter said so.
//! - Nothing of a filter allocates after [`Queue::new`](crate::Queue::new). Without filters an op costs one branch on its way
//!   in and one on its way out.
//!
//! # Cancellation
//! A held op was not started: cancelled, it ends as [`NeverStarted`](OpError::NeverStarted) in the next pass.
//!
//! # A filter of one's own
//! ```
//! use iomgr_core::{Action, FileHandle, Op, OpError, OpQueue, Owner, Token};
//! use tqueue::filter::{Filter, FilterConfig, FilterOp, OpKinds, Verdict};
//! use tqueue::{Config, EngineKind, Errno, Queue};
//!
//! /// Lets nothing be written.
//! #[derive(Debug)]
//! struct WriteProtect;
//!
//! impl Filter for WriteProtect {
//!     fn before(&mut self, op: &FilterOp<'_>) -> Verdict {
//!         let changes = OpKinds::WRITE | OpKinds::DISCARD | OpKinds::ZERO;
//!         if changes.contains(op.kind()) { Verdict::Fail(Errno::ROFS) } else { Verdict::Go }
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = Config {
//!     engine: EngineKind::Sync,
//!     filters: vec![FilterConfig::custom("write-protect", |_| Box::new(WriteProtect)), "trace".parse()?],
//!     ..Config::default()
//! };
//! let mut queue = Queue::new(&config)?;
//! # let path = std::env::temp_dir().join(format!("tqueue-filter-doc-{}", std::process::id()));
//! let file = queue.add_file(&FileHandle::new(std::fs::File::create_new(&path)?))?;
//! let action = Action::WriteZeroes { offset: 0, len: 4096, unmap: false, fast: false };
//! queue.push(Op { token: Token::new(Owner(0), 1), file, action }).expect("an empty queue has room");
//! queue.submit_and_wait(None)?;
//! assert_eq!(queue.next_completion().expect("waited for").result, Err(OpError::Os(Errno::ROFS)));
//! # std::fs::remove_file(path)?;
//! # Ok(()) }
//! ```

mod chain;
pub mod checksum;
mod config;
pub mod fault;
mod gate;
mod kinds;
pub mod latency;
mod random;
mod scope;
mod text;
pub mod trace;

use std::fmt;
use std::time::Duration;

use iomgr_core::{Action, FileHandle, FileSlot, Op, OpError, Timestamp};

use crate::Errno;

pub(crate) use chain::Chain;
pub use config::{CustomFilter, FilterConfig};
pub use kinds::OpKinds;
pub use scope::Scope;

/// What sees every op of a queue; see the [module](self).
///
/// It runs on the queue's thread and is called for every op: it must not block, and should not allocate.
pub trait Filter: fmt::Debug {
    /// Does it look at [`FilterOp::bytes`]? Where they are out of reach (zero copy), such a filter cannot be used.
    fn needs_bytes(&self) -> bool {
        false
    }

    /// The queue knows a file from now on.
    fn file_added(&mut self, file: FileSlot, handle: &FileHandle) {
        let _ = (file, handle);
    }

    /// The queue does not know a file any more; no op on it is outstanding.
    fn file_removed(&mut self, file: FileSlot) {
        let _ = file;
    }

    /// Judges an op that was pushed, before it is planned.
    fn before(&mut self, op: &FilterOp<'_>) -> Verdict {
        let _ = op;
        Verdict::Go
    }

    /// Sees how an op ended, and says how it ends for those before it.
    fn after(&mut self, op: &FilterOp<'_>, result: Result<(), OpError>) -> Result<(), OpError> {
        let _ = op;
        result
    }

    /// What it has to say in [`Queue::dump`](crate::Queue::dump), in whole lines.
    fn dump(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        let _ = out;
        Ok(())
    }
}

/// What is to become of an op.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Go,
    /// It goes on after this time, on the queue's own clock.
    Hold(Duration),
    /// It ends like this, and no engine sees it.
    Fail(Errno),
}

/// An op as filters see it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct FilterOp<'a> {
    /// Which of the outstanding ops it is: below [`FilterSetup::places`], and no other's from `before` to `after`.
    pub place: u32,
    /// The op, as it was pushed.
    pub op: Op,
    /// Its file.
    pub handle: &'a FileHandle,
    /// The time.
    pub now: Timestamp,
    /// For a filter that needs them: what is written, before and after; what a read that ended well has read, after. `None`
    /// also for memory that is out of reach, or that another op fills just now.
    pub bytes: Option<&'a [u8]>,
}

impl FilterOp<'_> {
    /// Its kind: one flag.
    pub fn kind(&self) -> OpKinds {
        OpKinds::of(&self.op.action)
    }

    /// The first byte in the file; 0 for a flush.
    pub fn offset(&self) -> u64 {
        match self.op.action {
            Action::Read { offset, .. }
            | Action::Write { offset, .. }
            | Action::Discard { offset, .. }
            | Action::WriteZeroes { offset, .. }
            | Action::Prefetch { offset, .. } => offset,
            Action::Flush => 0,
        }
    }

    /// How many bytes; 0 for a flush.
    pub fn len_bytes(&self) -> u64 {
        match self.op.action {
            Action::Read { data, .. } | Action::Write { data, .. } => data.len.into(),
            Action::Discard { len, .. } | Action::WriteZeroes { len, .. } | Action::Prefetch { len, .. } => len,
            Action::Flush => 0,
        }
    }
}

/// What a filter may size itself by when it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FilterSetup {
    /// Bound of [`FilterOp::place`].
    pub places: u32,
    /// Files that the queue knows at the same time, at most.
    pub files: u32,
}

#[cfg(test)]
mod tests;
