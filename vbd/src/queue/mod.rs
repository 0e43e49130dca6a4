//! One thread's queue of a disk: requests in, ops out.
//!
//! A request is a cursor that walks its sectors. At each stop the layout says what the sectors need ([`Next`]): an op, nothing,
//! or a block or bitmap to wait for. When the cursor is at the end and no op is outstanding, the request flushes if it must,
//! and is done.
//!
//! ```text
//!  submit ─► Ready ──► ops… ──► (flush) ──► Done
//!             │ ▲
//!             ├─┴─ Waiting: a block is allocated, a bitmap is read
//!             ├─── Stalled: the queue below is full; tried again when anything ends, and after a while
//!             └─── Delayed: an op met an error that may pass; begun anew when it is time
//! ```

mod blocks;
mod delayed;
mod flush;
mod plain;
mod slot;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use iomgr_core::{
    Action, BlockStatus, Busy, CancelOutcome, DeviceQueue, Done, Errno, FileSlot, Lease, Op, OpDone, OpQueue,
    Operation, Owner, Pass, QueueContext, Request, SECTOR_BYTES, SectorRange, Tag, Timestamp, Token,
};

use crate::block_status::FoundData;
use crate::generation::Shared;
use crate::layout::Layout;
pub(crate) use crate::queue::blocks::{Answer, Message};
use crate::queue::blocks::{BlockQueue, FlushMark};
use crate::queue::delayed::Delayed;
use crate::queue::flush::Flushes;
pub(crate) use crate::queue::flush::{ALLOCATOR_LANE, FlushBoard, Neighbours};
use crate::queue::slot::{Pending, Slot, State};
use crate::retry::is_before_any_flush;
use crate::stats::QueueStats;

/// How long what found no room waits at most before it looks again.
const ROOM_AFTER: Duration = Duration::from_millis(5);

/// What the sectors at a request's cursor need.
#[derive(Debug)]
enum Next {
    /// An op that serves so many of them.
    Op { action: Action, sectors: u64 },
    /// Nothing: so many of them are as they should be.
    Skip { sectors: u64 },
    /// Something that is under way; the request is resumed.
    Wait,
    /// Room in the queue below.
    Stall,
    /// They can't be served.
    Fail(Errno),
}

/// What a token of ours names, in its upper bits; the index is in the lower 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OpKind {
    /// Part of the request with this tag.
    Part,
    /// The flush that is under way.
    Flush,
    /// A bitmap for the request with this tag.
    Bitmap,
    /// A step of the allocator.
    Step,
}

impl OpKind {
    fn token(self, owner: Owner, index: u32) -> Token {
        Token::new(owner, (self as u64) << 32 | u64::from(index))
    }

    fn parse(token: Token) -> (Self, u32) {
        let kind = match token.value() >> 32 {
            0 => Self::Part,
            1 => Self::Flush,
            2 => Self::Bitmap,
            _ => Self::Step,
        };
        (
            kind,
            u32::try_from(token.value() & u64::from(u32::MAX)).expect("masked to 32 bits"),
        )
    }
}

/// The token of a step of the allocator.
pub(crate) fn step_token(owner: Owner, index: u32) -> Token {
    OpKind::Step.token(owner, index)
}

/// See the module.
#[derive(Debug)]
pub(crate) struct DiskQueue {
    shared: Arc<Shared>,
    owner: Owner,
    file: FileSlot,
    slots: Box<[Slot]>,
    /// Requests that have not ended.
    in_flight: u32,
    backing: Backing,
    stalled: VecDeque<Tag>,
    /// When to look for room below again: what takes it may be others' ops, of whose end nobody tells us.
    room_at: Option<Timestamp>,
    delayed: Delayed,
    /// Requests that came before were held; what they waited then is not held against them.
    counts_from: Timestamp,
    done: VecDeque<Done>,
    flushes: Flushes,
    /// What the flush that is under way makes durable.
    flush_mark: FlushMark,
    stats: QueueStats,
}

#[derive(Debug)]
enum Backing {
    /// The disk is one run of the file, from this byte.
    Plain { offset: u64, found: FoundData },
    /// The disk is blocks, mapped one by one.
    Blocks(Box<BlockQueue>),
}

impl DiskQueue {
    /// Where that fails, nothing is left behind in the thread's queue.
    pub(crate) fn open(shared: Arc<Shared>, stats: QueueStats, mut cx: QueueContext<'_>) -> Result<Self, crate::Error> {
        let QueueContext {
            owner, depth, index, ..
        } = cx;
        let fail = |what: &str| crate::Error::new(crate::ErrorKind::Queue, what.to_owned());
        let file = cx
            .io
            .add_file(&shared.medium.handle())
            .map_err(|errno| fail("the queue cannot take the image's file").because(errno))?;
        let backing = match &shared.layout {
            Layout::Plain(plain) => Backing::Plain {
                offset: plain.offset_bytes,
                found: FoundData::default(),
            },
            Layout::Blocks(blocks) => {
                let opened = BlockQueue::open(&shared, blocks, file, &mut cx);
                Backing::Blocks(Box::new(opened.inspect_err(|_| cx.io.remove_file(file))?))
            }
        };
        shared.flush_board.join(index.into(), cx.waker);
        Ok(Self {
            owner,
            file,
            slots: (0..depth).map(|_| Slot::default()).collect(),
            in_flight: 0,
            backing,
            stalled: VecDeque::with_capacity(depth as usize),
            room_at: None,
            delayed: Delayed::new(depth),
            counts_from: Timestamp::from_nanos(0),
            done: VecDeque::with_capacity(depth as usize),
            flushes: Flushes::new(index.into(), depth),
            flush_mark: FlushMark::default(),
            stats,
            shared,
        })
    }

    fn slot(&mut self, tag: Tag) -> &mut Slot {
        &mut self.slots[tag.0 as usize]
    }

    /// What would be wrong with starting `request` now?
    fn refusal(&self, request: &Request) -> Option<Errno> {
        let is_transfer = matches!(request.op, Operation::Read | Operation::Write);
        let whole = !is_transfer || u64::from(request.data.len) == request.range.count().0 * SECTOR_BYTES;
        if !request.range.fits(self.shared.size()) || !whole {
            return Some(Errno::INVAL);
        }
        let changes = request.op.is_write();
        if changes && self.shared.is_read_only() {
            return Some(Errno::ROFS);
        }
        ((changes || request.op == Operation::Flush) && self.shared.has_failed()).then_some(Errno::IO)
    }

    /// Moves a request's cursor as far as it goes.
    fn drive(&mut self, pass: &mut Pass<'_>, tag: Tag) {
        if let Backing::Blocks(blocks) = &mut self.backing {
            blocks.pin(&mut self.slots[tag.0 as usize]);
        }
        while !self.slot(tag).is_mapped() {
            let slot = &mut self.slots[tag.0 as usize];
            let next = match &mut self.backing {
                Backing::Plain { offset, .. } => plain::next(*offset, self.shared.durable_writes, slot),
                Backing::Blocks(blocks) => blocks.next(pass, slot),
            };
            if !self.take(pass, tag, next) {
                break;
            }
        }
        self.settle(pass, tag);
    }

    /// Does what `next` says; may the cursor move on?
    fn take(&mut self, pass: &mut Pass<'_>, tag: Tag, next: Next) -> bool {
        match next {
            Next::Op { action, sectors } => {
                let op = Op {
                    token: OpKind::Part.token(self.owner, tag.0),
                    file: self.file,
                    action,
                };
                if pass.io.push(op).is_err() {
                    return self.take(pass, tag, Next::Stall);
                }
                let slot = self.slot(tag);
                slot.outstanding += 1;
                slot.cursor += sectors;
                true
            }
            Next::Skip { sectors } => {
                self.slot(tag).cursor += sectors;
                true
            }
            Next::Wait => {
                self.slot(tag).state = State::Waiting;
                false
            }
            Next::Stall => {
                self.slot(tag).state = State::Stalled;
                self.stalled.push_back(tag);
                self.room_at = Some(pass.now + ROOM_AFTER);
                false
            }
            Next::Fail(errno) => {
                self.slot(tag).refuse(errno);
                false
            }
        }
    }

    /// Ends what can be ended: the hold on the mapping, the request.
    fn settle(&mut self, pass: &mut Pass<'_>, tag: Tag) {
        let slot = &mut self.slots[tag.0 as usize];
        if slot.outstanding > 0 {
            return;
        }
        if let Backing::Blocks(blocks) = &mut self.backing {
            blocks.unpin(slot);
        }
        if slot.state == State::Ready && slot.is_mapped() {
            if slot.error.is_none() && slot.flush_after {
                slot.state = State::Flushing;
                self.flushes.want(tag);
            } else if !self.put_off(pass.now, tag) {
                self.finish(pass, tag);
            }
        }
    }

    /// Starts the next flush, if one is due and there is room.
    fn start_flush(&mut self, pass: &mut Pass<'_>) {
        if !self.flushes.is_due() {
            return;
        }
        self.flushes.begin(&self.shared.flush_board);
        if let Backing::Blocks(blocks) = &mut self.backing {
            self.flush_mark = blocks.flush_started();
        }
        let op = Op {
            token: OpKind::Flush.token(self.owner, 0),
            file: self.file,
            action: Action::Flush,
        };
        if pass.io.push(op).is_err() {
            self.flushes.undo(&self.shared.flush_board);
            self.room_at = Some(pass.now + ROOM_AFTER);
        }
    }

    fn flush_done(&mut self, result: Result<(), Errno>) {
        // Noted before the board hears of the end: whoever waits for this flush sees the failure.
        if let Err(errno) = result {
            self.shared.fail(errno);
        }
        self.flushes.ended(&self.shared.flush_board);
    }

    /// Takes note of what the flush has made durable, once that is certain.
    fn settle_flush(&mut self) {
        if self.flushes.settle(&self.shared.flush_board)
            && let Backing::Blocks(blocks) = &mut self.backing
        {
            blocks.flush_done(self.flush_mark, self.shared.flush_verdict());
        }
    }

    /// Ends the requests whose flush is over, and starts the next.
    fn pump_flushes(&mut self, pass: &mut Pass<'_>) {
        while let Some(tag) = self.flushes.next_over() {
            if let Err(errno) = self.shared.flush_verdict() {
                self.slot(tag).fail(errno);
            }
            self.finish(pass, tag);
        }
        self.start_flush(pass);
    }

    fn part_done(&mut self, pass: &mut Pass<'_>, tag: Tag, result: Result<(), Errno>) {
        let slot = &mut self.slots[tag.0 as usize];
        slot.outstanding -= 1;
        if let Err(errno) = result {
            // A durable write that failed may have failed in its flush: then the page cache holds what the disk has not.
            if slot.durable && !is_before_any_flush(errno) {
                self.shared.fail(errno);
            }
            slot.fail(errno);
        }
        self.settle(pass, tag);
    }

    fn finish(&mut self, pass: &mut Pass<'_>, tag: Tag) {
        let attempts = self.attempts(tag);
        let slot = self.slot(tag);
        let result = slot.error.map_or(Ok(()), Err);
        let request = slot.end().expect("only a running request finishes");
        self.in_flight -= 1;
        if let Err(errno) = result
            && attempts.again > 0
        {
            self.note_given_up(&request, errno, attempts, pass.now);
        }
        if matches!(request.op, Operation::Discard | Operation::WriteZeroes) {
            self.shared.holes_made.fetch_add(1, Ordering::AcqRel);
        }
        self.complete(pass, &request, result);
    }

    fn complete(&mut self, pass: &mut Pass<'_>, request: &Request, result: Result<(), Errno>) {
        let latency = pass.now.since(request.arrival);
        self.stats
            .record(request.op, request.range.count().0, result.is_ok(), latency);
        self.done.push_back(Done {
            tag: request.tag,
            result,
        });
    }

    /// Tries those again that found no room, as long as there is some.
    fn retry_stalled(&mut self, pass: &mut Pass<'_>) {
        for _ in 0..self.stalled.len() {
            let Some(tag) = self.stalled.pop_front() else { return };
            self.slot(tag).state = State::Ready;
            self.drive(pass, tag);
            if self.slot(tag).state == State::Stalled {
                return;
            }
        }
    }

    /// Lets everything go on that news may have freed.
    fn go_on(&mut self, pass: &mut Pass<'_>) {
        self.settle_flush();
        self.pump(pass);
        self.retry_stalled(pass);
        self.pump_flushes(pass);
    }

    /// Lets the allocator go on, and resumes the requests that it was asked for.
    fn pump(&mut self, pass: &mut Pass<'_>) {
        while let Backing::Blocks(blocks) = &mut self.backing
            && blocks.is_stirred()
            && let Some((tag, result)) = blocks.next_ready(pass)
        {
            self.resume(pass, tag, result);
        }
        if matches!(&self.backing, Backing::Blocks(blocks) if blocks.lacks_room()) {
            self.room_at = Some(pass.now + ROOM_AFTER);
        }
    }

    fn resume(&mut self, pass: &mut Pass<'_>, tag: Tag, result: Result<(), Errno>) {
        let slot = self.slot(tag);
        slot.state = State::Ready;
        match (result, std::mem::take(&mut slot.pending)) {
            (Ok(()), Pending::Look) => {}
            (Ok(()), Pending::Release { sectors }) => slot.cursor += sectors,
            (Err(errno), _) => slot.fail(errno),
        }
        self.drive(pass, tag);
    }
}

impl DeviceQueue for DiskQueue {
    fn submit(&mut self, pass: &mut Pass<'_>, request: Request) -> Result<(), Busy> {
        if let Some(errno) = self.refusal(&request) {
            self.complete(pass, &request, Err(errno));
            return Ok(());
        }
        let tag = request.tag;
        self.slot(tag).start(request);
        self.in_flight += 1;
        self.drive(pass, tag);
        self.pump(pass);
        self.start_flush(pass);
        Ok(())
    }

    fn op_done(&mut self, pass: &mut Pass<'_>, done: OpDone) {
        let result = done.result.map_err(|error| error.errno());
        match OpKind::parse(done.token) {
            (OpKind::Part, tag) => self.part_done(pass, Tag(tag), result),
            (OpKind::Flush, _) => self.flush_done(result),
            (kind, index) => {
                let Backing::Blocks(blocks) = &mut self.backing else {
                    unreachable!("a plain disk has no {kind:?}")
                };
                match kind {
                    OpKind::Bitmap => {
                        let result = blocks.bitmap_done(pass, Tag(index), result);
                        self.resume(pass, Tag(index), result);
                    }
                    _ => blocks.step_done(pass, index, result),
                }
            }
        }
        self.go_on(pass);
    }

    fn kick(&mut self, pass: &mut Pass<'_>) {
        if let Backing::Blocks(blocks) = &mut self.backing {
            blocks.stir();
        }
        self.room_at = None;
        self.retry_delayed(pass);
        self.go_on(pass);
    }

    fn wake_at(&self) -> Option<Timestamp> {
        let steps = match &self.backing {
            Backing::Plain { .. } => None,
            Backing::Blocks(blocks) => blocks.wake_at(),
        };
        self.delayed.due().into_iter().chain(steps).chain(self.room_at).min()
    }

    fn poll_done(&mut self) -> Option<Done> {
        self.done.pop_front()
    }

    fn busy(&self) -> bool {
        false
    }

    fn block_status(&mut self, range: SectorRange) -> BlockStatus {
        let known = match &mut self.backing {
            _ if !range.fits(self.shared.size()) => None,
            Backing::Plain { offset, found } => {
                let from = *offset + range.offset_bytes();
                found.status(&self.shared, range, from).ok()
            }
            Backing::Blocks(blocks) => Some(blocks.block_status(range)),
        };
        known.unwrap_or(BlockStatus::data(range.count()))
    }

    fn cancel(&mut self, pass: &mut Pass<'_>, tag: Tag) -> CancelOutcome {
        let Some(slot) = self.slots.get_mut(tag.0 as usize).filter(|slot| slot.request.is_some()) else {
            return CancelOutcome::Unknown;
        };
        if slot.state == State::Delayed {
            // Its ops have ended; so does it, with the error that it has.
            self.delayed.forget(tag);
            self.shared.retries.end_delay();
            self.finish(pass, tag);
            return CancelOutcome::Detached;
        }
        if slot.state != State::Stalled || slot.outstanding > 0 || slot.cursor > 0 || slot.attempts().again > 0 {
            return CancelOutcome::Detached;
        }
        slot.state = State::Ready;
        slot.fail(Errno::CANCELED);
        self.stalled.retain(|&stalled| stalled != tag);
        self.finish(pass, tag);
        CancelOutcome::NeverStarted
    }

    fn is_idle(&self) -> bool {
        let is_working = matches!(&self.backing, Backing::Blocks(blocks) if blocks.is_working());
        self.in_flight == 0 && !is_working
    }

    fn close(self: Box<Self>, io: &mut dyn OpQueue) {
        debug_assert!(self.is_idle(), "a queue closes when it is idle");
        let Self {
            backing,
            shared,
            file,
            flushes,
            ..
        } = *self;
        flushes.close(&shared.flush_board);
        if let (Backing::Blocks(blocks), Layout::Blocks(layout)) = (backing, &shared.layout) {
            blocks.close(layout, io);
        }
        io.remove_file(file);
    }
}

/// So many leases of `bytes` each, or none at all.
pub(crate) fn lease_all(io: &mut dyn OpQueue, count: usize, bytes: u32) -> Option<Vec<Lease>> {
    let leases: Vec<_> = (0..count).map_while(|_| io.alloc(bytes)).collect();
    if leases.len() == count {
        return Some(leases);
    }
    leases.into_iter().for_each(|lease| io.free(lease));
    None
}
