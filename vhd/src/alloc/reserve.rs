//! Slots reserved ahead, in batches: what lets an allocating write cost no flush of its own.
//!
//! ```text
//!  Idle ──► Settled: the first flush since the image was opened has ended
//!             └──► Room: zero what lies in the file already; footer at the new end (it alone extends the file)
//!                    └──► Heads: pad and bitmap of ones for every slot (the old footer may go now)
//!                           └──► Durable: one flush ──► ready
//! ```
//! A process that was killed may have left a BAT entry's clear in the page cache: what looks like a gap is then a slot that
//! a power cut gives back to its block. Hence the first flush, of which no other batch sees anything.
//!
//! A slot is given out only after that flush. So whatever BAT entry a power cut leaves, it points at a bitmap of ones
//! over zeros, or over data that were written since.
//!
//! Slots come from freed ones, then from gaps between the image's parts, then from its end.

use std::collections::VecDeque;

use iomgr_core::Errno;

use super::flush::Flushes;
use super::step::{Job, StepAction};
use crate::layout::FOOTER_BYTES;
use crate::shape::{PAGE, PAGE_BYTES, Shape};

/// The first batch; the next ones double as long as they are used up.
const BATCH_FIRST: usize = 4;
/// What was found at open is durable when this flush is.
const FLUSH_SINCE_OPEN: u64 = 1;
/// The largest batch.
pub(super) const BATCH_MAX: usize = 32;

/// Where a new slot comes from, so that it can go back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Freed,
    Gap,
    Tail,
}

/// A slot of the batch that is being reserved.
#[derive(Clone, Copy, Debug)]
struct NewSlot {
    entry: u32,
    origin: Origin,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Idle,
    Settled,
    Room,
    Heads,
    Durable { need: u64 },
}

/// What the file was like at open.
#[derive(Debug)]
pub(super) struct Bounds {
    pub(super) file_len: u64,
    pub(super) footer_at: u64,
    pub(super) block_device: bool,
    pub(super) data_end: u64,
    pub(super) gaps: Vec<(u64, u64)>,
}

/// The reserve, and the batch under way.
#[derive(Debug)]
pub(super) struct Reserve {
    shape: Shape,
    file_len: u64,
    footer_at: u64,
    block_device: bool,
    /// Gaps between parts, from which slots are cut from the front.
    gaps: Vec<(u64, u64)>,
    /// Where the next slot at the end would begin.
    tail: u64,
    /// Freed slots: zeros on the disk, but their bitmap.
    freed: Vec<u32>,
    ready: VecDeque<u32>,
    batch: Vec<NewSlot>,
    phase: Phase,
    /// Steps of this phase not begun: counts down over footer or batch.
    next: usize,
    outstanding: usize,
    failed: Option<Errno>,
    /// The new footer's place, if this batch moves it.
    new_footer_at: Option<u64>,
    /// Where the footer lay when this batch began: start and end.
    old_footer: (u64, u64),
    size_next: usize,
    size_last: usize,
    exhausted: bool,
}

impl Reserve {
    pub(super) fn new(shape: Shape, mut bounds: Bounds, freed_max: usize) -> Self {
        // A batch that failed gives its gaps back, one by one at worst.
        bounds.gaps.reserve_exact(BATCH_MAX);
        Self {
            shape,
            file_len: bounds.file_len,
            footer_at: bounds.footer_at,
            block_device: bounds.block_device,
            gaps: bounds.gaps,
            tail: bounds.data_end.next_multiple_of(PAGE),
            freed: Vec::with_capacity(freed_max + BATCH_MAX),
            ready: VecDeque::with_capacity(2 * BATCH_MAX),
            batch: Vec::with_capacity(BATCH_MAX),
            phase: Phase::Idle,
            next: 0,
            outstanding: 0,
            failed: None,
            new_footer_at: None,
            old_footer: (0, 0),
            size_next: BATCH_FIRST,
            size_last: 0,
            exhausted: false,
        }
    }

    /// A slot to be used now.
    pub(super) fn take(&mut self) -> Option<u32> {
        self.ready.pop_front()
    }

    /// Takes in a slot that nobody reaches any more and whose data are zeros.
    pub(super) fn give_freed(&mut self, entry: u32) {
        if self.freed.len() < self.freed.capacity() - BATCH_MAX {
            self.freed.push(entry);
        }
        self.exhausted = false;
    }

    pub(super) fn is_idle(&self) -> bool {
        self.phase == Phase::Idle
    }

    /// Should a batch begin: somebody waits, or the reserve is used up by half?
    pub(super) fn wants_batch(&self, waiting: usize) -> bool {
        let low = self.size_last > 0 && !self.exhausted && self.ready.len() < self.size_last.div_ceil(2);
        self.phase == Phase::Idle && (waiting > self.ready.len() || low)
    }

    /// Begins a batch. `NOSPC` if there is no room for even one slot.
    pub(super) fn begin(&mut self) -> Result<(), Errno> {
        let before = self.tail;
        while self.batch.len() < self.size_next {
            let Some(slot) = self.next_slot() else { break };
            self.batch.push(slot);
        }
        if self.batch.is_empty() {
            self.exhausted = true;
            return Err(Errno::NOSPC);
        }
        let grows = !self.block_device && self.tail > before && self.tail > self.footer_at;
        self.new_footer_at = grows.then_some(self.tail + PAGE - FOOTER_BYTES as u64);
        self.old_footer = (self.footer_at, self.file_len);
        self.enter(Phase::Settled);
        Ok(())
    }

    fn next_slot(&mut self) -> Option<NewSlot> {
        if let Some(entry) = self.freed.pop() {
            return Some(NewSlot {
                entry,
                origin: Origin::Freed,
            });
        }
        while let Some(&(start, end)) = self.gaps.last() {
            if end - start >= self.shape.stride()
                && let Some(entry) = self.shape.entry_of(start)
            {
                self.gaps.last_mut().expect("it was just seen").0 += self.shape.stride();
                return Some(NewSlot {
                    entry,
                    origin: Origin::Gap,
                });
            }
            self.gaps.pop();
        }
        let end = self.tail + self.shape.stride();
        let entry = self
            .shape
            .entry_of(self.tail)
            .filter(|_| !self.block_device || end <= self.footer_at)?;
        self.tail = end;
        Some(NewSlot {
            entry,
            origin: Origin::Tail,
        })
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.next = 0;
        self.outstanding = 0;
    }

    /// The next step of the batch, if one can be taken now.
    pub(super) fn next_step(&mut self) -> Option<(Job, StepAction)> {
        if self.failed.is_some() {
            return None;
        }
        let step = match self.phase {
            Phase::Room => self.room_step(),
            Phase::Heads => self.head_step(),
            Phase::Idle | Phase::Settled | Phase::Durable { .. } => None,
        };
        self.outstanding += usize::from(step.is_some());
        step
    }

    fn room_step(&mut self) -> Option<(Job, StepAction)> {
        if self.next == 0 {
            self.next = 1;
            if let Some(at) = self.new_footer_at {
                let offset = at + FOOTER_BYTES as u64 - PAGE;
                return Some((
                    Job::ReserveFooter,
                    StepAction::Write {
                        offset,
                        len: PAGE_BYTES,
                    },
                ));
            }
        }
        while let Some(&slot) = self.batch.get(self.next - 1) {
            self.next += 1;
            // The old footer is left alone: the new one is not written yet.
            let end = if self.block_device { u64::MAX } else { self.old_footer.0 };
            if slot.origin != Origin::Freed
                && let Some(action) = self.zero_in_data(slot, (0, end))
            {
                return Some((Job::ReserveZero, action));
            }
        }
        None
    }

    /// Two things for each slot: what is left of the old footer, and the head.
    fn head_step(&mut self) -> Option<(Job, StepAction)> {
        while let Some(&slot) = self.batch.get(self.next / 2) {
            self.next += 1;
            if self.next.is_multiple_of(2) {
                return Some((Job::ReserveHead, self.head_write(slot)));
            }
            if slot.origin == Origin::Tail
                && self.new_footer_at.is_some()
                && let Some(action) = self.zero_in_data(slot, self.old_footer)
            {
                return Some((Job::ReserveZero, action));
            }
        }
        None
    }

    /// Zeroes the part of `slot`'s data that lies in `range`, if there is one.
    fn zero_in_data(&self, slot: NewSlot, range: (u64, u64)) -> Option<StepAction> {
        let from = self.shape.data_at(slot.entry).max(range.0);
        let to = self.shape.slot_end(slot.entry).min(range.1);
        (from < to).then(|| StepAction::Zero {
            offset: from,
            len: to - from,
            unmap: true,
        })
    }

    fn head_write(&self, slot: NewSlot) -> StepAction {
        let (end, bitmap) = (self.shape.data_at(slot.entry), self.shape.bitmap_bytes());
        // A freed slot may be foreign: what lies before its bitmap may be a neighbour's.
        let len = match slot.origin {
            Origin::Freed => bitmap,
            Origin::Gap | Origin::Tail => usize::try_from(self.shape.head_bytes()).expect("at most 64 KiB"),
        };
        StepAction::Write {
            offset: end - len as u64,
            len,
        }
    }

    /// The write of the new footer ended. If it failed, nobody knows how much of it was done; it lies where the head of
    /// some later slot will be, and a file that is longer than believed harms nobody.
    pub(super) fn footer_done(&mut self, result: Result<(), Errno>) {
        let at = self
            .new_footer_at
            .expect("only a batch that moves the footer writes one");
        if result.is_ok() {
            (self.footer_at, self.file_len) = (at, at + FOOTER_BYTES as u64);
        }
        self.step_done(result);
    }

    /// Another step of the batch ended.
    pub(super) fn step_done(&mut self, result: Result<(), Errno>) {
        self.outstanding -= 1;
        if let Err(errno) = result {
            self.failed.get_or_insert(errno);
        }
    }

    /// Goes on to the next phase where the last one's steps all ended well. Says whether it did.
    pub(super) fn advance(&mut self, flushes: &Flushes) -> bool {
        let ended = self.failed.is_none() && self.outstanding == 0;
        match self.phase {
            Phase::Settled if flushes.is_durable(FLUSH_SINCE_OPEN) => self.enter(Phase::Room),
            Phase::Room if ended && self.next > self.batch.len() => self.enter(Phase::Heads),
            Phase::Heads if ended && self.next >= 2 * self.batch.len() => {
                self.phase = Phase::Durable { need: flushes.need() };
            }
            Phase::Durable { need } if flushes.is_durable(need) => self.become_ready(),
            _ => return false,
        }
        true
    }

    fn become_ready(&mut self) {
        self.phase = Phase::Idle;
        self.size_last = self.batch.len();
        self.size_next = (self.size_last * 2).min(BATCH_MAX);
        self.exhausted = false;
        self.ready.extend(self.batch.drain(..).map(|slot| slot.entry));
    }

    /// A batch that failed, once its last step is back: its slots go back to where they came from. Says whether a
    /// smaller one is worth trying.
    pub(super) fn take_failure(&mut self) -> Option<(Errno, bool)> {
        if self.outstanding > 0 {
            return None;
        }
        let errno = self.failed.take()?;
        self.phase = Phase::Idle;
        self.give_batch_back();
        let smaller = self.size_next > 1 && errno == Errno::NOSPC;
        self.size_next = 1;
        self.exhausted = true;
        Some((errno, smaller))
    }

    fn give_batch_back(&mut self) {
        while let Some(slot) = self.batch.pop() {
            match slot.origin {
                Origin::Freed => self.freed.push(slot.entry),
                Origin::Tail => self.tail -= self.shape.stride(),
                Origin::Gap => {
                    let start = self.shape.slot_end(slot.entry) - self.shape.stride();
                    let end = start + self.shape.stride();
                    match self.gaps.last_mut() {
                        Some(gap) if gap.0 == end => gap.0 = start,
                        _ => self.gaps.push((start, end)),
                    }
                }
            }
        }
    }

    /// The flush that the batch waits for.
    pub(super) fn waits_for_flush(&self, flushes: &Flushes) -> Option<u64> {
        let need = match self.phase {
            Phase::Settled => FLUSH_SINCE_OPEN,
            Phase::Durable { need } => need,
            Phase::Idle | Phase::Room | Phase::Heads => return None,
        };
        (!flushes.is_durable(need)).then_some(need)
    }

    /// Gives up whatever is under way, for good.
    pub(super) fn abandon(&mut self) {
        self.phase = Phase::Idle;
        self.batch.clear();
        self.ready.clear();
        self.failed = None;
    }

    /// Sectors of bitmap at the end of a head of `len` bytes; the rest is pad.
    pub(super) fn fill_head(&self, bytes: &mut [u8]) {
        let pad = bytes.len() - self.shape.bitmap_bytes();
        bytes[..pad].fill(0);
        bytes[pad..].fill(0xFF);
    }
}
