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
mod device;
mod flush;
mod plain;
mod slot;
mod token;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use iomgr_core::{
    Action, Data, Done, Errno, FileSlot, Lease, Op, OpQueue, Operation, Owner, Pass, QueueContext, Request,
    SECTOR_BYTES, Tag, Timestamp,
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
use crate::queue::token::OpKind;
pub(crate) use crate::queue::token::step_token;
use crate::retry::is_before_any_flush;
use crate::stats::QueueStats;

/// How long what found no room waits at most before it looks again.
const ROOM_AFTER: Duration = Duration::from_millis(5);

/// What the sectors at a request's cursor need.
#[derive(Debug)]
enum Next {
    /// An op that serves so many of them.
    Op { action: Action, sectors: u64 },
    /// Zeros, in memory that is out of reach.
    Zeros { data: Data, sectors: u64 },
    /// Nothing: so many of them are as they should be.
    Skip { sectors: u64 },
    /// Something that is under way; the request is resumed.
    Wait,
    /// Room in the queue below.
    Stall,
    /// They can't be served.
    Fail(Errno),
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

    #[inline]
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
        while let Some(next) = self.next(pass, tag)
            && self.take(pass, tag, next)
        {}
        self.settle(pass, tag);
    }

    /// What the sectors at a request's cursor need; `None` if it is not to move.
    #[inline]
    fn next(&mut self, pass: &mut Pass<'_>, tag: Tag) -> Option<Next> {
        let slot = &mut self.slots[tag.0 as usize];
        if slot.is_mapped() {
            return None;
        }
        Some(match &mut self.backing {
            Backing::Plain { offset, .. } => plain::next(*offset, self.shared.durable_writes, slot),
            Backing::Blocks(blocks) => blocks.next(pass, slot),
        })
    }

    /// Does what `next` says; may the cursor move on?
    #[inline]
    fn take(&mut self, pass: &mut Pass<'_>, tag: Tag, next: Next) -> bool {
        match next {
            Next::Op { action, sectors } => self.begin_part(pass, tag, (self.file, action), sectors),
            Next::Zeros { data, sectors } => match pass.io.zeros() {
                Some(zeros) => self.begin_part(pass, tag, (zeros, Action::Read { offset: 0, data }), sectors),
                None => self.refuse(tag, Errno::FAULT),
            },
            Next::Skip { sectors } => {
                self.slot(tag).cursor += sectors;
                true
            }
            Next::Wait => {
                self.slot(tag).state = State::Waiting;
                false
            }
            Next::Stall => self.stall(pass, tag),
            Next::Fail(errno) => self.refuse(tag, errno),
        }
    }

    /// The cursor waits for room below.
    #[cold]
    fn stall(&mut self, pass: &mut Pass<'_>, tag: Tag) -> bool {
        self.slot(tag).state = State::Stalled;
        self.stalled.push_back(tag);
        self.room_at = Some(pass.now + ROOM_AFTER);
        false
    }

    /// The sectors at the cursor cannot be served.
    #[cold]
    fn refuse(&mut self, tag: Tag, errno: Errno) -> bool {
        self.slot(tag).refuse(errno);
        false
    }

    /// Begins an op that serves so many sectors at the cursor; may it move on?
    #[inline]
    fn begin_part(&mut self, pass: &mut Pass<'_>, tag: Tag, (file, action): (FileSlot, Action), sectors: u64) -> bool {
        let token = OpKind::Part.token(self.owner, tag.0);
        if pass.io.push(Op { token, file, action }).is_err() {
            return self.stall(pass, tag);
        }
        let slot = self.slot(tag);
        slot.outstanding += 1;
        slot.cursor += sectors;
        true
    }

    /// Ends what can be ended: the hold on the mapping, the request.
    #[inline]
    fn settle(&mut self, pass: &mut Pass<'_>, tag: Tag) {
        if self.slot(tag).outstanding == 0 {
            self.settle_idle(pass, tag);
        }
    }

    /// The same, of a request none of whose ops is under way.
    fn settle_idle(&mut self, pass: &mut Pass<'_>, tag: Tag) {
        let slot = &mut self.slots[tag.0 as usize];
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

    #[inline]
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
        let result = self.slot(tag).error.map_or(Ok(()), Err);
        if let Err(errno) = result {
            self.note_failed(tag, errno, pass.now);
        }
        let request = self.slot(tag).end().expect("only a running request finishes");
        self.in_flight -= 1;
        if matches!(request.op, Operation::Discard | Operation::WriteZeroes) {
            self.shared.holes_made.fetch_add(1, Ordering::AcqRel);
        }
        self.complete(pass, &request, result);
    }

    #[inline]
    fn complete(&mut self, pass: &mut Pass<'_>, request: &Request, result: Result<(), Errno>) {
        let latency_ns = pass.now.since_ns(request.arrival);
        self.stats
            .record(request.op, request.range.count().0, result.is_ok(), latency_ns);
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
    #[inline]
    fn go_on(&mut self, pass: &mut Pass<'_>) {
        self.settle_flush();
        self.pump(pass);
        self.retry_stalled(pass);
        self.pump_flushes(pass);
    }

    /// Lets the allocator go on, if there is one, and resumes the requests that it was asked for.
    #[inline]
    fn pump(&mut self, pass: &mut Pass<'_>) {
        if let Backing::Blocks(_) = &self.backing {
            self.pump_blocks(pass);
        }
    }

    fn pump_blocks(&mut self, pass: &mut Pass<'_>) {
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

/// So many leases of `bytes` each, or none at all.
pub(crate) fn lease_all(io: &mut dyn OpQueue, count: usize, bytes: u32) -> Option<Vec<Lease>> {
    let leases: Vec<_> = (0..count).map_while(|_| io.alloc(bytes)).collect();
    if leases.len() == count {
        return Some(leases);
    }
    leases.into_iter().for_each(|lease| io.free(lease));
    None
}
