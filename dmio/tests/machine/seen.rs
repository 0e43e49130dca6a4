//! What is done to a machine and what comes of it, as the watchers see it.

use dmio::{
    Completed, DeviceConfig, DeviceIndex, ErrorKind, Event, Generation, Io, LegId, Machine, RequestId, Submission,
    ToCancel,
};
use iomgr_core::{CancelOutcome, Errno, Timestamp};

/// One call.
#[derive(Clone, Debug)]
pub(crate) enum Call<'a> {
    Start(Io<'a>, Result<RequestId, ErrorKind>),
    Submit(Option<Submission>),
    /// It was handed back, or could not be any more.
    Busy(LegId, bool),
    Retry(DeviceIndex),
    Answer(LegId, Result<(), Errno>, Completed),
    Cancel(RequestId, Result<u32, ErrorKind>),
    CancelDevice(DeviceIndex, bool, u32),
    ToCancel(Option<ToCancel>),
    Cancelled(LegId, CancelOutcome),
    Fence(DeviceIndex),
    Unfence(DeviceIndex),
    Replace(DeviceIndex, DeviceConfig, Generation),
    Time,
    Event(Option<Event>),
    Acquire(RequestId, bool),
    Release(RequestId),
}

/// Sees each call, and whatever else the machine shows then.
pub(crate) trait Watch {
    /// `call` was made at `now`.
    fn see(&mut self, now: Timestamp, call: &Call<'_>, machine: &Machine);

    /// All is answered, told and released.
    fn at_the_end(&mut self, _machine: &Machine) {}
}
