//! Second chances for blocks that found no room: I/O that is still under way may be all that keeps freed slots from being used.
//!
//! The allocator waits for nobody's I/O. So a wish that found no room is put off until all I/O of that moment has ended on
//! every queue, and then tried once more.
//!
//! ```text
//!  no room ──► put off ──(every queue past the epoch)──► tried again ──► the answer, whatever it is
//! ```

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use iomgr_core::epoch::{Epoch, EpochDomain};
use iomgr_core::{QueueContext, Tag};

use super::{Want, Wish};

/// See the module.
#[derive(Debug)]
pub(crate) struct SecondChances {
    domain: EpochDomain,
    depth: usize,
    /// By queue and tag: a wish that may be put off.
    first: Box<[Option<Wish>]>,
    /// The oldest first.
    put_off: VecDeque<(Epoch, Wish)>,
    /// Tells the other queues to wake this one.
    awaited: Arc<AtomicBool>,
}

impl SecondChances {
    pub(crate) fn new(domain: EpochDomain, awaited: Arc<AtomicBool>, cx: &QueueContext<'_>) -> Self {
        let depth = cx.depth as usize;
        let requests = usize::from(cx.count) * depth;
        Self {
            domain,
            depth,
            first: vec![None; requests].into(),
            put_off: VecDeque::with_capacity(requests),
            awaited,
        }
    }

    fn index(&self, queue: u16, tag: Tag) -> usize {
        usize::from(queue) * self.depth + tag.0 as usize
    }

    /// A request's new wish.
    pub(super) fn note(&mut self, wish: Wish) {
        self.first[self.index(wish.queue, wish.tag)] = Some(wish).filter(|wish| wish.want == Want::Allocate);
    }

    /// There was no room for a request's wish. True if it is tried again later; then the other queues are to be woken, so
    /// that they see that they are awaited.
    pub(super) fn put_off(&mut self, queue: u16, tag: Tag) -> bool {
        let Some(wish) = self.first[self.index(queue, tag)].take() else {
            return false;
        };
        self.put_off.push_back((self.domain.advance(), wish));
        self.awaited.store(true, Ordering::Release);
        true
    }

    /// Is any wish put off?
    pub(super) fn is_empty(&self) -> bool {
        self.put_off.is_empty()
    }

    /// The next wish whose time has come.
    pub(super) fn next_due(&mut self) -> Option<Wish> {
        let &(epoch, wish) = self.put_off.front()?;
        if !self.domain.drained(epoch) {
            return None;
        }
        self.put_off.pop_front();
        self.awaited.store(!self.put_off.is_empty(), Ordering::Release);
        Some(wish)
    }
}
