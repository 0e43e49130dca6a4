//! What a "no" holds, and until when.

use std::time::Duration;

use super::Wait;
use crate::{Class, Timestamp};

/// The shortest wait: a "no" until an instant that has passed would otherwise be a spin.
const TICK: Duration = Duration::from_millis(1);

/// The waits of one intake.
#[derive(Debug, Default)]
pub(super) struct Holds {
    /// Of the whole device queue (`waiting_request`).
    pub(super) device: Hold,
    classes: [Hold; Class::ALL.len()],
}

/// One wait, if there is one.
#[derive(Debug, Default)]
pub(super) struct Hold(Option<Wait>);

impl Holds {
    pub(super) fn class(&mut self, class: Class) -> &mut Hold {
        &mut self.classes[class.index()]
    }

    /// Something was freed: every wait for that ends. Was there one?
    pub(super) fn end_freed(&mut self) -> bool {
        let mut ended = false;
        for hold in self.all() {
            ended |= hold.0.take_if(|wait| wait.ends_with_free()).is_some();
        }
        ended
    }

    /// Does a class wait for somebody else to move?
    pub(super) fn expect(&self) -> bool {
        self.classes.iter().any(Hold::expects)
    }

    /// Somebody moved: every such wait ends.
    pub(super) fn end_expecting(&mut self) {
        for hold in self.classes.iter_mut().filter(|hold| hold.expects()) {
            hold.0 = None;
        }
    }

    /// Ends every wait whose instant has come, so that it does not wake the thread again and again while the frontend has
    /// no resources to ask for what it held.
    pub(super) fn end_due(&mut self, now: Timestamp) {
        for hold in self.all() {
            hold.holds(now);
        }
    }

    /// When the first wait that counts ends by itself. A wait of the device hides those of its classes, and a class
    /// counts only if `queued` says that something of it is there.
    pub(super) fn wake_at(&self, queued: impl Fn(Class) -> bool) -> Option<Timestamp> {
        match self.device.0 {
            Some(_) => self.device.until(),
            None => {
                let classes = Class::ALL.into_iter().filter(|class| queued(*class));
                classes.filter_map(|class| self.classes[class.index()].until()).min()
            }
        }
    }

    fn all(&mut self) -> impl Iterator<Item = &mut Hold> {
        self.classes.iter_mut().chain([&mut self.device])
    }
}

impl Hold {
    /// Waits, but not for less than a tick if the end is past already.
    pub(super) fn begin(&mut self, wait: Wait, now: Timestamp) {
        self.0 = Some(match wait {
            Wait::Until(at) if at <= now => Wait::Until(now + TICK),
            Wait::FreedOr(at) if at <= now => Wait::FreedOr(now + TICK),
            wait => wait,
        });
    }

    /// Does it hold now? A wait whose instant has come ends.
    pub(super) fn holds(&mut self, now: Timestamp) -> bool {
        if self.until().is_some_and(|at| at <= now) {
            self.0 = None;
        }
        self.0.is_some()
    }

    fn expects(&self) -> bool {
        matches!(self.0, Some(Wait::FreedOr(_)))
    }

    fn until(&self) -> Option<Timestamp> {
        self.0.and_then(Wait::until)
    }
}
