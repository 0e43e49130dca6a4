//! The arena: one mapping of memory that the kernel may reach, leased out in runs.
//!
//! ```text
//!  mapping (anonymous, not reserved)  ├── lease ──┤├─ free ─┤├──── lease ────┤ … ├── large ──┤├─ zeros ─┤
//!  lease   BufId = generation · 2^20 + index     state, first page, order, length asked for, readers, writers, keepers
//!  run     first byte and length in the arena, checked once, when the op was pushed
//! ```
//!
//! # Contract
//! - An op holds the lease behind its run from `hold` (when pushed) to `release` (its terminal completion). A lease
//!   given back meanwhile is a zombie: its pages are free only after the last release. What is kept is a zombie likewise.
//! - [`Arena::bytes`] refuses memory that a held op writes to, [`Arena::bytes_mut`] memory that any op holds. So no Rust
//!   reference ever meets the kernel in the same memory.
//! - A `BufId` that was made up, or is out of date, names nothing. It is found out, not followed.
//!
//! Memory of others has a lease as well, while it is here: `foreign`.
#![allow(
    unsafe_code,
    reason = "the arena is a mapping: references into it are made here, and only here"
)]

mod aligned;
mod borrow;
mod foreign;

use std::ptr::NonNull;
use std::slice;

use iomgr_core::{BufId, Data, DataHome, Lease};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

pub use aligned::AlignedBuf;
pub use borrow::{BORROWED_MAX, Borrowed};
use foreign::Foreign;
pub(crate) use foreign::PLACES_MAX;

use crate::buddy::{Buddy, order_for};
use crate::run::Run;
use crate::{Error, ErrorKind};

/// Bytes of a page, and the alignment of every lease.
const PAGE: u32 = 4096;
/// Bits of a `BufId` that are the index.
const INDEX_BITS: u32 = 20;
/// Bytes of zeros that stand in where a file cannot zero a range itself.
pub(crate) const ZEROS_BYTES: u32 = 64 << 10;

/// Bytes that are registered at most. Registering pins and so touches every page of it: all of a default arena would take
/// longer than everything else that a server does before it serves.
const WINDOW_BYTES: u32 = 4 << 20;

/// Which lease an op holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    index: u32,
    access: Access,
}

/// How an op uses its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// The op reads the memory (a write, a send).
    Reads,
    /// The op fills the memory (a read, a receive).
    Fills,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    Live,
    /// Given back while ops hold it.
    Zombie,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    state: State,
    order: u8,
    generation: u16,
    page: u32,
    len: u32,
    readers: u32,
    fillers: u32,
    /// Those who will hold it again and again.
    keepers: u32,
    registered: Registered,
}

/// The front of a lease that the ring has registered by itself; no bytes, if none is.
#[derive(Clone, Copy, Debug)]
struct Registered {
    place: u16,
    len: u32,
}

impl Registered {
    const NONE: Self = Self { place: 0, len: 0 };
}

impl Slot {
    const FREE: Self = Self {
        state: State::Free,
        order: 0,
        generation: 0,
        page: 0,
        len: 0,
        readers: 0,
        fillers: 0,
        keepers: 0,
        registered: Registered::NONE,
    };
}

/// The memory and who has which part of it.
#[derive(Debug)]
pub(crate) struct Arena {
    base: NonNull<u8>,
    /// Of the mapping: what is leased, and the zeros behind it.
    len: usize,
    buddy: Buddy,
    /// The pages behind `buddy`'s.
    large: Buddy,
    /// The first page of `large`.
    border: u32,
    slots: Box<[Slot]>,
    /// Indices of free slots; never grows past its capacity.
    vacant: Vec<u32>,
    /// Memory of others.
    foreign: Foreign,
    zeros: Run,
    window: Run,
    /// May the kernel reach the memory of held ops? Then engines get no references to it.
    shared: bool,
    /// `alloc` found nothing since this was last asked.
    starved: bool,
    leaked: bool,
}

impl Arena {
    /// Maps `len` and `large` bytes, multiples of 4096. `shared`: the kernel will work on the memory by itself.
    pub(crate) fn new(len: usize, large: usize, shared: bool) -> Result<Self, Error> {
        let count = |len: usize| u32::try_from(len / PAGE as usize).expect("checked with the configuration");
        let (border, len) = (count(len), len + large);
        let pages = count(len);
        let zeros = Run::new(len as u64, ZEROS_BYTES);
        let len = len + ZEROS_BYTES as usize;
        let base = map(len).map_err(|errno| {
            let context = format!("mapping {len} bytes for buffers (address space, overcommit or `ulimit -v`)");
            Error::new(ErrorKind::Memory, context, errno)
        })?;
        Ok(Self {
            base,
            len,
            buddy: Buddy::new(border),
            large: Buddy::new(pages - border),
            border,
            slots: vec![Slot::FREE; pages as usize].into(),
            vacant: (0..pages).rev().collect(),
            foreign: Foreign::new(pages, 0),
            zeros,
            window: window(border),
            shared,
            starved: false,
            leaked: false,
        })
    }

    /// Leases `len` bytes.
    pub(crate) fn alloc(&mut self, len: u32) -> Option<Lease> {
        self.lease(len, |arena, order| arena.buddy.take(order))
    }

    /// Leases `len` bytes of the part for large leases.
    pub(crate) fn alloc_large(&mut self, len: u32) -> Option<Lease> {
        self.lease(len, |arena, order| Some(arena.large.take(order)? + arena.border))
    }

    fn lease(&mut self, len: u32, take: impl Fn(&mut Self, u8) -> Option<u32>) -> Option<Lease> {
        let lease = self.try_lease(len, take);
        self.starved |= lease.is_none();
        lease
    }

    fn try_lease(&mut self, len: u32, take: impl Fn(&mut Self, u8) -> Option<u32>) -> Option<Lease> {
        if len == 0 {
            return None;
        }
        let order = order_for(len.div_ceil(PAGE));
        let page = take(self, order)?;
        let index = self.vacant.pop().expect("as many slots as pages");
        let slot = &mut self.slots[index as usize];
        *slot = Slot {
            state: State::Live,
            order,
            page,
            len,
            registered: Registered::NONE,
            ..*slot
        };
        Some(Lease::new(BufId(u32::from(slot.generation) << INDEX_BITS | index), len))
    }

    /// Gives a lease back; its pages are free when nothing holds them any more.
    pub(crate) fn free(&mut self, lease: Lease) {
        let Some(index) = self.find(lease.id()) else {
            tracing::error!(
                ?lease,
                "lease_foreign: a buffer was given back to a queue that did not lease it"
            );
            return;
        };
        self.slots[index as usize].state = State::Zombie;
        self.bury(index);
    }

    /// Checks `data` and takes hold of the memory behind it. `None`: it names no memory of ours.
    pub(crate) fn hold(&mut self, data: Data, access: Access) -> Option<(Run, Option<Held>)> {
        if data.home == DataHome::None {
            return (data.len == 0).then_some((Run::EMPTY, None));
        }
        let (index, mut run) = self.resolve(data)?;
        let slot = &mut self.slots[index as usize];
        if data.offset + data.len <= slot.registered.len {
            run = run.registered_at(slot.registered.place);
        }
        match access {
            Access::Reads => slot.readers += 1,
            Access::Fills if slot.order == foreign::READ_ONLY => return None,
            Access::Fills => slot.fillers += 1,
        }
        Some((run, Some(Held { index, access })))
    }

    /// The first bytes of a lease, `len` at most, if they stay where they are as long as the arena.
    pub(crate) fn front(&self, lease: &Lease, len: u32) -> Option<Run> {
        let (_, run) = self.resolve(lease.data())?;
        (run.start() < foreign::START).then(|| run.first(len))
    }

    /// Notes that the first `len` bytes of a lease are registered in that place. The memory stays where it is as long as the
    /// ring, so what is registered of a lease that was given back does no harm.
    pub(crate) fn note_registered(&mut self, lease: &Lease, place: u16, len: u32) {
        if let Some(index) = self.find(lease.id()) {
            self.slots[index as usize].registered = Registered { place, len };
        }
    }

    /// Ends a hold.
    pub(crate) fn release(&mut self, held: Held) {
        let slot = &mut self.slots[held.index as usize];
        let count = match held.access {
            Access::Reads => &mut slot.readers,
            Access::Fills => &mut slot.fillers,
        };
        *count = count.checked_sub(1).expect("each hold is released once");
        if slot.state == State::Zombie {
            self.bury(held.index);
        }
    }

    /// Checks `data` as [`hold`](Self::hold) does, and keeps the memory behind it where it is, until [`let_go`](Self::let_go). It
    /// is not held by that, only by each [`hold_kept`](Self::hold_kept) until its release.
    pub(crate) fn keep(&mut self, data: Data, access: Access) -> Option<Option<Held>> {
        let (_, held) = self.hold(data, access)?;
        if let Some(held) = held {
            self.slots[held.index as usize].keepers += 1;
            self.release(held);
        }
        Some(held)
    }

    /// Holds what is kept.
    #[inline]
    pub(crate) fn hold_kept(&mut self, kept: Held) {
        let slot = &mut self.slots[kept.index as usize];
        match kept.access {
            Access::Reads => slot.readers += 1,
            Access::Fills => slot.fillers += 1,
        }
    }

    /// Keeps it no longer.
    pub(crate) fn let_go(&mut self, kept: Held) {
        let slot = &mut self.slots[kept.index as usize];
        slot.keepers = slot.keepers.checked_sub(1).expect("what is kept is let go of once");
        self.bury(kept.index);
    }

    /// Looks at memory; `None` where an op fills it.
    pub(crate) fn bytes(&self, data: Data) -> Option<&[u8]> {
        let (index, run) = self.resolve(data)?;
        (self.slots[index as usize].fillers == 0).then(|| self.slice(run))
    }

    /// Changes memory; `None` where an op holds it.
    pub(crate) fn bytes_mut(&mut self, data: Data) -> Option<&mut [u8]> {
        let (index, run) = self.resolve(data)?;
        let slot = &self.slots[index as usize];
        let is_writable = slot.order != foreign::READ_ONLY;
        (is_writable && slot.fillers == 0 && slot.readers == 0).then(|| self.slice_mut(run))
    }

    /// Fills memory with zeros, whatever ops hold it; the caller keeps to parts that no op works on.
    pub(crate) fn fill_zeros(&mut self, data: Data) -> bool {
        let Some((index, run)) = self.resolve(data) else {
            return false;
        };
        if self.slots[index as usize].order == foreign::READ_ONLY {
            return false;
        }
        // SAFETY: the run lies inside the mapping or a foreign buffer, and no Rust reference to it exists (`&mut self`). Should an op that the
        // kernel runs work on these very bytes, each ends up as one or the other; nothing else depends on them.
        unsafe { self.address(run).write_bytes(0, run.len() as usize) };
        true
    }

    /// The memory of a held op, for an engine that works by itself.
    pub(crate) fn run(&self, run: Run) -> &[u8] {
        assert!(!self.shared, "the kernel owns the memory of held ops");
        self.slice(run)
    }

    /// The memory of a held op, to fill, for an engine that works by itself.
    pub(crate) fn run_mut(&mut self, run: Run) -> &mut [u8] {
        assert!(!self.shared, "the kernel owns the memory of held ops");
        self.slice_mut(run)
    }

    /// The memory of a held op that no engine is at, for a filter; `None` if some of it is in `filled`, which lists what is
    /// being filled now.
    pub(crate) fn settled(&self, run: Run, held: Held, mut filled: impl Iterator<Item = Run>) -> Option<&[u8]> {
        let others = self.slots[held.index as usize].fillers - u32::from(held.access == Access::Fills);
        let quiet = others == 0 || !filled.any(|other| other.overlaps(run));
        quiet.then(|| self.slice(run))
    }

    /// Where a held run is, for the kernel. Only the ring follows it.
    pub(crate) fn address(&self, run: Run) -> *mut u8 {
        if run.start() >= foreign::START {
            return self.foreign.address(run.start());
        }
        let start = usize::try_from(run.start()).expect("inside the mapping");
        self.base.as_ptr().wrapping_add(start)
    }

    /// Where memory is, for a command that carries its address; `None`: it names no memory of ours.
    pub(crate) fn locate(&self, data: Data) -> Option<u64> {
        let (_, run) = self.resolve(data)?;
        Some(self.address(run).expose_provenance() as u64)
    }

    /// A run of zeros, [`ZEROS_BYTES`] long, that nobody writes to.
    pub(crate) fn zeros(&self) -> Run {
        self.zeros
    }

    /// The part that is worth registering: leases are cut from the smallest run that fits, so short ones come from the
    /// start of the smallest binary part.
    pub(crate) fn window(&self) -> Run {
        self.window
    }

    /// Is all of a run registered, provided that the window is?
    pub(crate) fn in_window(&self, run: Run) -> bool {
        run.lies_in(self.window)
    }

    /// From now on dropping the arena frees nothing: the kernel may be at work on it.
    pub(crate) fn leak(&mut self) {
        self.leaked = true;
        self.foreign.leak();
    }

    /// Was anybody refused memory since the last call?
    pub(crate) fn take_starved(&mut self) -> bool {
        std::mem::take(&mut self.starved)
    }

    /// Bytes that are not leased.
    pub(crate) fn free_bytes(&self) -> u64 {
        let pages = self.buddy.free_pages() + self.large.free_pages();
        u64::from(pages) * u64::from(PAGE)
    }

    /// Bytes of the largest lease that could be had now.
    pub(crate) fn largest_free_bytes(&self) -> u64 {
        let largest = self.buddy.largest().max(self.large.largest());
        largest.map_or(0, |order| u64::from(PAGE) << order)
    }

    /// The index behind a live `id`.
    fn find(&self, id: BufId) -> Option<u32> {
        let index = id.0 & ((1 << INDEX_BITS) - 1);
        let slot = self.slots.get(index as usize)?;
        (slot.state == State::Live && u32::from(slot.generation) == id.0 >> INDEX_BITS).then_some(index)
    }

    /// Checks `data`: a live lease, and inside it.
    fn resolve(&self, data: Data) -> Option<(u32, Run)> {
        let DataHome::Buffer(id) = data.home else { return None };
        let index = self.find(id)?;
        let slot = &self.slots[index as usize];
        (data.offset <= slot.len && data.len <= slot.len - data.offset).then(|| {
            let start = u64::from(slot.page) * u64::from(PAGE) + u64::from(data.offset);
            (index, Run::new(start, data.len))
        })
    }

    /// Frees the pages of a zombie that nothing holds.
    fn bury(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        if slot.state != State::Zombie || slot.readers + slot.fillers + slot.keepers != 0 {
            return;
        }
        slot.state = State::Free;
        slot.generation = (slot.generation + 1) & ((1 << (32 - INDEX_BITS)) - 1);
        let (page, order) = (slot.page, slot.order);
        if self.foreign.vacate(page) {
            return;
        }
        match page.checked_sub(self.border) {
            Some(page) => self.large.give(page, order),
            None => self.buddy.give(page, order),
        }
        self.vacant.push(index);
    }

    fn slice(&self, run: Run) -> &[u8] {
        // SAFETY: a run lies inside the mapping (`resolve`), which is initialised (anonymous) and lives as long as `self`, or
        // inside a foreign buffer, which is so, too, and stays while its lease is live; and it is not written meanwhile: not by us (`&self`), nor by the kernel (callers checked that no op fills it).
        unsafe { slice::from_raw_parts(self.address(run), run.len() as usize) }
    }

    fn slice_mut(&mut self, run: Run) -> &mut [u8] {
        // SAFETY: as in `slice`; `&mut self` keeps every other reference away, and callers checked that no op that the kernel
        // runs holds the memory.
        unsafe { slice::from_raw_parts_mut(self.address(run), run.len() as usize) }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        if self.leaked {
            return;
        }
        // SAFETY: the mapping is ours, and no reference into it outlives `self`. The queue drops the arena only after the
        // ring is gone and every op has ended; otherwise it leaks it.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// The start of the smallest of the powers of two that `pages` is made of.
fn window(pages: u32) -> Run {
    let part = 1 << pages.trailing_zeros();
    let start = u64::from(pages - part) * u64::from(PAGE);
    Run::new(start, part.min(WINDOW_BYTES / PAGE) * PAGE)
}

/// Maps `len` bytes that cost nothing until touched, and that no child process inherits.
fn map(len: usize) -> Result<NonNull<u8>, Errno> {
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
    // SAFETY: a fresh anonymous mapping, at an address that the kernel chooses, touches no memory of ours.
    let base = unsafe { mmap_anonymous(std::ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, flags) }?;
    // SAFETY: the range is the mapping just made. A child that shared it copy-on-write could take pages away from under
    // the kernel.
    unsafe { madvise(base, len, Advice::LinuxDontFork) }?;
    NonNull::new(base.cast()).ok_or(Errno::NOMEM)
}

#[cfg(test)]
mod tests;
