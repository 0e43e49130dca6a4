//! Who ends a pause whose time is over or whose lease was dropped: a thread that is there as long as such a pause is.

use std::convert::Infallible;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, at, bounded, never, select};

use crate::error::{Error, ErrorKind};
use crate::stable::Stable;

/// The first attempt that failed is made again after so long, each one after it after twice the time.
const AGAIN_FIRST: Duration = Duration::from_millis(100);
/// But at most this.
const AGAIN_MAX: Duration = Duration::from_secs(5);

/// Nothing ever comes: that the other end goes away is the news.
pub(super) type Gone = Receiver<Infallible>;

/// The pause's hold on its thread, which ends when this is dropped.
#[derive(Debug)]
pub(super) struct Keeper {
    _paused: Sender<Infallible>,
}

/// What the thread knows.
struct Watch {
    stable: Weak<Stable>,
    turn: u64,
    over: Gone,
}

impl Keeper {
    /// For the pause of this turn, which is about to begin.
    pub(super) fn start(
        stable: &Arc<Stable>,
        turn: u64,
        until: Option<Instant>,
        lease: Option<Gone>,
    ) -> Result<Self, Error> {
        let (paused, over) = bounded(0);
        let watch = Watch {
            stable: Arc::downgrade(stable),
            turn,
            over,
        };
        let lease = lease.unwrap_or_else(never);
        let spawned = thread::Builder::new().name("pause".into()).spawn(move || {
            if let Some(why) = watch.wait(until, &lease) {
                watch.resume(why);
            }
        });
        spawned.map_err(|error| Error::new(ErrorKind::Server, "no thread to end the pause").because(error))?;
        Ok(Self { _paused: paused })
    }
}

impl Watch {
    /// Why the pause is to end, unless somebody else has ended it.
    fn wait(&self, until: Option<Instant>, lease: &Gone) -> Option<&'static str> {
        let timeout = until.map_or_else(never, at);
        select! {
            recv(self.over) -> _ => None,
            recv(timeout) -> _ => Some("its time is over"),
            recv(lease) -> _ => Some("its owner is gone"),
        }
    }

    /// Resumes the disk on its image, however often it takes to try.
    fn resume(&self, why: &'static str) {
        let mut again = AGAIN_FIRST;
        loop {
            let Some(stable) = self.stable.upgrade() else { return };
            tracing::info!(disk = stable.name, why, "pause_ends");
            stable.end_pause(self.turn);
            drop(stable);
            match self.over.recv_timeout(again) {
                Err(RecvTimeoutError::Timeout) => again = (again * 2).min(AGAIN_MAX),
                Err(RecvTimeoutError::Disconnected) => return,
                Ok(never) => match never {},
            }
        }
    }
}

impl Stable {
    /// Ends the pause of this turn, if the disk is still in it. Why that was not possible, its status says.
    fn end_pause(&self, turn: u64) {
        let change = self.change();
        let Ok(pause) = change.pause() else { return };
        if pause.turn != turn {
            return;
        }
        let resumed = change.resume(&pause, |origin| {
            // It is tried again; others, who may change something, shall not wait for that.
            origin.open(|_, disk| disk.lock_timeout = Duration::ZERO)
        });
        if let Err(error) = resumed {
            let line = error.line();
            tracing::warn!(
                disk = self.name,
                error = line,
                "resume_failed: it is tried again, and requests wait"
            );
            *pause.trouble() = Some(line);
        }
    }
}
