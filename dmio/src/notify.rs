//! How a client tells what has happened.

use iomgr_core::Timestamp;

use crate::{Client, Event, Memory, RegionState, RequestId};

/// Hears what a request's regions come to. It is called between passes of the loop, on the client's thread, never from inside
/// [`Client::io`].
pub trait Notify {
    /// It may submit, cancel, give handles up, and use the pool. What waits (synchronous I/O, [`Client::wait`], [`Client::poll`]) is
    /// refused: it would wait for itself.
    fn notify(&self, client: &mut Client, note: Notification);
}

impl<F: Fn(&mut Client, Notification)> Notify for F {
    fn notify(&self, client: &mut Client, note: Notification) {
        self(client, note);
    }
}

/// What a region has come to: at most one TIMEOUT, then one end.
#[derive(Debug)]
pub struct Notification {
    /// Of which request.
    pub request: RequestId,
    /// Which region, from 0.
    pub region: usize,
    /// What.
    pub state: RegionState,
    /// When.
    pub at: Timestamp,
    /// It was read while a write that was given up may have been changing the sectors.
    pub indeterminate: bool,
    /// It is the last notification of the request.
    pub is_last: bool,
    /// With the last notification: what the request was given. None, if an orphan has it: then it returns to the pool by itself.
    pub memory: Memory,
}

/// Hears what a client's devices come to, besides the requests' notifications: late answers, devices that are degraded.
pub trait Watch {
    /// Called as [`Notify::notify`] is, with every event that is not about a region's state.
    fn watch(&self, client: &mut Client, event: &Event);
}

impl<F: Fn(&mut Client, &Event)> Watch for F {
    fn watch(&self, client: &mut Client, event: &Event) {
        self(client, event);
    }
}
