//! What stays of a disk whatever image is behind it: its name, its seats on the queue threads, its statistics.
//!
//! The image is a *generation*. It can be replaced while requests come, and taken away for a time: each queue lets what it
//! began end on the old one, holds what comes meanwhile, and goes over to the new one.
//!
//! ```text
//!  pause():    shut the door, wake all ………… everybody has left ─► flush, close, unlock the old
//!  queue 1…n:  drain ─► leave ──────────┐
//!  queue 0:    drain ── others left? ───┴─► leave
//!  resume():                                                  the new, open the door
//!  queue 0:                                                                     enter ─┐
//!  queue 1…n:                                                                          └─► enter ─► what was held
//! ```
//!
//! `replace()` is both in one. Queue 0 has the allocator, which the others use to the end of their requests: so it leaves last
//! and enters first. The old image is flushed before anything goes to the new one, so a flush that a client sends to the new
//! one covers both.

mod attendance;
mod queue;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use iomgr_core::stats::Figures;
use iomgr_core::{Errno, Limits, Waker};

pub(crate) use self::attendance::Attendance;
pub(crate) use self::queue::StableQueue;
use crate::error::{Error, ErrorKind};
use crate::generation::Shared;
use crate::pause::Pause;
use crate::retry::Retries;
use crate::stats::{self, QueueStats};

/// See the module.
#[derive(Debug)]
pub(crate) struct Stable {
    pub(crate) name: String,
    behind: ArcSwap<Behind>,
    /// Those of all generations.
    pub(crate) retries: Arc<Retries>,
    /// Moves when the door is shut (odd) and opened (even); queues look at it before each request.
    turn: AtomicU64,
    /// Taken to move the door, and by queues to pass it. Inside [`changing`](Self::changing).
    door: Mutex<()>,
    /// One change at a time of what is behind the disk. It may last, so no queue ever takes it. Are there to be no more?
    changing: Mutex<bool>,
    /// By queue. The innermost lock.
    seats: Mutex<BTreeMap<u16, Waker>>,
    stats: Mutex<Vec<QueueStats>>,
    /// When counting began.
    pub(crate) since: Instant,
    /// Hears of an image before it is behind the disk.
    witness: OnceLock<Witness>,
}

/// Who must know of an image before the first request gets to it, and may refuse it.
pub(crate) struct Witness(Box<Hear>);

type Hear = dyn Fn(&Shared) -> Result<(), Error> + Send + Sync;

impl Witness {
    pub(crate) fn new(hear: impl Fn(&Shared) -> Result<(), Error> + Send + Sync + 'static) -> Self {
        Self(Box::new(hear))
    }
}

impl fmt::Debug for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Witness").finish_non_exhaustive()
    }
}

/// What is behind a disk.
#[derive(Clone, Debug)]
pub(crate) enum Behind {
    /// An image.
    Image(Arc<Shared>),
    /// None for a time: the door is shut, and the image closed.
    Nothing(Arc<Pause>),
}

/// The right to change what is behind a disk.
#[derive(Debug)]
pub(crate) struct Change<'a> {
    stable: &'a Stable,
    is_last: MutexGuard<'a, bool>,
}

impl Stable {
    pub(crate) fn new(generation: Shared) -> Self {
        Self {
            name: generation.name.clone(),
            retries: Arc::clone(&generation.retries),
            behind: ArcSwap::from_pointee(Behind::Image(Arc::new(generation))),
            turn: AtomicU64::new(0),
            door: Mutex::default(),
            changing: Mutex::default(),
            seats: Mutex::default(),
            stats: Mutex::default(),
            since: Instant::now(),
            witness: OnceLock::new(),
        }
    }

    /// Has somebody hear of each image that follows; the first who asks.
    pub(crate) fn tell_of_images(&self, witness: Witness) {
        self.witness.get_or_init(|| witness);
    }

    /// What is behind the disk now.
    pub(crate) fn behind(&self) -> Behind {
        Behind::clone(&self.behind.load())
    }

    /// The image, unless there is none.
    pub(crate) fn image(&self) -> Option<Arc<Shared>> {
        match self.behind() {
            Behind::Image(generation) => Some(generation),
            Behind::Nothing(_) => None,
        }
    }

    pub(crate) fn limits(&self) -> Limits {
        match self.behind() {
            Behind::Image(generation) => generation.limits(),
            Behind::Nothing(pause) => pause.was.limits,
        }
    }

    pub(crate) fn figures(&self) -> [Figures; 4] {
        stats::sum(&self.stats.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until nobody else changes anything.
    pub(crate) fn change(&self) -> Change<'_> {
        Change {
            stable: self,
            is_last: self.changing.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// There are to be no more changes. False: there is no image, or somebody changes something right now, which may last.
    pub(crate) fn keep_image(&self) -> bool {
        let Ok(mut is_last) = self.changing.try_lock() else {
            return false;
        };
        *is_last = self.image().is_some();
        *is_last
    }

    /// From now on nobody waits: what is to be tried again ends, and so does what a pause holds.
    pub(crate) fn end_waits(&self) {
        self.retries.end();
        self.wake_all();
    }

    /// Is what is held not to be served any more?
    fn is_given_up(&self) -> bool {
        self.retries.are_over() && matches!(**self.behind.load(), Behind::Nothing(_))
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

    fn seats(&self) -> MutexGuard<'_, BTreeMap<u16, Waker>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake_all(&self) {
        self.seats().values().for_each(Waker::wake);
    }
}

impl Change<'_> {
    /// The turn of the door that a pause would have which begins now.
    pub(crate) fn next_turn(&self) -> u64 {
        self.stable.turn() + 1
    }

    /// The turn of the door.
    pub(crate) fn turn(&self) -> u64 {
        self.stable.turn()
    }

    /// What is behind the disk, for who wants to take it away.
    pub(crate) fn image(&self) -> Result<Arc<Shared>, Error> {
        match self.stable.behind() {
            Behind::Image(generation) => Ok(generation),
            Behind::Nothing(_) => Err(self.refused("is paused").hint("resume it first, or on another image")),
        }
    }

    /// The pause that the disk is in.
    pub(crate) fn pause(&self) -> Result<Arc<Pause>, Error> {
        match self.stable.behind() {
            Behind::Nothing(_) if self.stable.retries.are_over() => Err(self.refused("is being closed")),
            Behind::Nothing(pause) => Ok(pause),
            Behind::Image(_) => Err(self.refused("is not paused").hint("`iomgr list` shows which disks are")),
        }
    }

    /// Shuts the door, and closes the image when all queues have left, of which `have_left` tells.
    ///
    /// When they do not, the image stays, as if nothing had been asked for. When it cannot be closed it stays, too, as one whose
    /// flush has failed.
    pub(crate) fn vacate(&self, have_left: impl FnOnce(&Attendance) -> bool) -> Result<(), Error> {
        let old = self.image()?;
        if self.stable.retries.are_over() {
            return Err(self.refused("is being closed"));
        }
        if *self.is_last {
            return Err(self.refused("is being handed over to another server"));
        }
        self.stable.move_door();
        let closed = match have_left(&old.attendance) {
            true => old.close().inspect_err(|_| old.fail(Errno::IO)),
            false => Err(self.still_busy()),
        };
        match closed {
            // Whoever still looks at it keeps it open, but locks nobody out.
            Ok(()) => old.unlock(),
            Err(_) => self.stable.move_door(),
        }
        closed
    }

    /// Tells the witness, if there is one, that `next` comes behind the disk.
    pub(crate) fn announce(&self, next: Shared) -> Result<Shared, Error> {
        self.stable.witness.get().map_or(Ok(()), |witness| witness.0(&next))?;
        Ok(next)
    }

    /// Can images follow each other without a pause? Between them there is no time for a witness to refuse.
    pub(crate) fn check_unwitnessed(&self) -> Result<(), Error> {
        match self.stable.witness.get() {
            Some(_) => Err(self
                .refused("outlives its server")
                .hint("pause it, and resume it on the other image")),
            None => Ok(()),
        }
    }

    /// After [`vacate`](Self::vacate): leaves the disk without an image.
    pub(crate) fn rest(&self, pause: Pause) {
        self.stable.behind.store(Arc::new(Behind::Nothing(Arc::new(pause))));
        // Somebody may have given up meanwhile.
        self.stable.wake_all();
    }

    /// After [`vacate`](Self::vacate), or when there is none: puts `next` behind the disk, and opens the door.
    pub(crate) fn occupy(&self, mut next: Shared) {
        next.retries = Arc::clone(&self.stable.retries);
        self.stable.behind.store(Arc::new(Behind::Image(Arc::new(next))));
        self.stable.move_door();
    }

    /// The disk's end: see [`Disk::close`](crate::Disk::close).
    pub(crate) fn close(&self) -> Result<(), Error> {
        self.stable.end_waits();
        match self.stable.behind() {
            Behind::Image(generation) => {
                generation.close()?;
                // A ring gives files back in its own time, and with them the lock: who was told of the end must not meet it.
                if generation.attendance.count() == 0 {
                    generation.unlock();
                }
                Ok(())
            }
            Behind::Nothing(pause) => {
                pause.dismiss();
                Ok(())
            }
        }
    }

    fn refused(&self, what: &str) -> Error {
        Error::new(ErrorKind::State, format!("disk {:?} {what}", self.stable.name))
    }

    fn still_busy(&self) -> Error {
        let what = format!(
            "requests on disk {:?} do not end in time; its image stays behind it",
            self.stable.name
        );
        Error::new(ErrorKind::Io, what).hint("wait longer, or see why its storage does not answer")
    }
}
