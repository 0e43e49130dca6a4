//! The queues of a device: the first is opened before the others and closed after them, as they may lean on it (it has what
//! only one thread may do, like allocating space in an image).
//!
//! Nobody needs to see to that order: the first goes on, also when the kernel wants nothing more of it, until the others have left.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, Once, PoisonError};
use std::thread;

use iomgr_core::{Errno, Wake};
use tqueue::EventWake;

/// What the queues of a device share.
#[derive(Debug)]
struct Peers {
    /// Queues besides the first that have not left.
    others: Mutex<u16>,
    /// The last of them has left.
    left: Condvar,
    /// Wakes the first.
    first: Arc<EventWake>,
    complained: Once,
}

/// A queue's place among its peers, left when it is dropped: before it was opened, or after it was closed.
#[derive(Debug)]
pub(crate) struct Place {
    peers: Arc<Peers>,
    is_first: bool,
    stays: bool,
}

impl Place {
    /// A place for each of `count` queues; `first` wakes the first.
    pub(crate) fn all(count: u16, first: &Arc<EventWake>) -> impl Iterator<Item = Self> + use<> {
        let peers = Arc::new(Peers {
            others: Mutex::new(count.saturating_sub(1)),
            left: Condvar::new(),
            first: Arc::clone(first),
            complained: Once::new(),
        });
        (0..count).map(move |index| Self {
            peers: Arc::clone(&peers),
            is_first: index == 0,
            stays: false,
        })
    }

    /// Does nobody need this queue any more?
    pub(super) fn may_close(&self) -> bool {
        !self.is_first || *self.peers.others() == 0
    }

    /// Waits until nobody needs this queue any more.
    pub(super) fn await_others(&self) {
        if !self.is_first {
            return;
        }
        let others = self.peers.others();
        let gone = self.peers.left.wait_while(others, |others| *others > 0);
        drop(gone.unwrap_or_else(PoisonError::into_inner));
    }

    /// This queue has failed and will never be closed; so the first will not be, either.
    pub(super) fn stay(&mut self) {
        self.stays = true;
    }

    /// A thread cannot be kept to its queue's processors. For one of them it is said; the others will not fare better.
    pub(super) fn complain(&self, errno: Errno) {
        self.peers.complained.call_once(|| {
            tracing::warn!(%errno, "affinity_refused: the queue threads run on any processor");
        });
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.is_first || self.stays || thread::panicking() {
            return;
        }
        let mut others = self.peers.others();
        *others -= 1;
        if *others == 0 {
            self.peers.left.notify_all();
            self.peers.first.wake();
        }
    }
}

impl Peers {
    fn others(&self) -> MutexGuard<'_, u16> {
        self.others.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places() -> [Place; 3] {
        let wake = EventWake::new().unwrap();
        let places: Vec<_> = Place::all(3, &wake).collect();
        places.try_into().unwrap()
    }

    #[test]
    fn the_first_closes_last() {
        let [first, second, third] = places();
        assert!(second.may_close() && third.may_close() && !first.may_close());
        drop(second);
        assert!(!first.may_close());
        drop(third);
        assert!(first.may_close());
        first.await_others();
    }

    #[test]
    fn one_that_failed_keeps_its_place() {
        let [first, mut second, third] = places();
        second.stay();
        drop((second, third));
        assert!(!first.may_close());
    }
}
