//! Pause: a disk whose image is closed for a time, and who uses it does not notice but that it waits.
//!
//! ```text
//!            pause                      others may read, copy, replace the image                resume
//!  serving ─────────► no new requests, those in flight end ─► flush, close, unlock ─► paused ────────────► open, lock ─► serving
//!     ▲                       │ not in time, or no flush                                │ ▲                   │ it cannot be opened
//!     └───────────────────────┘                                                         │ └───────────────────┘
//!     └──◄── the old image, tried until it can be opened ◄── its time is over, its lease was dropped
//! ```
//!
//! What comes meanwhile waits in the frontends, as far as they have tags; no request fails.
//!
//! # Contract
//! - While a disk is paused its image holds everything that was acknowledged, flushed; a copy of it made then is complete.
//! - Nothing of this process uses the image then, nor is it locked.
//! - What was flushed before is durable in whatever image the disk is resumed on, from then on.
//! - A pause with an end of its own, in time or by lease, ends, whatever becomes of who asked for it. When the image cannot be
//!   opened then, that is tried again for as long as it takes, and told in the status.
//!
//! # Errors
//! A pause or resume that fails leaves the disk as it was: serving, or paused.

mod keeper;

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use iomgr_core::Limits;
use serde::{Deserialize, Serialize};

use crate::disk::{Disk, DiskInfo};
use crate::error::{Error, ErrorKind};
use crate::format::Format;
use crate::generation::Shared;
use crate::origin::Origin;
use crate::retry::RetryPolicy;
use crate::stable::{Attendance, Change, Stable};
use crate::ublk::check_not_waiting;
use keeper::Keeper;

/// Who resumes waits no longer for somebody else's lock: others wait for them, the server's end for one.
const LOCK_TIMEOUT_MAX: Duration = Duration::from_secs(2);

/// How to pause a disk.
#[derive(Clone, Copy, Debug)]
pub struct PauseOptions {
    /// So long requests in flight may take to end; if they take longer the disk is not paused.
    pub drain: Duration,
    /// The disk is resumed on its old image after so long, requests held meanwhile have waited no longer for it.
    pub resume_after: Option<Duration>,
}

impl Default for PauseOptions {
    fn default() -> Self {
        Self {
            drain: Duration::from_secs(30),
            resume_after: None,
        }
    }
}

/// How to resume a disk.
#[derive(Clone, Debug, Default)]
pub struct ResumeOptions {
    /// The image from now on, of the old one's size or larger; the old one if not given. Whatever else was said when the old one
    /// was opened holds for this one, too; but for its lock nobody waits longer than two seconds.
    pub image: Option<PathBuf>,
    /// Its format, if not the one that was said then, or, where none was said, the one that its extension tells.
    pub format: Option<Format>,
}

/// Keeps a disk paused; when it is dropped the disk is resumed on its old image, unless somebody has resumed it before.
#[derive(Debug)]
#[must_use = "a lease that is dropped resumes the disk"]
pub struct Lease {
    stable: Weak<Stable>,
    /// Of the pause.
    turn: u64,
    _alive: Sender<Infallible>,
}

/// How a disk is paused.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PauseStatus {
    /// Seconds since then.
    pub for_s: f64,
    /// It resumes by itself in so many seconds; 0 while it tries to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resumes_in_s: Option<f64>,
    /// Does it resume by itself when the client goes away that has paused it?
    pub leased: bool,
    /// Why its image could not be opened, the last time that it tried to resume by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A pause that a disk is in.
#[derive(Debug)]
pub(crate) struct Pause {
    /// Of the door when it was shut: no two pauses of a disk have the same.
    turn: u64,
    since: Instant,
    until: Option<Instant>,
    leased: bool,
    pub(crate) was: Memory,
    /// Why it could not end by itself.
    trouble: Mutex<Option<String>>,
    keeper: Mutex<Option<Keeper>>,
}

/// What is known of an image that is closed.
#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) info: DiskInfo,
    pub(crate) limits: Limits,
    pub(crate) retry: RetryPolicy,
    pub(crate) warnings: Vec<String>,
    pub(crate) origin: Origin,
}

impl Disk {
    /// Takes the image away from the disk: requests that were begun end, it is flushed, closed and unlocked; what comes
    /// meanwhile waits. Until [`resume`](Self::resume) others may copy, change and replace it.
    ///
    /// # Errors
    /// It is paused already; requests do not end in time: the disk serves on. The image cannot be flushed or closed: it
    /// stays behind the disk, as one whose flush has failed.
    pub fn pause(&self, options: PauseOptions) -> Result<(), Error> {
        self.pause_until(options, None).map(drop)
    }

    /// The same, for as long as the lease is held at most.
    ///
    /// # Errors
    /// As [`pause`](Self::pause).
    pub fn pause_leased(&self, options: PauseOptions) -> Result<Lease, Error> {
        let (alive, lease) = crossbeam_channel::bounded(0);
        Ok(Lease {
            turn: self.pause_until(options, Some(lease))?,
            stable: Arc::downgrade(&self.stable),
            _alive: alive,
        })
    }

    /// Says the turn of the pause.
    fn pause_until(&self, options: PauseOptions, lease: Option<keeper::Gone>) -> Result<u64, Error> {
        let drain = options
            .resume_after
            .map_or(options.drain, |after| after.min(options.drain));
        self.pause_when(options.resume_after, lease, |queues| queues.wait(drain))
    }

    /// The same when the queues `have_left`.
    pub(crate) fn pause_when(
        &self,
        resume_after: Option<Duration>,
        lease: Option<keeper::Gone>,
        have_left: impl FnOnce(&Attendance) -> bool,
    ) -> Result<u64, Error> {
        let change = self.stable.change();
        let old = change.image()?;
        let since = Instant::now();
        let until = resume_after.and_then(|after| since.checked_add(after));
        let leased = lease.is_some();
        let keeper = match (until, lease) {
            (None, None) => None,
            (until, lease) => Some(Keeper::start(&self.stable, change.next_turn(), until, lease)?),
        };
        change.vacate(have_left)?;
        let was = old.memory();
        tracing::info!(disk = was.info.name, path = %was.info.path.display(), "disk_paused");
        let turn = change.turn();
        change.rest(Pause {
            turn,
            since,
            until,
            leased,
            was,
            trouble: Mutex::default(),
            keeper: Mutex::new(keeper),
        });
        Ok(turn)
    }

    /// Ends a pause, on the image that the disk had or another one. A lease ends with it. A larger image is the disk's
    /// size from now on, for clients that ask for it.
    ///
    /// # Errors
    /// The disk is not paused. The image cannot be opened or flushed, or is smaller than what clients have been told: the disk stays paused.
    pub fn resume(&self, options: &ResumeOptions) -> Result<(), Error> {
        let change = self.stable.change();
        let pause = change.pause()?;
        change.resume(&pause, |origin| options.open(origin))
    }
}

impl Lease {
    /// The same as [`Disk::resume`], but from this pause only: whoever has worked with the image while nobody else did, as
    /// they believe, had better know.
    ///
    /// # Errors
    /// As [`Disk::resume`]; the pause has ended by somebody else's hand, or by its time.
    pub fn resume(&self, options: &ResumeOptions) -> Result<(), Error> {
        let ended = || Error::new(ErrorKind::State, "the pause has ended already").hint(ENDED);
        let stable = self.stable.upgrade().ok_or_else(ended)?;
        let change = stable.change();
        let pause = change.pause().ok().filter(|pause| pause.turn == self.turn);
        let pause = pause.ok_or_else(ended)?;
        change.resume(&pause, |origin| options.open(origin))
    }
}

/// What to do about a pause that has ended too early.
const ENDED: &str = "what was read of the image since may be of different times; pause once more";

impl ResumeOptions {
    fn open(&self, origin: &Origin) -> Result<Shared, Error> {
        origin.open(|path, disk| {
            *path = self.image.clone().unwrap_or_else(|| path.clone());
            disk.format = self.format.or(disk.format);
            disk.lock_timeout = disk.lock_timeout.min(LOCK_TIMEOUT_MAX);
        })
    }
}

impl Pause {
    pub(crate) fn status(&self) -> PauseStatus {
        let left = |until: Instant| until.saturating_duration_since(Instant::now()).as_secs_f64();
        PauseStatus {
            for_s: self.since.elapsed().as_secs_f64(),
            resumes_in_s: self.until.map(left),
            leased: self.leased,
            error: self.trouble().clone(),
        }
    }

    /// It is never to end by itself any more.
    pub(crate) fn dismiss(&self) {
        *self.keeper.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Refuses an image that clients would take for a broken one.
    fn accept(&self, next: Shared) -> Result<Shared, Error> {
        let (new, told) = (next.limits().size, self.was.limits.size);
        if new >= told {
            return Ok(next);
        }
        let what = format!(
            "has {} sectors, and clients of the disk have been told {}",
            new.0, told.0
        );
        let error = Error::new(ErrorKind::InvalidOption, what).at(&next.info().path);
        Err(error.hint("an image may grow, but not shrink"))
    }

    fn trouble(&self) -> MutexGuard<'_, Option<String>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Change<'_> {
    /// Ends a pause on what `open` opens.
    pub(crate) fn resume(
        &self,
        pause: &Pause,
        open: impl FnOnce(&Origin) -> Result<Shared, Error>,
    ) -> Result<(), Error> {
        let next = open(&pause.was.origin).and_then(|next| pause.accept(next));
        // Meanwhile it may have been another server's, which is dead by now.
        let next = next.and_then(|next| check_not_waiting(&next.info()).map(|()| next));
        let next = next.and_then(|next| next.make_durable().map(|()| next));
        let next = next.and_then(|next| self.announce(next)).map_err(stays_paused)?;
        let (info, paused_for) = (next.info(), pause.since.elapsed());
        tracing::info!(disk = info.name, path = %info.path.display(), size_bytes = info.size_bytes, ?paused_for, "disk_resumed");
        self.occupy(next);
        Ok(())
    }
}

/// The way out of an image that cannot be opened, and what has become of the disk.
fn stays_paused(error: Error) -> Error {
    const PAUSED: &str = "the disk stays paused";
    let hint = match error.parts().hint {
        Some(hint) => format!("{hint}; {PAUSED}"),
        None => PAUSED.to_owned(),
    };
    error.hint(hint)
}
