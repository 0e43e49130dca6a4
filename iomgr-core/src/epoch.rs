//! Epochs: when has every queue ended all that it began under an old mapping?
//!
//! A slot of a file may be used again only when nobody can still read or write it by a mapping that was taken back
//! (Durability 4). Each queue says what it has begun; the one who took something back waits for all of them:
//!
//! ```text
//!  a queue's thread                                 the one who takes a mapping back
//!  pin = queue.enter()                              take the mapping back
//!  look at the mapping, start I/O by it             e = domain.advance()
//!  … the I/O ends …                                 … until domain.drained(e) …
//!  queue.exit(pin)                                  use the slot again
//! ```
//!
//! # Contract
//! - `drained(e)` says true only when every pin is gone that was entered before its queue could see `e`, and with it all
//!   that was done under those pins has happened before.
//! - Whoever enters later sees everything that happened before `advance` returned `e`.
//! - A queue without pins never holds an epoch back. With pins that all end, every epoch drains, however busy the queue.
//! - A pin that is dropped rather than handed back holds its epoch for ever: the I/O under it may still be running.
//!
//! # Cost
//! `enter` and `exit` are plain loads, stores and integers of the queue's own; the first `enter` after a queue was without
//! pins also pays one fence. No read-modify-write, no shared line written but one's own.
//!
//! # Why it is right
//! A queue publishes the oldest epoch that any of its pins carries, or [`IDLE`]. A pin carries the epoch that was global
//! when it was entered, or an older one, never a newer one.
//! - *Busy queue.* It publishes some `p` not above the pin's epoch all the time until the pin is gone, so `drained(e)` says
//!   false for each `e` above. The pin's epoch was read with acquire: if it is `e` or newer, what the advancer did before
//!   `e` is visible, and the pin need not be waited for.
//! - *From idle to busy.* The queue stores, fences, then looks at the mapping; the advancer changes the mapping, adds to the
//!   global epoch, fences, then looks at what is published. One of the two fences comes first: either the advancer sees
//!   the queue busy, or the queue sees the mapping changed.
//! - *From busy to idle.* The store is a release and `drained` acquires: what happened under the pins has happened.
//!
//! Pins of two epochs can be told apart at a time, as in the kernel's SRCU. While the older of them lasts, new pins count
//! towards the newer, which waits longer than necessary but never less; when the older is gone its counter takes the
//! global epoch of the day.

use crate::shim::{Arc, AtomicBool, AtomicU64, Ordering, fence};

/// What a queue without pins publishes: newer than any epoch.
const IDLE: u64 = u64::MAX;

/// A point in the history of a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(u64);

impl From<Epoch> for u64 {
    fn from(epoch: Epoch) -> Self {
        epoch.0
    }
}

/// For who must keep epochs as numbers.
impl From<u64> for Epoch {
    fn from(number: u64) -> Self {
        Self(number)
    }
}

/// The epochs of one device. A handle: clones are the same domain.
#[derive(Clone, Debug)]
pub struct EpochDomain(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    global: AtomicU64,
    queues: Box<[Published]>,
}

/// What one queue publishes; on a cache line of its own.
#[derive(Debug)]
#[repr(align(64))]
struct Published {
    /// The epoch of the oldest pin, or [`IDLE`]. Written by the queue only.
    oldest: AtomicU64,
    /// Has the queue been given out?
    taken: AtomicBool,
}

/// One queue's part in a domain; it stays on its thread.
#[derive(Debug)]
pub struct EpochQueue {
    shared: Arc<Shared>,
    index: usize,
    /// Pins by age: `bins[newer]` takes new ones, the other one drains.
    bins: [Bin; 2],
    newer: usize,
}

/// Pins that carry the same epoch.
#[derive(Clone, Copy, Debug, Default)]
struct Bin {
    epoch: u64,
    pins: u32,
}

/// Keeps what a request may see from being used again. Hand it back to [`EpochQueue::exit`] of the same queue.
#[must_use = "a pin goes back to `EpochQueue::exit`, or its epoch never drains"]
#[derive(Debug)]
pub struct EpochPin {
    bin: u8,
}

impl EpochDomain {
    /// A domain of `queues` queues, all of them idle.
    pub fn new(queues: usize) -> Self {
        let published = || Published {
            oldest: AtomicU64::new(IDLE),
            taken: AtomicBool::new(false),
        };
        let queues = (0..queues).map(|_| published()).collect();
        Self(Arc::new(Shared {
            global: AtomicU64::new(0),
            queues,
        }))
    }

    /// Gives queue `index` out. `None`: there is no such queue, or it is out already, or it was dropped with pins.
    pub fn queue(&self, index: usize) -> Option<EpochQueue> {
        let published = self.0.queues.get(index)?;
        // Acquire: the next holder goes on from the last store of the one before.
        let free = !published.taken.swap(true, Ordering::Acquire);
        free.then(|| EpochQueue {
            shared: Arc::clone(&self.0),
            index,
            bins: [Bin::default(); 2],
            newer: 0,
        })
    }

    /// Begins a new epoch, after what nobody shall find any more was taken back.
    pub fn advance(&self) -> Epoch {
        // Release: who enters with the new epoch sees what was taken back. Acquire: epochs of several advancers add up.
        let epoch = self.0.global.fetch_add(1, Ordering::AcqRel) + 1;
        // Orders the taking back before the looks of `drained`; pairs with the fence in `enter`.
        fence(Ordering::SeqCst);
        Epoch(epoch)
    }

    /// Has every queue ended all that it began before it could see `epoch`?
    pub fn drained(&self, epoch: Epoch) -> bool {
        self.0
            .queues
            .iter()
            .all(|queue| queue.oldest.load(Ordering::Acquire) >= epoch.0)
    }
}

impl EpochQueue {
    /// Begins a request: from now on until the pin comes back, what it finds in the mapping stays where it is.
    #[inline]
    pub fn enter(&mut self) -> EpochPin {
        // Acquire: with a new epoch comes the sight of what was taken back before it.
        let global = self.shared.global.load(Ordering::Acquire);
        if self.bins[self.newer].epoch != global || self.bins[self.newer].pins == 0 {
            self.renew(global);
        }
        self.bins[self.newer].pins += 1;
        EpochPin {
            bin: u8::from(self.newer == 1),
        }
    }

    /// Ends a request.
    #[inline]
    pub fn exit(&mut self, pin: EpochPin) {
        let bin = &mut self.bins[usize::from(pin.bin)];
        bin.pins -= 1;
        if bin.pins == 0 {
            // Release: the I/O under the pins has ended before anybody sees that they are gone.
            self.published().oldest.store(self.oldest(), Ordering::Release);
        }
    }

    /// How many pins are out.
    pub fn pins(&self) -> u64 {
        self.bins.iter().map(|bin| u64::from(bin.pins)).sum()
    }

    /// Lets new pins carry `global`, if a bin is free for it.
    fn renew(&mut self, global: u64) {
        let older = 1 - self.newer;
        match (self.bins[self.newer].pins, self.bins[older].pins) {
            (0, 0) => {
                self.bins[self.newer].epoch = global;
                self.published().oldest.store(global, Ordering::Relaxed);
                // Orders the store before the looks at the mapping; pairs with the fence in `advance`.
                fence(Ordering::SeqCst);
            }
            (0, _) => self.bins[self.newer].epoch = global,
            (_, 0) => {
                self.bins[older].epoch = global;
                self.newer = older;
            }
            // Both are in use: new pins count as older than they are until one is empty.
            (_, _) => {}
        }
    }

    fn oldest(&self) -> u64 {
        let bins = self.bins.iter().filter(|bin| bin.pins != 0);
        bins.map(|bin| bin.epoch).min().unwrap_or(IDLE)
    }

    fn published(&self) -> &Published {
        &self.shared.queues[self.index]
    }
}

impl Drop for EpochQueue {
    /// A queue with pins is never given out again: it goes on holding back what they hold back.
    fn drop(&mut self) {
        if self.pins() == 0 {
            self.published().taken.store(false, Ordering::Release);
        }
    }
}
