//! Who gets memory for payloads, so that a client that takes and does not give back is in nobody's way for long.
//!
//! ```text
//!             ┌─ short: up to 1 MiB each ──────┐      a share each: as much as one leaves free
//!  payload ───┤                                ├─►    else in line, first come, first served
//!             └─ long: the largest alone fits ─┘      else, if it is small, the connection's own buffer
//! ```
//!
//! Memory is leased when a command is understood, before it takes a slot or a write's payload is received: what waits for
//! memory holds nothing that anybody else could need. Three rules, each for something that the others leave open:
//!
//! - *Shares.* A connection may hold no more than it leaves free, so one that takes all that it gets and stops leaves half; two
//!   leave a quarter. Only a long payload of somebody who holds no other may have any size. Who exceeds its share waits for its
//!   own memory, which comes back when it takes its replies. (Choudhury and Hahne's dynamic thresholds, with a factor of 1.)
//! - *Lines.* Who is within its share and finds nothing lines up, short and long apart, and nobody passes who stands in line.
//!   So everything drains before the first, and even the largest payload finds its run. Who makes the first wait for
//!   [`stall_timeout`](crate::ConnectionLimits::stall_timeout) by a transfer that takes as long is dropped.
//! - *A buffer of its own.* However many stop, each connection can go on with one small payload at a time.
//!
//! # Contract
//! - A payload of up to [`SPARE_BYTES`] waits for nobody but its own connection.
//! - A longer one waits for those that lined up before it, and for each of them no longer than requests take to end and
//!   stalled clients are suffered.
//!
//! # References
//! A. K. Choudhury and E. L. Hahne, Dynamic Queue Length Thresholds for Shared-Memory Packet Switches, 1998.

use std::collections::VecDeque;
use std::time::Duration;

use iomgr_core::{BufId, Lease, OpQueue, Timestamp};
use tqueue::Queue;

use crate::config::{MemorySizes, SPARE_BYTES};

/// The two sorts of payloads, which share no memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Short,
    Long,
}

impl Class {
    pub(super) const ALL: [Self; 2] = [Self::Short, Self::Long];

    fn alloc(self, queue: &mut Queue, len: u32) -> Option<Lease> {
        match self {
            Self::Short => queue.alloc(len),
            Self::Long => queue.alloc_large(len),
        }
    }
}

/// The memory for payloads on one thread. Nothing allocates after [`Memory::new`].
#[derive(Debug)]
pub(super) struct Memory {
    pools: [Pool; 2],
    /// The longest payload that is short.
    short_max: u32,
    /// By the number of a connection.
    accounts: Box<[Account]>,
    /// Connections that waited and whose own memory came back.
    ready: VecDeque<u32>,
    /// Accounts that wait.
    waiting: usize,
}

/// The memory for one class.
#[derive(Debug)]
struct Pool {
    bytes: u64,
    held: u64,
    line: VecDeque<Waiter>,
    /// Something was given back since the first in line last tried.
    freed: bool,
}

#[derive(Clone, Copy, Debug)]
struct Waiter {
    conn: u32,
    since: Timestamp,
}

/// What a connection holds.
#[derive(Debug)]
struct Account {
    /// By class.
    held: [u64; 2],
    /// The buffer of its own, while it is not in use.
    spare: Option<Lease>,
    spare_id: BufId,
    /// It asked, and has not got anything since.
    waits: bool,
    /// It is among those who are ready.
    is_ready: bool,
}

impl Memory {
    /// Memory for that many connections; `None` if the queue lacks the room for their own buffers.
    pub(super) fn new(queue: &mut Queue, sizes: &MemorySizes, connections: u32) -> Option<Self> {
        let room = connections as usize;
        let accounts = (0..connections).map(|_| queue.alloc_large(SPARE_BYTES).map(Account::new));
        Some(Self {
            accounts: accounts.collect::<Option<_>>()?,
            pools: [sizes.short_bytes, sizes.long_bytes].map(|bytes| Pool::new(bytes, room)),
            short_max: sizes.short_max,
            ready: VecDeque::with_capacity(room),
            waiting: 0,
        })
    }

    /// Leases memory to a connection that has nothing else waiting; or lets it wait, and it is told when to try again.
    pub(super) fn lease(&mut self, queue: &mut Queue, conn: u32, len: u32, now: Timestamp) -> Option<Lease> {
        let class = self.class(len);
        let lease = self.lease_shared(queue, conn, class, len);
        let lease = lease.or_else(|| self.accounts[conn as usize].take_spare(len));
        match lease {
            Some(_) if self.accounts[conn as usize].waits => self.leave(conn),
            Some(_) => {}
            None => self.wait(conn, class, len, now),
        }
        lease
    }

    /// Takes memory back.
    pub(super) fn free(&mut self, queue: &mut Queue, conn: u32, lease: Lease) {
        let class = self.class(lease.len_bytes());
        let account = &mut self.accounts[conn as usize];
        if lease.id() == account.spare_id {
            account.spare = Some(Lease::new(account.spare_id, SPARE_BYTES));
        } else {
            let bytes = footprint(lease.len_bytes());
            let pool = &mut self.pools[class as usize];
            account.held[class as usize] -= bytes;
            pool.held -= bytes;
            pool.freed = true;
            queue.free(lease);
        }
        if account.waits && !std::mem::replace(&mut account.is_ready, true) {
            self.ready.push_back(conn);
        }
    }

    /// A connection does not wait any more.
    pub(super) fn leave(&mut self, conn: u32) {
        for pool in &mut self.pools {
            pool.leave(conn);
        }
        let account = &mut self.accounts[conn as usize];
        if std::mem::take(&mut account.is_ready) {
            self.ready.retain(|other| *other != conn);
        }
        if std::mem::take(&mut account.waits) {
            self.waiting -= 1;
        }
    }

    /// The next connection that may find something now.
    pub(super) fn poll_ready(&mut self) -> Option<u32> {
        let Some(ready) = self.ready.pop_front() else {
            return self.pools.iter_mut().find_map(Pool::take_freed);
        };
        self.accounts[ready as usize].is_ready = false;
        Some(ready)
    }

    /// Would [`poll_ready`](Self::poll_ready) name somebody?
    pub(super) fn has_news(&self) -> bool {
        !self.ready.is_empty() || self.pools.iter().any(|pool| pool.freed && !pool.line.is_empty())
    }

    /// Does anybody wait?
    pub(super) fn is_wanted(&self) -> bool {
        self.waiting > 0
    }

    /// Does anybody wait for others?
    pub(super) fn has_line(&self) -> bool {
        self.pools.iter().any(|pool| !pool.line.is_empty())
    }

    /// Has the first in line of this class waited that long?
    pub(super) fn is_overdue(&self, class: Class, patience: Duration, now: Timestamp) -> bool {
        let first = self.pools[class as usize].line.front();
        first.is_some_and(|first| first.since + patience <= now)
    }

    /// Bytes of a class that a connection holds.
    pub(super) fn held(&self, conn: u32, class: Class) -> u64 {
        self.accounts[conn as usize].held[class as usize]
    }

    /// Bytes that a connection holds in all.
    pub(super) fn held_bytes(&self, conn: u32) -> u64 {
        let account = &self.accounts[conn as usize];
        let own = if account.spare.is_some() { 0 } else { SPARE_BYTES };
        account.held.iter().sum::<u64>() + u64::from(own)
    }

    fn class(&self, len: u32) -> Class {
        if len <= self.short_max {
            Class::Short
        } else {
            Class::Long
        }
    }

    fn lease_shared(&mut self, queue: &mut Queue, conn: u32, class: Class, len: u32) -> Option<Lease> {
        let is_first = self.pools[class as usize]
            .line
            .front()
            .is_none_or(|first| first.conn == conn);
        if !is_first || self.exceeds_share(conn, class, len) {
            return None;
        }
        let lease = class.alloc(queue, len)?;
        let bytes = footprint(len);
        self.pools[class as usize].held += bytes;
        self.accounts[conn as usize].held[class as usize] += bytes;
        Some(lease)
    }

    /// Would the connection hold more than it leaves free?
    fn exceeds_share(&self, conn: u32, class: Class, len: u32) -> bool {
        let (pool, held, bytes) = (&self.pools[class as usize], self.held(conn, class), footprint(len));
        let is_alone_long = class == Class::Long && held == 0;
        !is_alone_long && held + bytes > pool.bytes.saturating_sub(pool.held + bytes)
    }

    fn wait(&mut self, conn: u32, class: Class, len: u32, now: Timestamp) {
        let account = &mut self.accounts[conn as usize];
        if !std::mem::replace(&mut account.waits, true) {
            self.waiting += 1;
        }
        let waits_for_itself = account.held[class as usize] > 0 && self.exceeds_share(conn, class, len);
        let pool = &mut self.pools[class as usize];
        if waits_for_itself {
            pool.leave(conn);
        } else if !pool.line.iter().any(|waiter| waiter.conn == conn) {
            pool.line.push_back(Waiter { conn, since: now });
        }
    }
}

impl Pool {
    fn new(bytes: u64, room: usize) -> Self {
        Self {
            bytes,
            held: 0,
            line: VecDeque::with_capacity(room),
            freed: false,
        }
    }

    fn leave(&mut self, conn: u32) {
        let was_first = self.line.front().is_some_and(|first| first.conn == conn);
        self.line.retain(|waiter| waiter.conn != conn);
        // The next one may find what this one left.
        self.freed |= was_first;
    }

    fn take_freed(&mut self) -> Option<u32> {
        let first = self.line.front()?.conn;
        std::mem::take(&mut self.freed).then_some(first)
    }
}

impl Account {
    fn new(spare: Lease) -> Self {
        Self {
            held: [0; 2],
            spare_id: spare.id(),
            spare: Some(spare),
            waits: false,
            is_ready: false,
        }
    }

    /// The buffer of its own, cut to `len`.
    fn take_spare(&mut self, len: u32) -> Option<Lease> {
        let spare = self.spare.take_if(|spare| len <= spare.len_bytes())?;
        Some(Lease::new(spare.id(), len))
    }
}

/// What a lease takes of an arena.
fn footprint(len: u32) -> u64 {
    u64::from(len).next_multiple_of(4096).next_power_of_two()
}

#[cfg(test)]
#[path = "memory/tests.rs"]
mod tests;
