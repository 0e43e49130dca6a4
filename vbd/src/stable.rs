//! What stays of a disk whatever image is behind it: its name, its seats on the queue threads, its statistics.
//!
//! The image is a *generation*, and can be replaced while requests come: each queue lets what it began end on the old one,
//! holds what comes meanwhile, and goes over to the new one.
//!
//! ```text
//!  replace():  shut the door, wake all ………… everybody has left ─► flush and close the old ─► the new, open the door
//!  queue 1…n:  drain ─► leave ──────────┐                                                       ┌─► enter ─► what was held
//!  queue 0:    drain ── others left? ───┴─► leave                                     enter ────┘
//! ```
//!
//! Queue 0 has the allocator, which the others use to the end of their requests: so it leaves last and enters first. The old
//! image is flushed before anything goes to the new one, so a flush that a client sends to the new one covers both.

mod attendance;
mod queue;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use iomgr_core::{Errno, Waker};

pub(crate) use self::attendance::Attendance;
pub(crate) use self::queue::StableQueue;
use crate::disk::Shared;
use crate::error::{Error, ErrorKind};
use crate::stats::{QueueStats, Stats};

/// See the module.
#[derive(Debug)]
pub(crate) struct Stable {
    pub(crate) name: String,
    current: ArcSwap<Shared>,
    /// Moves when the door is shut (odd) and opened (even); queues look at it before each request.
    turn: AtomicU64,
    /// Taken to move the door, and by queues to pass it.
    door: Mutex<()>,
    /// One replacement at a time.
    replacing: Mutex<()>,
    /// By queue.
    seats: Mutex<BTreeMap<u16, Waker>>,
    stats: Mutex<Vec<QueueStats>>,
}

impl Stable {
    pub(crate) fn new(generation: Shared) -> Self {
        Self {
            name: generation.name.clone(),
            current: ArcSwap::from_pointee(generation),
            turn: AtomicU64::new(0),
            door: Mutex::default(),
            replacing: Mutex::default(),
            seats: Mutex::default(),
            stats: Mutex::default(),
        }
    }

    /// What is behind the disk now.
    pub(crate) fn generation(&self) -> Arc<Shared> {
        self.current.load_full()
    }

    pub(crate) fn stats(&self) -> Stats {
        Stats::sum(&self.stats.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts `next` behind the disk after the old image was flushed and closed.
    ///
    /// When a request on the old image does not end in time, the old one stays, as if nothing had been asked for. When the old
    /// one cannot be closed it stays, too, as an image whose flush has failed.
    pub(crate) fn replace(&self, mut next: Shared, timeout: Duration) -> Result<(), Error> {
        let _alone = self.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.generation();
        next.retries = Arc::clone(&old.retries);
        self.move_door();
        let closed = match old.attendance.wait(timeout) {
            true => old.close().inspect_err(|_| old.fail(Errno::IO)),
            false => Err(Error::new(
                ErrorKind::Io,
                "requests on the image do not end in time; it stays behind the disk",
            )),
        };
        if closed.is_ok() {
            self.current.store(Arc::new(next));
        }
        self.move_door();
        closed
    }

    /// Shuts the open door, opens the shut one.
    fn move_door(&self) {
        let door = self.door.lock().unwrap_or_else(PoisonError::into_inner);
        self.turn.fetch_add(1, Ordering::AcqRel);
        drop(door);
        self.wake_all();
    }

    fn turn(&self) -> u64 {
        self.turn.load(Ordering::Acquire)
    }

    pub(crate) fn wake_all(&self) {
        let seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
        seats.values().for_each(Waker::wake);
    }
}

