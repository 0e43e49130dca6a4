//! The rates of one device, or of a group of devices, and who waits for them in which order.
//!
//! Those who share rates are *flows*: the two directions of a device, the members of a group. While a pool's buckets let
//! requests go, they go. Else they wait in the order of start-time fair queueing: each request spans the time that it takes
//! of the rate that bounds it most; its tag is where its flow's previous request ends, or the tag of the request that
//! went last if that is later; the smallest tag goes first. So flows that always wait get the same, whatever their sizes.
//!
//! Nobody polls, and nobody wakes others: who is held is told the instant at which those before him will have gone and the
//! buckets have drained, and is expected then. One who does not come in time loses his turn, not his place.

use std::time::Duration;

use super::Rates;
use super::bucket::{Meter, SLACK_MS, Span};
use crate::manager::Head;
use crate::{Class, Operation, Sector, Timestamp};

/// How long a flow is waited for beyond the instant that it was told.
const GRACE: Duration = Duration::from_millis(10);
/// After which it is forgotten.
const GONE: Duration = Duration::from_secs(1);
/// For how long, at most, a flow is held for others that are not there yet. The buckets hold twice as much, so nothing is lost
/// if they do not come.
const FORESIGHT: Duration = Duration::from_millis(SLACK_MS / 2);
/// Waiters for which there is room from the start.
const EXPECTED: usize = 32;

/// A request at a pool.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask<'a> {
    /// Whose it is.
    pub(super) flow: u32,
    pub(super) head: &'a Head,
    pub(super) now: Timestamp,
}

#[derive(Debug)]
pub(super) struct Pool {
    /// Bytes from which a request counts as several.
    iops_size: Option<u32>,
    /// Of all requests, of reads, and of writes.
    scopes: [Scope; 3],
    /// One for each queue and direction of a flow at most: a head asks until it goes, and no other of its class before. Who
    /// never asks again is found when the next one joins; a flow that leaves is forgotten.
    waiters: Vec<Waiter>,
    /// The tag of the request that went last.
    reached: Span,
    joined: u64,
}

/// What bounds one kind of requests.
#[derive(Debug, Default)]
struct Scope {
    iops: Option<Meter>,
    bps: Option<Meter>,
}

/// What a request takes, or several together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Cost {
    requests: u64,
    bytes: u64,
}

/// A request that was told to wait.
#[derive(Debug)]
struct Waiter {
    key: Key,
    rank: Rank,
    cost: Cost,
    span: Span,
    /// What it was told; the start of time if it is not expected.
    due: Timestamp,
    asked: Timestamp,
    /// It waits for something else than what all directions share.
    is_apart: bool,
    /// None of its flow waits behind it.
    is_last: bool,
}

/// What is ahead of a waiter.
#[derive(Debug, Default)]
struct Ahead {
    /// Of what all directions share, and of what its direction has for itself.
    costs: [Cost; 2],
    /// How long it will take, those included that will probably come and be before it.
    span: Span,
}

/// Which request it is. Two that are alike may stand for one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    flow: u32,
    class: Class,
    arrival: Timestamp,
    start: Sector,
}

/// The order of service: by tag, then first come first served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    tag: Span,
    serial: u64,
}

impl Pool {
    pub(super) fn new(rates: &Rates) -> Self {
        let mut pool = Self {
            iops_size: None,
            scopes: Default::default(),
            waiters: Vec::with_capacity(EXPECTED),
            reached: Span::default(),
            joined: 0,
        };
        pool.retune(rates);
        pool
    }

    /// Goes on with other rates. Whoever waits asks again; until then he is not expected.
    pub(super) fn retune(&mut self, rates: &Rates) {
        self.iops_size = rates.iops_size;
        let scopes = [
            (rates.iops, rates.bps),
            (rates.iops_read, rates.bps_read),
            (rates.iops_write, rates.bps_write),
        ];
        let is_awaited = !self.waiters.is_empty();
        for (scope, (iops, bps)) in self.scopes.iter_mut().zip(scopes) {
            retune(&mut scope.iops, iops, is_awaited);
            retune(&mut scope.bps, bps, is_awaited);
        }
        for waiter in &mut self.waiters {
            waiter.due = Timestamp::ZERO;
        }
    }

    /// May it go? If not, it waits here from now on, until the instant that comes back. `end` is where its flow's previous
    /// request ends.
    #[inline]
    pub(super) fn look(&mut self, ask: &Ask<'_>, end: &mut Span) -> Option<Timestamp> {
        for scope in scopes_of(ask.head.class) {
            self.scopes[scope].drain(ask.now);
        }
        if self.waiters.is_empty() && self.due(ask.head.class, Default::default()).0 <= ask.now {
            return None;
        }
        self.look_behind_others(ask, end)
    }

    /// It goes.
    #[inline]
    pub(super) fn take(&mut self, ask: &Ask<'_>, end: &mut Span) {
        let cost = self.cost(ask.head);
        for scope in scopes_of(ask.head.class) {
            self.scopes[scope].take(cost);
        }
        let waiter = self.find(ask).map(|index| self.waiters.swap_remove(index));
        let tag = waiter.map_or_else(|| self.reserve(ask.head.class, cost, end), |waiter| waiter.rank.tag);
        self.reached = self.reached.max(tag);
    }

    /// It went, and comes back.
    pub(super) fn give_back(&mut self, head: &Head, end: &mut Span) {
        let cost = self.cost(head);
        for scope in scopes_of(head.class) {
            self.scopes[scope].give_back(cost);
        }
        *end = end.minus(self.span(head.class, cost));
    }

    /// It waits elsewhere for now, and is not expected here.
    pub(super) fn step_aside(&mut self, ask: &Ask<'_>) {
        if let Some(index) = self.find(ask) {
            let waiter = &mut self.waiters[index];
            waiter.due = Timestamp::ZERO;
            waiter.asked = ask.now;
        }
    }

    /// A flow is gone.
    pub(super) fn forget(&mut self, flow: u32) {
        self.waiters.retain(|waiter| waiter.key.flow != flow);
    }

    #[cold]
    fn look_behind_others(&mut self, ask: &Ask<'_>, end: &mut Span) -> Option<Timestamp> {
        let now = ask.now;
        let class = ask.head.class;
        let known = self.find(ask);
        let rank = known.map_or_else(|| self.next_rank(*end), |index| self.waiters[index].rank);
        let ahead = self.ahead_of(rank, class, now);
        let (due, is_apart) = self.due(class, ahead.costs);
        if due <= now {
            return None;
        }
        let (free, _) = self.due(class, Default::default());
        let turn = free.max(now) + Duration::from_nanos(ahead.span.as_nanos());
        let due = turn.clamp(due, due + FORESIGHT);
        let index = known.unwrap_or_else(|| self.join(ask, end));
        let waiter = &mut self.waiters[index];
        waiter.due = due;
        waiter.asked = now;
        waiter.is_apart = is_apart;
        Some(due)
    }

    fn ahead_of(&self, rank: Rank, class: Class, now: Timestamp) -> Ahead {
        let mut ahead = Ahead::default();
        for waiter in self.waiters.iter().filter(|waiter| waiter.is_before(rank, now)) {
            let is_like = waiter.key.class == class;
            if is_like {
                ahead.costs[1].add(waiter.cost);
            }
            if is_like || !waiter.is_apart {
                ahead.costs[0].add(waiter.cost);
                ahead.span = ahead.span.plus(waiter.span_until(rank));
            }
        }
        ahead
    }

    /// When a request may go behind those ahead of it, and if that is for the sake of its direction alone.
    #[inline]
    fn due(&self, class: Class, ahead: [Cost; 2]) -> (Timestamp, bool) {
        let [all, own] = scopes_of(class);
        let shared = self.scopes[all].due(ahead[0]);
        let apart = self.scopes[own].due(ahead[1]);
        (shared.max(apart), apart > shared)
    }

    fn next_rank(&self, end: Span) -> Rank {
        Rank {
            tag: end.max(self.reached),
            serial: self.joined,
        }
    }

    /// A new waiter; says where.
    fn join(&mut self, ask: &Ask<'_>, end: &mut Span) -> usize {
        self.waiters.retain(|waiter| !waiter.is_gone(ask.now));
        for waiter in &mut self.waiters {
            waiter.is_last &= waiter.key.flow != ask.flow;
        }
        let cost = self.cost(ask.head);
        let serial = self.joined;
        self.joined += 1;
        let tag = self.reserve(ask.head.class, cost, end);
        self.waiters.push(Waiter {
            key: Key::of(ask),
            rank: Rank { tag, serial },
            cost,
            span: end.minus(tag),
            due: ask.now,
            asked: ask.now,
            is_apart: false,
            is_last: true,
        });
        self.waiters.len() - 1
    }

    /// Appends a request to its flow; says its tag.
    #[inline]
    fn reserve(&self, class: Class, cost: Cost, end: &mut Span) -> Span {
        let tag = self.reached.max(*end);
        *end = tag.plus(self.span(class, cost));
        tag
    }

    #[inline]
    fn span(&self, class: Class, cost: Cost) -> Span {
        let spans = scopes_of(class).map(|scope| self.scopes[scope].span(cost));
        spans[0].max(spans[1])
    }

    #[inline]
    fn find(&self, ask: &Ask<'_>) -> Option<usize> {
        self.waiters.iter().position(|waiter| waiter.key == Key::of(ask))
    }

    /// What a request takes. Discards and write-zeroes carry no data.
    #[inline]
    fn cost(&self, head: &Head) -> Cost {
        let bytes = match head.op {
            Operation::Discard | Operation::WriteZeroes => 0,
            _ => head.range.len_bytes(),
        };
        let requests = self.iops_size.map_or(1, |size| bytes.div_ceil(size.into()).max(1));
        Cost { requests, bytes }
    }
}

fn retune(meter: &mut Option<Meter>, rate: Option<super::Rate>, is_awaited: bool) {
    match (meter.as_mut(), rate) {
        (Some(meter), Some(rate)) => meter.retune(rate, is_awaited),
        (_, rate) => *meter = rate.map(Meter::new),
    }
}

/// What bounds a class: the scope of all, and its own.
#[inline]
fn scopes_of(class: Class) -> [usize; 2] {
    match class {
        Class::Read => [0, 1],
        _ => [0, 2],
    }
}

impl Scope {
    #[inline]
    fn drain(&mut self, now: Timestamp) {
        [&mut self.iops, &mut self.bps]
            .into_iter()
            .flatten()
            .for_each(|meter| meter.drain(now));
    }

    #[inline]
    fn due(&self, ahead: Cost) -> Timestamp {
        let due = |meter: &Option<Meter>, units| meter.as_ref().map_or(Timestamp::ZERO, |meter| meter.due(units));
        due(&self.iops, ahead.requests).max(due(&self.bps, ahead.bytes))
    }

    #[inline]
    fn take(&mut self, cost: Cost) {
        self.each(cost, Meter::take);
    }

    fn give_back(&mut self, cost: Cost) {
        self.each(cost, Meter::give_back);
    }

    #[inline]
    fn each(&mut self, cost: Cost, change: impl Fn(&mut Meter, u64)) {
        if let Some(meter) = &mut self.iops {
            change(meter, cost.requests);
        }
        if let Some(meter) = &mut self.bps {
            change(meter, cost.bytes);
        }
    }

    #[inline]
    fn span(&self, cost: Cost) -> Span {
        let span = |meter: &Option<Meter>, units| meter.as_ref().map_or(Span::default(), |meter| meter.span(units));
        span(&self.iops, cost.requests).max(span(&self.bps, cost.bytes))
    }
}

impl Cost {
    fn add(&mut self, other: Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

impl Key {
    fn of(ask: &Ask<'_>) -> Self {
        Self {
            flow: ask.flow,
            class: ask.head.class,
            arrival: ask.head.arrival,
            start: ask.head.range.start(),
        }
    }
}

impl Waiter {
    /// Is it served before this rank, and in time?
    fn is_before(&self, rank: Rank, now: Timestamp) -> bool {
        self.rank < rank && now <= self.due + GRACE
    }

    /// How long its flow is served before this rank: the last of a flow is followed by more of the same.
    fn span_until(&self, rank: Rank) -> Span {
        match self.is_last {
            true => self.span.max(rank.tag.minus(self.rank.tag)),
            false => self.span,
        }
    }

    fn is_gone(&self, now: Timestamp) -> bool {
        now > self.due.max(self.asked) + GONE
    }
}
