//! The allocator: the machine that changes the map and keeps the image right at every step.
//!
//! It does no I/O. It names steps ([`Allocator::poll_step`]); the caller does them, several at once, and reports
//! ([`Allocator::step_done`]); outcomes come by [`Allocator::poll_event`]. One thread owns it.
//!
//! ```text
//!                       ┌─ slot from the reserve ─► BAT unit written ─► published ─► event
//!  want ──► unallocated ┘
//!       └─► partly written: bitmap ─► zero clear runs ─► flush ─► bitmap of ones ─► published ─► event
//!       └─► full already: event
//!  release ─► BAT unit written ─► published ─► event;   slot ─► limbo ─► punched ─► free for the reserve
//! ```
//!
//! # Contract
//! - Order on the disk: what a BAT entry points at is durable before the entry is written; a block is published after
//!   its BAT unit was written. So the data of a published block may be written at once, and one `fdatasync` from any
//!   thread makes data and metadata durable.
//! - A freed slot is touched again only when its BAT clear is durable and every queue has ended what it began under the
//!   old mapping ([`Fence`]). Nothing waits for the fence: requests in flight may themselves hold it up.
//! - BAT changes of one unit (a page, or a sector where the table lies off pages) are written together, one write at a
//!   time; what comes meanwhile goes with the next.
//! - A block's requests are served in order. The caller keeps other changes of the mapping off a block that has a request
//!   under way (its range lock); reads and writes in place may go on, except that a block not yet full is not written.
//! - Nothing allocates after creation.
//!
//! # Errors
//! `NOSPC` when neither the file nor the format has room; it passes when space is freed. The errno of a failed write goes
//! to those who needed it. After a failed flush everything ends with `IO`: nobody knows any more what is durable.

mod batmap;
mod close;
mod fill;
mod flush;
mod limbo;
mod reserve;
mod step;
mod task;
mod units;

use std::sync::Arc;

use iomgr_core::Errno;

use crate::layout::{FOOTER_BYTES, FooterRepr};
use crate::map::{Map, Slot};
use crate::structure::{Batmap, Bits, Frame};
use crate::table::Units;
use batmap::BatmapClear;
use fill::Fills;
use flush::Flushes;
pub use limbo::Fence;
use limbo::Limbo;
use reserve::{Bounds, Reserve};
pub use step::{Event, Step, StepAction, StepId};
use step::{Job, Steps};
use task::{Goal, Stage, Tasks};

/// The most bytes of a step that carries bytes.
const STEP_BYTES_MAX: u64 = 64 << 10;
/// The most slots that wait in limbo or as freed; more of them are lost until the next open.
const LIMBO_MAX: u64 = 64 << 10;
/// The most BAT units that are remembered as perhaps written wrong.
const SUSPECTS_MAX: usize = 64;

/// How to make an allocator.
pub struct AllocatorOptions {
    /// The most requests, outcomes not fetched yet included.
    pub capacity: usize,
    /// Tells when queues have left a mapping.
    pub fence: Box<dyn Fence + Send>,
}

impl std::fmt::Debug for AllocatorOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AllocatorOptions")
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}

/// The allocator holds as many requests as it can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// What opening found out, for the allocator to start from.
#[derive(Debug)]
pub(crate) struct Ground {
    pub(crate) file_len: u64,
    pub(crate) footer_at: u64,
    pub(crate) block_device: bool,
    pub(crate) data_end: u64,
    pub(crate) gaps: Vec<(u64, u64)>,
    pub(crate) table_tail: Vec<u8>,
}

/// Allocates and frees a dynamic image's blocks. See the [module's page](self).
pub struct Allocator {
    map: Arc<Map>,
    frame: Frame,
    footer: FooterRepr,
    units: Units,
    table_tail: Box<[u8]>,
    block_device: bool,
    /// The file's length at open, its footer left out.
    opened_len: u64,
    tasks: Tasks,
    reserve: Reserve,
    limbo: Limbo,
    fills: Fills,
    flushes: Flushes,
    steps: Steps,
    batmap_clear: BatmapClear,
    fence: Box<dyn Fence + Send>,
    broken: bool,
    changed: bool,
    /// BAT units whose last write failed.
    suspects: Vec<u64>,
    suspects_lost: bool,
    /// The last batch found no room for a single slot; freed ones may yet come.
    no_room: bool,
}

impl std::fmt::Debug for Allocator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Allocator")
            .field("tasks", &self.tasks)
            .field("reserve", &self.reserve)
            .field("steps", &self.steps)
            .field("broken", &self.broken)
            .finish_non_exhaustive()
    }
}

impl Allocator {
    /// The most steps under way at once.
    pub const STEPS_MAX: usize = 32;
    /// The most bytes of a step that carries bytes.
    pub const STEP_BYTES_MAX: u64 = STEP_BYTES_MAX;

    pub(crate) fn new(
        footer: FooterRepr,
        frame: Frame,
        map: Arc<Map>,
        ground: Ground,
        options: AllocatorOptions,
    ) -> Self {
        let Ground {
            file_len,
            footer_at,
            block_device,
            data_end,
            gaps,
            table_tail,
        } = ground;
        let freed_max = usize::try_from(frame.shape.blocks().min(LIMBO_MAX)).expect("at most LIMBO_MAX");
        let bounds = Bounds {
            file_len,
            footer_at,
            block_device,
            data_end,
            gaps,
        };
        let stale = matches!(&frame.batmap, Batmap::Valid { bits, .. } if *bits != Bits::Empty);
        Self {
            units: Units::new(&frame),
            table_tail: table_tail.into(),
            block_device,
            opened_len: footer_at,
            tasks: Tasks::new(options.capacity),
            reserve: Reserve::new(frame.shape, bounds, freed_max),
            limbo: Limbo::new(freed_max),
            fills: Fills::new(&map),
            flushes: Flushes::default(),
            steps: Steps::new(Self::STEPS_MAX),
            batmap_clear: if stale { BatmapClear::Map(0) } else { BatmapClear::Done },
            fence: options.fence,
            broken: false,
            changed: false,
            suspects: Vec::with_capacity(SUSPECTS_MAX),
            suspects_lost: false,
            no_room: false,
            map,
            frame,
            footer,
        }
    }

    /// Asks for `block` to be allocated and full, so that any of its sectors may be written in place.
    pub fn want(&mut self, block: u64, cookie: u64) -> Result<(), Full> {
        self.request(block, Goal::Full, cookie)
    }

    /// Asks for `block` to be freed: it reads as zeros when the event says so.
    pub fn release(&mut self, block: u64, cookie: u64) -> Result<(), Full> {
        self.request(block, Goal::Free, cookie)
    }

    fn request(&mut self, block: u64, goal: Goal, cookie: u64) -> Result<(), Full> {
        assert!(
            block < self.frame.shape.blocks(),
            "a request is for a block of the disk"
        );
        if self.tasks.is_full() {
            return Err(Full);
        }
        if self.broken {
            self.tasks.push_event(cookie, Err(Errno::IO));
        } else {
            self.tasks.add(block, goal, cookie);
            self.settle();
        }
        Ok(())
    }

    /// The outcome of a request that has ended.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.tasks.pop_event()
    }

    /// The next piece of I/O to begin now, if there is one. Ask again after each `step_done`, `flush_done` and request,
    /// and now and then while blocks are freed: the fence opens without a word.
    pub fn poll_step(&mut self) -> Option<Step> {
        if self.broken || self.steps.is_full() {
            return None;
        }
        self.settle();
        let (job, action) = self.next_action()?;
        self.changed = true;
        Some(self.steps.begin(job, action))
    }

    /// Fills in the bytes of a write step.
    ///
    /// # Panics
    /// If the step is no write, or `bytes` has another length than it said.
    pub fn fill(&self, id: StepId, bytes: &mut [u8]) {
        match self.steps.job(id) {
            Job::BatmapClear => bytes.fill(0),
            Job::BatmapHeader => self.fill_batmap_header(bytes),
            Job::Bat { unit } => self.fill_unit(unit, bytes),
            Job::FillWrite { .. } => bytes.fill(0xFF),
            Job::ReserveFooter => self.fill_footer_page(bytes),
            Job::ReserveHead => self.reserve.fill_head(bytes),
            job => panic!("{job:?} is no write"),
        }
    }

    /// Takes in the bytes of a read step.
    ///
    /// # Panics
    /// If the step is no read, or `bytes` has another length than it said.
    pub fn read_done(&mut self, id: StepId, bytes: &[u8]) {
        match self.steps.job(id) {
            Job::FillRead { fill } if !self.broken => self.fills.take_bitmap(fill, bytes),
            Job::FillRead { .. } => {}
            job => panic!("{job:?} is no read"),
        }
    }

    /// A step has ended.
    pub fn step_done(&mut self, id: StepId, result: Result<(), Errno>) {
        let job = self.steps.end(id);
        if self.broken {
            return;
        }
        match job {
            Job::BatmapClear | Job::BatmapHeader => self.batmap_step_done(job, result),
            Job::Bat { unit } => self.unit_done(unit, result),
            Job::FillRead { fill } | Job::FillZero { fill } | Job::FillWrite { fill } => {
                self.fill_done(fill, job, result)
            }
            Job::ReserveFooter => self.reserve.footer_done(result),
            Job::ReserveZero | Job::ReserveHead => self.reserve.step_done(result),
            Job::Punch { entry } if result.is_ok() => {
                self.no_room = false;
                self.reserve.give_freed(entry);
            }
            Job::Punch { .. } => {} // the slot is lost until the next open
            Job::Flush { ticket } => self.flush_done(ticket, result),
        }
        if !self.broken {
            self.settle();
        }
    }

    /// Tells that a flush of the whole image, the guest's, begins now on this thread. The ticket names it.
    pub fn flush_started(&mut self) -> u64 {
        self.flushes.start()
    }

    /// Tells how the flush with `ticket` ended. A failed one ends everything: see the module's page.
    pub fn flush_done(&mut self, ticket: u64, result: Result<(), Errno>) {
        match result {
            Ok(()) => self.flushes.done(ticket),
            Err(_) => self.break_down(),
        }
    }

    /// How many steps are under way.
    pub fn in_flight(&self) -> usize {
        self.steps.in_flight()
    }

    /// Is no request under way? Slots may still be reserved ahead or given back to the host.
    pub fn is_idle(&self) -> bool {
        self.tasks.is_idle()
    }

    /// Do freed slots wait, for a flush or for the fence? While they do, [`poll_step`](Self::poll_step) is to be asked now and then.
    pub fn awaits_reuse(&self) -> bool {
        !self.limbo.is_empty()
    }

    /// Has a flush failed?
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    fn break_down(&mut self) {
        self.broken = true;
        self.tasks.end_all(Errno::IO);
        self.fills.abandon_all();
        self.reserve.abandon();
        self.limbo.clear();
    }

    /// Moves every block as far as it gets without I/O.
    fn settle(&mut self) {
        while self.reserve.advance(&self.flushes) {}
        let mut at = 0;
        while at < self.tasks.len() {
            match self.look_at(at) {
                Some(result) => self.tasks.end(at, result), // another task takes its place
                None => at += 1,
            }
        }
        self.settle_reserve();
    }

    /// Moves one task on; its outcome, if it needs nothing more.
    fn look_at(&mut self, at: usize) -> Option<Result<(), Errno>> {
        let task = self.tasks.task(at);
        if task.stage == Stage::New {
            task.stage = match (task.goal, self.map.slot(task.block)) {
                (_, Slot::Bad(_)) => return Some(Err(Errno::IO)),
                (Goal::Full, Slot::Full(_)) | (Goal::Free, Slot::Unallocated) => return Some(Ok(())),
                (Goal::Full, Slot::Unallocated) => Stage::NeedSlot,
                (Goal::Full, Slot::Partial(_)) => Stage::NeedFill,
                // First the disk's entry must be certain again.
                (Goal::Full, Slot::Held { entry, full: true }) => Stage::BatQueued(Slot::Full(entry)),
                (Goal::Full, Slot::Held { entry, full: false }) => Stage::BatQueued(Slot::Partial(entry)),
                (Goal::Free, _) => Stage::BatQueued(Slot::Unallocated),
            };
        }
        if task.stage == Stage::NeedSlot
            && let Some(entry) = self.reserve.take()
        {
            task.stage = Stage::BatQueued(Slot::Full(entry));
        }
        if task.stage == Stage::NeedFill && self.fills.begin(self.map.bitmap_of(task.block)) {
            task.stage = Stage::Filling;
        }
        None
    }

    /// Begins a batch where one is needed; ends those who wait where there is no room.
    fn settle_reserve(&mut self) {
        match self.reserve.take_failure() {
            Some((errno, _)) if errno != Errno::NOSPC => self.fail_waiting_for_slots(errno),
            Some((_, smaller)) => self.no_room = !smaller,
            None => {}
        }
        let waiting = self.tasks.count(Stage::NeedSlot);
        if !self.no_room && self.reserve.wants_batch(waiting) {
            self.no_room = self.reserve.begin().is_err();
        }
        if self.no_room && !self.slots_are_coming() {
            self.no_room = false;
            self.fail_waiting_for_slots(Errno::NOSPC);
        }
    }

    /// Can freed slots be had without waiting for anybody's request: by a flush, or by what is under way?
    fn slots_are_coming(&self) -> bool {
        self.limbo.waits_for_flush(&self.flushes, &*self.fence).is_some()
            || self.limbo.can_pop(&self.flushes, &*self.fence)
            || self.steps.any(|job| matches!(job, Job::Punch { .. }))
    }

    fn fail_waiting_for_slots(&mut self, errno: Errno) {
        while let Some(at) = self.tasks.position(|task| task.stage == Stage::NeedSlot) {
            self.tasks.end(at, Err(errno));
        }
    }

    fn next_action(&mut self) -> Option<(Job, StepAction)> {
        if self.batmap_clear != BatmapClear::Done {
            return self.batmap_action();
        }
        self.unit_action()
            .or_else(|| self.fills.next_step(&self.map, &self.flushes))
            .or_else(|| self.reserve_action())
            .or_else(|| self.punch_action())
            .or_else(|| self.flush_action())
    }

    fn reserve_action(&mut self) -> Option<(Job, StepAction)> {
        loop {
            if let Some(step) = self.reserve.next_step() {
                return Some(step);
            }
            if !self.reserve.advance(&self.flushes) {
                return None;
            }
        }
    }

    fn punch_action(&mut self) -> Option<(Job, StepAction)> {
        let entry = self.limbo.pop(&self.flushes, &*self.fence)?;
        let shape = self.frame.shape;
        let (offset, len) = (shape.data_at(entry), shape.block_bytes());
        Some((
            Job::Punch { entry },
            StepAction::Zero {
                offset,
                len,
                unmap: true,
            },
        ))
    }

    /// A flush of our own, if somebody needs one that is not under way.
    fn flush_action(&mut self) -> Option<(Job, StepAction)> {
        let starved = self.tasks.count(Stage::NeedSlot) > 0 && self.reserve.is_idle();
        let limbo = self.limbo.waits_for_flush(&self.flushes, &*self.fence);
        let limbo = limbo.filter(|_| starved || self.limbo.is_long());
        let needs = [
            self.reserve.waits_for_flush(&self.flushes),
            self.fills.waits_for_flush(&self.flushes),
            limbo,
        ];
        let need = needs.into_iter().flatten().min()?;
        if self
            .steps
            .any(|job| matches!(job, Job::Flush { ticket } if ticket >= need))
        {
            return None;
        }
        let ticket = self.flushes.start();
        Some((Job::Flush { ticket }, StepAction::Flush))
    }

    fn fill_done(&mut self, fill: usize, job: Job, result: Result<(), Errno>) {
        let block = match result {
            Ok(()) => match self.fills.advance(fill, &self.map, &self.flushes) {
                Some(block) => block,
                None => return,
            },
            Err(_) => self.fills.abandon(fill),
        };
        if matches!(job, Job::FillWrite { .. }) {
            self.map.count_meta_write();
        }
        if result.is_ok() {
            self.map.publish(block, Slot::Full(self.map.slot(block).entry()));
        }
        let at = self
            .tasks
            .position(|task| task.block == block)
            .expect("a fill has its task");
        self.tasks.end(at, result);
    }

    fn fill_footer_page(&self, bytes: &mut [u8]) {
        let pad = bytes.len() - FOOTER_BYTES;
        bytes[..pad].fill(0);
        bytes[pad..].copy_from_slice(&self.footer.emit());
    }
}
