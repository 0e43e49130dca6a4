//! One thread's queue of a file.
//!
//! ```text
//!  submit ─► op ─────────────────────► done
//!    │        └─ FUA, buffered ─┐
//!    └─ flush ──────────────────┴─► waiting ─► riding (one op) ─► done
//! ```

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use iomgr_core::{
    Action, Busy, CancelOutcome, DeviceQueue, Done, Errno, FileSlot, Limits, Op, OpDone, OpQueue, Operation, Owner,
    Pass, QueueContext, Request, RequestFlags, SectorCount, Tag, Timestamp, Token,
};

use super::Shared;

/// The value of the flush's token, above every tag.
const FLUSH: u64 = 1 << 32;
/// How long what found no room waits at most before it is tried again.
const ROOM_AFTER: Duration = Duration::from_millis(5);

/// What is under way for a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Vacant,
    /// An op.
    Op,
    /// A write that is durable by itself.
    Durable,
    /// An op that a flush follows.
    BeforeFlush,
    /// The next flush is to cover it.
    Waiting,
    /// The flush that is under way covers it.
    Riding,
}

/// See the module.
#[derive(Debug)]
pub(super) struct FileQueue {
    shared: Arc<Shared>,
    owner: Owner,
    file: FileSlot,
    size: SectorCount,
    read_only: bool,
    /// By tag.
    stages: Box<[Stage]>,
    in_flight: u32,
    waiting: Vec<Tag>,
    riding: Vec<Tag>,
    /// When to look for room again: there was none for a flush, or for a request.
    room_at: Option<Timestamp>,
    done: VecDeque<Done>,
}

impl FileQueue {
    pub(super) fn new(shared: Arc<Shared>, limits: Limits, file: FileSlot, cx: &QueueContext<'_>) -> Self {
        let depth = cx.depth as usize;
        Self {
            shared,
            owner: cx.owner,
            file,
            size: limits.size,
            read_only: limits.read_only,
            stages: vec![Stage::Vacant; depth].into(),
            in_flight: 0,
            waiting: Vec::with_capacity(depth),
            riding: Vec::with_capacity(depth),
            room_at: None,
            done: VecDeque::with_capacity(depth),
        }
    }

    /// What would be wrong with starting `request` now?
    fn refusal(&self, request: &Request) -> Option<Errno> {
        let is_transfer = matches!(request.op, Operation::Read | Operation::Write);
        let is_whole = !is_transfer || u64::from(request.data.len) == request.range.len_bytes();
        if !is_whole || !request.range.fits(self.size) {
            return Some(Errno::INVAL);
        }
        if request.op.is_write() && self.read_only {
            return Some(Errno::ROFS);
        }
        let is_believed = !request.op.is_write() && request.op != Operation::Flush;
        (!is_believed && self.has_failed()).then_some(Errno::IO)
    }

    fn has_failed(&self) -> bool {
        self.shared.has_failed.load(Ordering::Relaxed)
    }

    /// The op of a request, and what it is waiting for then; `None` for what only a flush does.
    fn plan(&self, request: &Request) -> Option<(Action, Stage)> {
        let (offset, len) = (request.range.offset_bytes(), request.range.len_bytes());
        let is_fua = request.flags.contains(RequestFlags::FUA) && request.op.is_write();
        let durable = is_fua && self.shared.is_direct && request.op == Operation::Write;
        let stage = match is_fua {
            true if durable => Stage::Durable,
            true => Stage::BeforeFlush,
            false => Stage::Op,
        };
        let data = request.data;
        let action = match request.op {
            Operation::Read => Action::Read { offset, data },
            Operation::Write => Action::Write { offset, data, durable },
            Operation::Flush => return None,
            Operation::Discard => Action::Discard { offset, len },
            Operation::WriteZeroes => Action::WriteZeroes {
                offset,
                len,
                unmap: !request.flags.contains(RequestFlags::NO_UNMAP),
                fast: request.flags.contains(RequestFlags::FAST_ZERO),
            },
            Operation::Prefetch => Action::Prefetch { offset, len },
        };
        Some((action, stage))
    }

    fn end(&mut self, tag: Tag, result: Result<(), Errno>) {
        self.stages[tag.0 as usize] = Stage::Vacant;
        self.in_flight -= 1;
        self.done.push_back(Done { tag, result });
    }

    fn op_ended(&mut self, pass: &mut Pass<'_>, tag: Tag, result: Result<(), Errno>) {
        match (self.stages[tag.0 as usize], result) {
            (Stage::BeforeFlush, Ok(())) => self.await_flush(pass, tag),
            (Stage::Durable, Err(errno)) => {
                if !is_before_any_flush(errno) {
                    self.fail(errno);
                }
                self.end(tag, result);
            }
            _ => self.end(tag, result),
        }
    }

    fn await_flush(&mut self, pass: &mut Pass<'_>, tag: Tag) {
        self.stages[tag.0 as usize] = Stage::Waiting;
        self.waiting.push(tag);
        self.start_flush(pass);
    }

    /// Starts the flush of all that wait, if there is none under way.
    fn start_flush(&mut self, pass: &mut Pass<'_>) {
        if !self.riding.is_empty() || self.waiting.is_empty() {
            return;
        }
        let op = Op {
            token: Token::new(self.owner, FLUSH),
            file: self.file,
            action: Action::Flush,
        };
        if pass.io.push(op).is_err() {
            self.room_at = Some(pass.now + ROOM_AFTER);
            return;
        }
        std::mem::swap(&mut self.waiting, &mut self.riding);
        for tag in &self.riding {
            self.stages[tag.0 as usize] = Stage::Riding;
        }
    }

    fn flush_ended(&mut self, pass: &mut Pass<'_>, result: Result<(), Errno>) {
        if let Err(errno) = result
            && errno != Errno::CANCELED
        {
            self.fail(errno);
        }
        while let Some(tag) = self.riding.pop() {
            let verdict = if self.has_failed() { Err(Errno::IO) } else { result };
            self.end(tag, result.and(verdict));
        }
        self.start_flush(pass);
    }

    fn fail(&self, errno: Errno) {
        if !self.shared.has_failed.swap(true, Ordering::Relaxed) {
            tracing::error!(%errno, "flush_failed: writes and flushes fail until the file is opened again");
        }
    }

    /// Takes back a tag that waits for the next flush.
    fn forget_waiting(&mut self, tag: Tag) {
        self.waiting.retain(|&waiting| waiting != tag);
        self.end(tag, Err(Errno::CANCELED));
    }
}

impl DeviceQueue for FileQueue {
    fn submit(&mut self, pass: &mut Pass<'_>, request: Request) -> Result<(), Busy> {
        let tag = request.tag;
        if let Some(errno) = self.refusal(&request) {
            self.done.push_back(Done {
                tag,
                result: Err(errno),
            });
            return Ok(());
        }
        match self.plan(&request) {
            Some((action, stage)) => {
                let op = Op {
                    token: Token::new(self.owner, tag.0.into()),
                    file: self.file,
                    action,
                };
                if pass.io.push(op).is_err() {
                    // What takes the room may be others' ops, of whose end nobody tells us.
                    self.room_at = Some(pass.now + ROOM_AFTER);
                    return Err(Busy(request));
                }
                self.stages[tag.0 as usize] = stage;
                self.in_flight += 1;
            }
            None => {
                self.in_flight += 1;
                self.await_flush(pass, tag);
            }
        }
        Ok(())
    }

    fn op_done(&mut self, pass: &mut Pass<'_>, done: OpDone) {
        let result = done.result.map_err(|error| error.errno());
        match u32::try_from(done.token.value()) {
            Ok(tag) => self.op_ended(pass, Tag(tag), result),
            Err(_) => self.flush_ended(pass, result),
        }
    }

    fn kick(&mut self, pass: &mut Pass<'_>) {
        self.room_at = None;
        self.start_flush(pass);
    }

    fn wake_at(&self) -> Option<Timestamp> {
        self.room_at
    }

    fn poll_done(&mut self) -> Option<Done> {
        self.done.pop_front()
    }

    fn busy(&self) -> bool {
        false
    }

    fn cancel(&mut self, pass: &mut Pass<'_>, tag: Tag) -> CancelOutcome {
        match self.stages.get(tag.0 as usize) {
            None | Some(Stage::Vacant) => CancelOutcome::Unknown,
            Some(Stage::Op | Stage::Durable | Stage::BeforeFlush) => {
                match pass.io.cancel(Token::new(self.owner, tag.0.into())) {
                    0 => CancelOutcome::Detached,
                    _ => CancelOutcome::NeverStarted,
                }
            }
            // What was written before is written.
            Some(Stage::Waiting) => {
                self.forget_waiting(tag);
                CancelOutcome::Detached
            }
            Some(Stage::Riding) => CancelOutcome::Detached,
        }
    }

    fn is_idle(&self) -> bool {
        self.in_flight == 0
    }

    fn close(self: Box<Self>, io: &mut dyn OpQueue) {
        io.remove_file(self.file);
        self.shared.has_queue.store(false, Ordering::Release);
    }
}

/// Does the error of a durable write say that it did not come to its flush?
fn is_before_any_flush(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::NOSPC
            | Errno::DQUOT
            | Errno::FBIG
            | Errno::NOMEM
            | Errno::AGAIN
            | Errno::BUSY
            | Errno::INTR
            | Errno::INVAL
            | Errno::OPNOTSUPP
            | Errno::CANCELED
    )
}
