//! Waiting for somebody else's question, for a while.
//!
//! A policy may keep a place for a device that was told no before. That one is woken when something is freed, and will ask;
//! unless its frontend is busy, or gone, which no hook tells. So it is waited for during a grace, counted from when somebody
//! first stands behind it. One that was not woken, since nothing was freed, asks when it was told to look by itself, and is
//! waited for only where it would come off badly for ever.

use std::time::Duration;

use crate::Timestamp;
use crate::manager::{DeviceId, Head, Wait};

/// How long somebody who was woken is waited for.
pub(super) const GRACE: Duration = Duration::from_millis(1);

/// How much later those look who are not the guard.
const RESERVE: Duration = Duration::from_millis(10);

/// Who was told no, and is yet to ask again.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Told {
    /// How many requests had been freed when it was told.
    freed: u64,
    /// When it looks by itself, as far as anybody knows.
    looks: Option<Timestamp>,
    /// Since when somebody waits for it, and it was woken.
    silent: Option<Timestamp>,
}

/// Whether somebody who was told no is waited for.
pub(super) enum Expected {
    /// It sleeps.
    Asleep,
    /// It was woken, and has time to ask until this instant.
    Until(Timestamp),
    /// It had time enough.
    Gone,
}

impl Told {
    /// It is told no, when so many requests have been freed (or given back).
    pub(super) fn new(wait: Wait, freed: u64) -> Self {
        Self {
            freed,
            looks: wait.until(),
            silent: None,
        }
    }

    /// Somebody who asks now stands behind it.
    pub(super) fn expected(&mut self, freed: u64, now: Timestamp) -> Expected {
        if self.freed == freed {
            return Expected::Asleep;
        }
        within_grace(*self.silent.get_or_insert(now), now)
    }

    /// The same from somebody who lets it sleep no longer than it was told to.
    pub(super) fn expected_by_itself(&mut self, freed: u64, now: Timestamp) -> Expected {
        match self.expected(freed, now) {
            Expected::Asleep => within_grace(*self.looks.get_or_insert(now), now),
            woken => woken,
        }
    }
}

fn within_grace(since: Timestamp, now: Timestamp) -> Expected {
    let until = since + GRACE;
    match until <= now {
        true => Expected::Gone,
        false => Expected::Until(until),
    }
}

/// Which request is looked at again as soon as the grace is over, so that not all are that stand behind the same one.
#[derive(Debug, Default)]
pub(super) struct Guard(Option<(DeviceId, Head, u64)>);

impl Guard {
    /// What a request waits for that stands behind somebody until then. If the guard goes, a free wakes the others sooner or
    /// later; they look again by themselves in case the guard is gone as well.
    pub(super) fn wait(&mut self, id: DeviceId, head: &Head, freed: u64, until: Timestamp) -> Wait {
        let is_guarded = matches!(self.0, Some((guard, its, since)) if since == freed && (guard, its) != (id, *head));
        if is_guarded {
            return Wait::FreedOr(until + RESERVE);
        }
        self.0 = Some((id, *head, freed));
        Wait::FreedOr(until)
    }
}
