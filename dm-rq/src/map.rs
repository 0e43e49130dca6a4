//! What a target says about a request.

/// A target's answer to a clone that it was asked to map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MapResult {
    /// The target owns the clone and completes it.
    Submitted,
    /// The clone was changed to name a device below; dispatch it there.
    Remapped,
    /// Not now: release the clone, and put the request back at the *head* of the queue.
    Requeue,
    /// As `Requeue`, but with a pause, so that a target all of whose paths are down is not asked in a spin.
    DelayRequeue,
    /// End the request with an error; the target is not told of its end.
    Kill,
}
