//! Flushes: one op serves all requests of a queue that wait for one, and none is believed before its neighbours have spoken.
//!
//! The kernel reports a failed write-back once per open file description, and all queues of a disk share one: of two flushes
//! that run together, the one that ends well may owe it to the other having taken the error. So a queue whose flush
//! ended well looks at the [`FlushBoard`] for flushes of other queues that were under way, and waits until each has ended and,
//! if it failed, has said so. The allocator's own flushes do the same: neither it nor a request takes for durable what a
//! flush covered before that.
//!
//! ```text
//!  waiting ──► riding (one op) ──► ended well ──► others under way? ──no──► the requests end
//!                                                     └─yes─► until they have ended ──┘
//! ```

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use iomgr_core::{Action, Errno, Op, Pass, Tag, Waker};

use crate::queue::token::OpKind;
use crate::queue::{Backing, DiskQueue, ROOM_AFTER};

/// Lanes of a board: queues, and one for the allocator's own flushes.
const LANES: usize = 65;
/// The allocator's lane.
pub(crate) const ALLOCATOR_LANE: usize = LANES - 1;

/// The flushes of a disk that are under way, one per lane.
#[derive(Debug)]
pub(crate) struct FlushBoard {
    /// The ticket of the lane's flush, 0 while there is none.
    lanes: [AtomicU64; LANES],
    next_ticket: AtomicU64,
    /// Queues that wait for other lanes.
    parked: AtomicU32,
    /// By lane.
    wakers: Mutex<BTreeMap<usize, Waker>>,
}

impl FlushBoard {
    pub(crate) fn new() -> Self {
        Self {
            lanes: std::array::from_fn(|_| AtomicU64::new(0)),
            next_ticket: AtomicU64::new(1),
            parked: AtomicU32::new(0),
            wakers: Mutex::default(),
        }
    }

    /// Who gets parked on `lane` is woken by this.
    pub(super) fn join(&self, lane: usize, waker: Waker) {
        self.wakers().insert(lane, waker);
    }

    /// Nobody gets parked there any more.
    pub(super) fn leave(&self, lane: usize) {
        self.wakers().remove(&lane);
    }

    fn wakers(&self) -> MutexGuard<'_, BTreeMap<usize, Waker>> {
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A flush of `lane` is about to be queued.
    pub(crate) fn begin(&self, lane: usize) {
        let ticket = self.next_ticket.fetch_add(1, Ordering::Relaxed);
        self.lanes[lane].store(ticket, Ordering::SeqCst);
    }

    /// It has ended; if it failed, the disk's failure was noted before.
    pub(crate) fn end(&self, lane: usize) {
        // Sequentially consistent with `park`: either we see the parked queue, or it sees our lane empty.
        self.lanes[lane].store(0, Ordering::SeqCst);
        if self.parked.load(Ordering::SeqCst) > 0 {
            self.wakers().values().for_each(Waker::wake);
        }
    }

    fn ticket(&self, lane: usize) -> u64 {
        self.lanes[lane].load(Ordering::SeqCst)
    }
}

/// The flushes of other lanes that one which has ended waits for, before it is believed.
#[derive(Debug)]
pub(crate) struct Neighbours(Vec<(usize, u64)>);

impl Neighbours {
    pub(crate) fn new() -> Self {
        Self(Vec::with_capacity(LANES))
    }

    /// Notes who is under way. One's own flush has been taken off the board.
    pub(crate) fn look_around(&mut self, board: &FlushBoard) {
        let busy = |lane: usize| Some((lane, board.ticket(lane))).filter(|&(_, ticket)| ticket != 0);
        self.0.extend((0..LANES).filter_map(busy));
        if !self.0.is_empty() {
            board.parked.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Have all of them ended, and said how?
    pub(crate) fn have_spoken(&mut self, board: &FlushBoard) -> bool {
        if !self.0.is_empty() {
            self.0.retain(|&(lane, ticket)| board.ticket(lane) == ticket);
            if self.0.is_empty() {
                board.parked.fetch_sub(1, Ordering::SeqCst);
            }
        }
        self.0.is_empty()
    }
}

/// How far a queue's flush is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// There is none.
    Idle,
    /// Its op is under way.
    Running,
    /// Its op has ended; other lanes may have a word to say.
    Ended,
    /// How it ended is certain; requests are to be told.
    Over,
}

/// One queue's flushes.
#[derive(Debug)]
pub(super) struct Flushes {
    lane: usize,
    /// Requests for the next flush.
    waiting: Vec<Tag>,
    /// Requests of the flush that is under way.
    riding: Vec<Tag>,
    stage: Stage,
    neighbours: Neighbours,
}

impl Flushes {
    pub(super) fn new(lane: usize, depth: u32) -> Self {
        let tags = || Vec::with_capacity(depth as usize);
        Self {
            lane,
            waiting: tags(),
            riding: tags(),
            stage: Stage::Idle,
            neighbours: Neighbours::new(),
        }
    }

    /// The queue closes: nothing is under way.
    pub(super) fn close(&self, board: &FlushBoard) {
        board.leave(self.lane);
    }

    /// A request wants a flush, of everything that has ended so far.
    pub(super) fn want(&mut self, tag: Tag) {
        self.waiting.push(tag);
    }

    /// Is a flush to be started now?
    pub(super) fn is_due(&self) -> bool {
        self.stage == Stage::Idle && !self.waiting.is_empty()
    }

    /// Its op is about to be queued.
    pub(super) fn begin(&mut self, board: &FlushBoard) {
        self.stage = Stage::Running;
        std::mem::swap(&mut self.waiting, &mut self.riding);
        board.begin(self.lane);
    }

    /// The op found no room after all.
    pub(super) fn undo(&mut self, board: &FlushBoard) {
        self.stage = Stage::Idle;
        std::mem::swap(&mut self.waiting, &mut self.riding);
        board.end(self.lane);
    }

    /// The op has ended, and a failure was noted.
    pub(super) fn ended(&mut self, board: &FlushBoard) {
        self.stage = Stage::Ended;
        board.end(self.lane);
        self.neighbours.look_around(board);
    }

    /// Has it become certain just now how the flush ended? Ask after [`ended`](Self::ended) and when woken.
    pub(super) fn settle(&mut self, board: &FlushBoard) -> bool {
        let certain = self.stage == Stage::Ended && self.neighbours.have_spoken(board);
        if certain {
            self.stage = Stage::Over;
        }
        certain
    }

    /// The next request whose flush is over; `None` when there is none.
    pub(super) fn next_over(&mut self) -> Option<Tag> {
        if self.stage != Stage::Over {
            return None;
        }
        let tag = self.riding.pop();
        if tag.is_none() {
            self.stage = Stage::Idle;
        }
        tag
    }
}

impl DiskQueue {
    /// Starts the next flush, if one is due and there is room.
    #[inline]
    pub(super) fn start_flush(&mut self, pass: &mut Pass<'_>) {
        if self.flushes.is_due() {
            self.begin_flush(pass);
        }
    }

    fn begin_flush(&mut self, pass: &mut Pass<'_>) {
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

    pub(super) fn flush_done(&mut self, result: Result<(), Errno>) {
        // Noted before the board hears of the end: whoever waits for this flush sees the failure.
        if let Err(errno) = result {
            self.shared.fail(errno);
        }
        self.flushes.ended(&self.shared.flush_board);
    }

    /// Takes note of what the flush has made durable, once that is certain.
    pub(super) fn settle_flush(&mut self) {
        if self.flushes.settle(&self.shared.flush_board)
            && let Backing::Blocks(blocks) = &mut self.backing
        {
            blocks.flush_done(self.flush_mark, self.shared.flush_verdict());
        }
    }

    /// Ends the requests whose flush is over, and starts the next.
    pub(super) fn pump_flushes(&mut self, pass: &mut Pass<'_>) {
        while let Some(tag) = self.flushes.next_over() {
            if let Err(errno) = self.shared.flush_verdict() {
                self.slot(tag).fail(errno);
            }
            self.finish(pass, tag);
        }
        self.start_flush(pass);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_share_a_flush_and_later_ones_take_the_next() {
        let board = FlushBoard::new();
        let mut flushes = Flushes::new(0, 8);
        flushes.want(Tag(1));
        flushes.want(Tag(2));
        flushes.begin(&board);
        flushes.want(Tag(3));
        assert!(!flushes.is_due());
        flushes.ended(&board);
        assert!(flushes.settle(&board));
        let over: Vec<_> = std::iter::from_fn(|| flushes.next_over()).collect();
        assert_eq!(over, [Tag(2), Tag(1)]);
        assert!(flushes.is_due());
    }

    #[test]
    fn a_good_end_waits_for_its_neighbours() {
        let board = FlushBoard::new();
        let (mut ours, mut theirs) = (Flushes::new(0, 8), Flushes::new(1, 8));
        ours.want(Tag(1));
        theirs.want(Tag(7));
        theirs.begin(&board);
        ours.begin(&board);
        ours.ended(&board);
        assert!(!ours.settle(&board));
        assert_eq!(ours.next_over(), None);
        theirs.ended(&board);
        assert!(theirs.settle(&board));
        assert_eq!(theirs.next_over(), Some(Tag(7)));
        // A flush that began later is no matter of ours.
        assert_eq!(theirs.next_over(), None);
        theirs.want(Tag(8));
        theirs.begin(&board);
        assert!(ours.settle(&board));
        assert!(!ours.settle(&board), "it is told once");
        assert_eq!(ours.next_over(), Some(Tag(1)));
        assert_eq!(board.parked.load(Ordering::SeqCst), 0);
    }
}
