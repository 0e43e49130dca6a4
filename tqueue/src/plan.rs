//! The plan step: which of the queued ops go to the kernel next, in which order, and which of them as one.
//!
//! Pure: a batch of ops goes in, groups come out. Each group becomes one op for the kernel; its members are contiguous in
//! [`Plan::order`], and ascend in the file.
//!
//! ```text
//!  arrival   W 8+4   R 40+4   W 0+4   W 4+4   flush   W 12+4
//!            └──────── section ────────────┘          └ section
//!  sorted    W 0+4   W 4+4    W 8+4   R 40+4
//!            └─── one group ──────┘   └ one           groups go in the order of their first arrivals
//! ```
//!
//! # Contract
//! - A group is of reads, or of writes that are durable alike, on one file, each beginning where the one before it ends, within
//!   [`PlanLimits`].
//! - Nothing is merged across a flush, whichever file it is of: sections between flushes are planned one by one.
//! - An op that overlaps another one of its section goes alone, at its turn. So whatever moves has nothing to overtake.
//! - An op that is to go alone does.
//! - Nothing allocates.

use crate::config::PlanLimits;
use crate::files::FileIndex;
use crate::inflight::Key;

/// What kind of op it is; ops of different kinds never become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Read,
    Write {
        durable: bool,
    },
    /// Nothing moves across it that it might have to cover.
    Flush,
    Discard,
    Zero {
        unmap: bool,
        fast: bool,
    },
    Prefetch,
}

/// An op as the plan sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PlanOp {
    pub(crate) key: Key,
    pub(crate) file: FileIndex,
    pub(crate) kind: Kind,
    /// First byte in the file.
    pub(crate) offset: u64,
    /// How many bytes.
    pub(crate) len: u64,
    /// It was part of a group that failed: never again. Or its memory is a driver's buffer: an entry names one of those.
    pub(crate) alone: bool,
}

impl PlanOp {
    /// The byte behind it.
    pub(crate) fn end(&self) -> u64 {
        self.offset.saturating_add(self.len)
    }

    /// May others be merged with it?
    fn is_mergeable(&self) -> bool {
        !self.alone && matches!(self.kind, Kind::Read | Kind::Write { .. })
    }

    /// Has it a place in the file, among those that may be merged?
    fn is_sortable(&self) -> bool {
        !matches!(self.kind, Kind::Flush | Kind::Prefetch)
    }

    /// Does it go on where `other` ends, with the same?
    pub(crate) fn continues(&self, other: &Self) -> bool {
        self.offset == other.end()
            && self.file == other.file
            && self.kind == other.kind
            && self.is_mergeable()
            && other.is_mergeable()
    }
}

/// Members that become one op for the kernel: a run of [`Plan::order`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    first: u32,
    count: u32,
}

/// The lists of one plan, kept and used again.
#[derive(Debug)]
pub(crate) struct Plan {
    limits: PlanLimits,
    /// All ops, group by group.
    order: Vec<Key>,
    /// In the order in which they are to go.
    groups: Vec<Group>,
    /// The ops of a section in the order of the file.
    sorted: Vec<Place>,
    /// Of a section: the group that goes when the op of this arrival would; of no members where the op goes with an earlier one.
    turns: Vec<Group>,
}

/// Where an op lies, for sorting: file, offset, arrival, from the top. One number compares faster than three.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place(u128);

impl Place {
    fn new(op: &PlanOp, arrival: u32) -> Self {
        Self(u128::from(op.file.0) << 96 | u128::from(op.offset) << 32 | u128::from(arrival))
    }

    #[allow(clippy::cast_possible_truncation, reason = "the parts are taken apart")]
    fn arrival(self) -> u32 {
        self.0 as u32
    }
}

/// A group that is being made.
struct Open<'a> {
    group: Group,
    /// The earliest arrival among its members.
    turn: u32,
    bytes: u64,
    last: &'a PlanOp,
    overlaps: bool,
}

/// How far the ops of a file reach, of those that lie before a point.
#[derive(Default)]
struct Reach {
    file: Option<FileIndex>,
    end: u64,
}

impl Plan {
    /// For batches of `capacity` ops.
    pub(crate) fn new(capacity: usize, limits: PlanLimits) -> Self {
        Self {
            limits,
            order: Vec::with_capacity(capacity),
            groups: Vec::with_capacity(capacity),
            sorted: Vec::with_capacity(capacity),
            turns: Vec::with_capacity(capacity),
        }
    }

    /// Plans `batch`, which is in order of arrival and no longer than the capacity.
    pub(crate) fn make(&mut self, batch: &[PlanOp]) {
        assert!(
            batch.len() <= self.order.capacity(),
            "a batch is no longer than the capacity"
        );
        self.order.clear();
        self.groups.clear();
        if let [op] = batch {
            // Nothing to sort: at depth 1 the plan would cost as much as the rest of the pass.
            self.order.push(op.key);
            return self.groups.push(Group { first: 0, count: 1 });
        }
        for section in batch.split_inclusive(|op| op.kind == Kind::Flush) {
            self.sort(section);
            match self.are_apart(section) {
                true => self.keep_apart(section),
                false => self.merge(section),
            }
        }
    }

    /// Bounds that groups keep to.
    pub(crate) fn limits(&self) -> PlanLimits {
        self.limits
    }

    /// How many groups there are.
    pub(crate) fn len(&self) -> usize {
        self.groups.len()
    }

    /// The members of a group.
    pub(crate) fn group(&self, at: usize) -> &[Key] {
        let Group { first, count } = self.groups[at];
        &self.order[first as usize..][..count as usize]
    }

    /// Sorts the ops of a section that work on bytes of a file. The others go alone, as all do where nothing is to be merged.
    fn sort(&mut self, section: &[PlanOp]) {
        self.sorted.clear();
        if self.limits.max_segments == 1 {
            return;
        }
        let sortable = section.iter().zip(0..).filter(|(op, _)| op.is_sortable());
        self.sorted
            .extend(sortable.map(|(op, arrival)| Place::new(op, arrival)));
        // Allocates nothing, and takes one pass if they ascend or descend already.
        self.sorted.sort_unstable();
    }

    /// Is there a gap behind each of the sorted ops, so that none meets another?
    fn are_apart(&self, section: &[PlanOp]) -> bool {
        let op_at = |place: Place| &section[place.arrival() as usize];
        self.sorted.windows(2).all(|pair| {
            let (one, next) = (op_at(pair[0]), op_at(pair[1]));
            one.file != next.file || one.end() < next.offset
        })
    }

    /// Makes a group of each op: what [`merge`](Self::merge) comes to if they are apart, for less.
    fn keep_apart(&mut self, section: &[PlanOp]) {
        let first = u32::try_from(self.order.len()).expect("a batch is short");
        let groups = (first..).zip(section).map(|(first, _)| Group { first, count: 1 });
        self.groups.extend(groups);
        self.order.extend(section.iter().map(|op| op.key));
    }

    /// Makes groups of the sorted ops, and of each of the others.
    fn merge(&mut self, section: &[PlanOp]) {
        self.turns.clear();
        self.turns.resize(section.len(), Group::NONE);
        for (op, arrival) in section.iter().zip(0..).filter(|(op, _)| !op.is_sortable()) {
            self.close(&self.open(arrival, op, true));
            self.order.push(op.key);
        }
        self.merge_sorted(section);
        self.groups.extend(self.turns.iter().filter(|group| group.count > 0));
    }

    fn merge_sorted(&mut self, section: &[PlanOp]) {
        let op_at = |place: &Place| &section[place.arrival() as usize];
        let mut reach = Reach::default();
        let mut open: Option<Open<'_>> = None;
        for at in 0..self.sorted.len() {
            let (arrival, op) = (self.sorted[at].arrival(), op_at(&self.sorted[at]));
            let meets_last = reach.take(op);
            let overlaps = meets_last || self.sorted.get(at + 1).is_some_and(|next| reach.covers(op_at(next)));
            if !open
                .as_mut()
                .is_some_and(|open| open.take(arrival, op, overlaps, self.limits))
            {
                let next = self.open(arrival, op, overlaps);
                open.replace(next).into_iter().for_each(|open| self.close(&open));
            }
            self.order.push(op.key);
        }
        open.into_iter().for_each(|open| self.close(&open));
    }

    /// Begins a group with the op that is the next in the order.
    fn open<'a>(&self, arrival: u32, op: &'a PlanOp, overlaps: bool) -> Open<'a> {
        let first = u32::try_from(self.order.len()).expect("a batch is short");
        Open {
            group: Group { first, count: 1 },
            turn: arrival,
            bytes: op.len,
            last: op,
            overlaps,
        }
    }

    fn close(&mut self, open: &Open<'_>) {
        self.turns[open.turn as usize] = open.group;
    }
}

impl Group {
    const NONE: Self = Self { first: 0, count: 0 };
}

impl<'a> Open<'a> {
    /// Takes an op in as the last member, if it may be one.
    fn take(&mut self, arrival: u32, op: &'a PlanOp, overlaps: bool, limits: PlanLimits) -> bool {
        let fits =
            self.group.count < limits.max_segments && self.bytes.saturating_add(op.len) <= u64::from(limits.max_bytes);
        if self.overlaps || overlaps || !fits || !op.continues(self.last) {
            return false;
        }
        self.group.count += 1;
        self.turn = self.turn.min(arrival);
        self.bytes += op.len;
        self.last = op;
        true
    }
}

impl Reach {
    /// Adds an op, the next in order. True: it overlaps one before it.
    fn take(&mut self, op: &PlanOp) -> bool {
        let overlaps = self.covers(op);
        let before = if self.file == Some(op.file) { self.end } else { 0 };
        self.file = Some(op.file);
        self.end = before.max(op.end());
        overlaps
    }

    fn covers(&self, op: &PlanOp) -> bool {
        self.file == Some(op.file) && op.offset < self.end
    }
}

#[cfg(test)]
mod tests;
