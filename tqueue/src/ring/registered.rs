//! The ring's table of registered buffers: memory that the kernel has looked up and pinned once and for all.
//!
//! ```text
//!  place 0       the arena's window
//!  1, 2, …       parts of leases, as they are registered one by one
//! ```
//!
//! A table of [driver's buffers](crate::driver_buffers) is another one: a ring has either.

use std::ops::Range;

use io_uring::IoUring;

use super::Ring;
use crate::buf::Arena;
use crate::config::{Config, Features};
use crate::engine::Surroundings;
use crate::run::Run;
use crate::setup;

/// The place of the arena's window.
const WINDOW: u16 = 0;

/// Makes the table, and registers the arena's window. `None`, with a note: it cannot be. Else the places that are left.
pub(super) fn make_table(
    uring: &IoUring,
    config: &Config,
    arena: &Arena,
    notes: &mut Vec<String>,
) -> Option<Range<u16>> {
    let (submitter, window) = (uring.submitter(), arena.window());
    let leases = config.registered_leases;
    let registered = submitter.register_buffers_sparse(u32::from(leases) + 1).and_then(|()| {
        // SAFETY: the mapping outlives the ring: the queue drops the ring first, and leaks both or neither.
        unsafe { submitter.register_buffers_update(WINDOW.into(), &[memory(window, arena)], None) }
    });
    match registered {
        Ok(()) => Some(WINDOW + 1..WINDOW + 1 + leases),
        Err(error) => {
            notes.push(setup::why_not_registered(window.len(), &error));
            None
        }
    }
}

impl Ring {
    /// Puts memory of the arena into the next place; says which, if there is one.
    pub(crate) fn register_run(&mut self, run: Run, arena: &Arena) -> Option<u16> {
        let place = self.places.next()?;
        let submitter = self.uring.submitter();
        // SAFETY: the mapping outlives the ring: the queue drops the ring first, and leaks both or neither.
        match unsafe { submitter.register_buffers_update(place.into(), &[memory(run, arena)], None) } {
            Ok(()) => Some(place),
            Err(error) => {
                // The next one would fare no better.
                self.places = 0..0;
                setup::why_not_registered(run.len(), &error);
                None
            }
        }
    }

    /// Where a run is registered: one of the driver's buffers, a lease by itself, or the window; if it is.
    pub(super) fn registered(&self, run: Run, arena: &Arena) -> Option<u16> {
        let is_in_window = || self.features.contains(Features::REGISTERED_BUFFERS) && arena.in_window(run);
        run.place().or_else(|| is_in_window().then_some(WINDOW))
    }

    /// Can a merged op use the registered window?
    pub(super) fn are_registered(&self, on: &Surroundings<'_>) -> bool {
        self.features.contains(Features::REGISTERED_VECTORS) && on.runs.iter().all(|&run| on.arena.in_window(run))
    }
}

/// A run, for the kernel.
fn memory(run: Run, arena: &Arena) -> libc::iovec {
    libc::iovec {
        iov_base: arena.address(run).cast(),
        iov_len: run.len() as usize,
    }
}
