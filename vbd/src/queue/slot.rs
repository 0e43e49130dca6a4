//! What a queue knows of one request.

use crate::retry::Attempts;
use iomgr_core::{Data, Errno, Operation, Request, RequestFlags, SECTOR_SHIFT, Sector, SectorCount, Tag};

/// How far a request is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum State {
    /// Its cursor may move.
    #[default]
    Ready,
    /// A block or a bitmap is awaited.
    Waiting,
    /// It found no room below.
    Stalled,
    /// Its flush is under way.
    Flushing,
    /// It has met an error that may pass, and is tried again later.
    Delayed,
}

/// What a waiting request waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Pending {
    /// Nothing, or something after which its sectors are looked at again.
    #[default]
    Look,
    /// A block's release, which deals with so many sectors.
    Release { sectors: u64 },
}

/// A request and its cursor.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) request: Option<Request>,
    pub(super) state: State,
    /// What comes of it when it is resumed.
    pub(super) pending: Pending,
    /// Sectors of the request that are dealt with.
    pub(super) cursor: u64,
    /// Ops under way.
    pub(super) outstanding: u32,
    /// The first error.
    pub(super) error: Option<Errno>,
    /// The error is no file's, and does not pass.
    pub(super) is_refused: bool,
    /// Times that it was tried again.
    again: u32,
    /// Its writes carry FUA themselves.
    pub(super) durable: bool,
    /// It ends with a flush.
    pub(super) flush_after: bool,
    /// Its hold on the mapping, while ops are under way.
    pub(super) pin: Option<iomgr_core::epoch::EpochPin>,
}

impl Slot {
    /// Takes a request.
    ///
    /// # Panics
    /// If it holds one already: the frontend reused a tag too early.
    pub(super) fn start(&mut self, request: Request) {
        assert!(self.request.is_none(), "a tag is free before it is used again");
        let flush_after = request.op == Operation::Flush;
        *self = Self {
            request: Some(request),
            flush_after,
            ..Self::default()
        };
    }

    /// Gives the request up.
    pub(super) fn end(&mut self) -> Option<Request> {
        debug_assert!(
            self.pin.is_none() && self.outstanding == 0,
            "nothing is under way at the end"
        );
        self.request.take()
    }

    /// Keeps the first error; nothing more is begun.
    pub(super) fn fail(&mut self, errno: Errno) {
        self.error.get_or_insert(errno);
    }

    /// Likewise, for what no other attempt would change.
    pub(super) fn refuse(&mut self, errno: Errno) {
        self.is_refused |= self.error.is_none();
        self.fail(errno);
    }

    /// Begins the request anew.
    pub(super) fn restart(&mut self) {
        let (request, again) = (self.end(), self.again);
        self.start(request.expect("a slot that is tried again holds a request"));
        self.again = again + 1;
    }

    /// How often it was tried, for the policy.
    pub(super) fn attempts(&self) -> Attempts {
        Attempts {
            since: self.running().arrival,
            again: self.again,
            salt: self.tag().0,
        }
    }

    /// The request's tag.
    ///
    /// # Panics
    /// Like all below: if there is no request.
    pub(super) fn tag(&self) -> Tag {
        self.running().tag
    }

    /// Where the cursor is, and how many sectors are left.
    pub(super) fn rest(&self) -> (Sector, SectorCount) {
        let range = self.running().range;
        (
            Sector(range.start().0 + self.cursor),
            SectorCount(range.count().0 - self.cursor),
        )
    }

    /// The memory of `count` sectors at the cursor.
    pub(super) fn data(&self, count: SectorCount) -> Data {
        let bytes = |sectors: u64| u32::try_from(sectors << SECTOR_SHIFT).expect("a transfer is as long as its memory");
        self.running().data.slice(bytes(self.cursor), bytes(count.0))
    }

    /// Must it survive a power cut when it is acknowledged?
    pub(super) fn is_fua(&self) -> bool {
        self.has(RequestFlags::FUA)
    }

    pub(super) fn has(&self, flag: RequestFlags) -> bool {
        self.running().flags.contains(flag)
    }

    pub(super) fn is(&self, op: Operation) -> bool {
        self.running().op == op
    }

    fn running(&self) -> &Request {
        self.request.as_ref().expect("a driven slot holds a request")
    }

    /// Is the cursor at the end, or not to move any more?
    pub(super) fn is_mapped(&self) -> bool {
        let sectors = self.request.as_ref().map_or(0, |request| request.range.count().0);
        self.error.is_some() || self.cursor == sectors
    }
}
