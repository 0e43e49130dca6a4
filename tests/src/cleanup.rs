//! What must be undone, in reverse order, whichever way a test ends.
//!
//! [`Cleanup`] runs its action when it is dropped. Rust drops nothing when a signal ends the process, so each action
//! also stands in a list, which a thread runs from its end on SIGINT and SIGTERM.

use std::collections::BTreeMap;
use std::sync::{Mutex, Once, PoisonError};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

type Action = Box<dyn FnOnce() + Send>;

/// Actions by the order in which they were set up.
static ACTIONS: Mutex<BTreeMap<u64, Action>> = Mutex::new(BTreeMap::new());

/// An action that runs once: on drop, or on a signal that ends the process.
#[derive(Debug)]
#[must_use = "dropping it runs the action at once"]
pub struct Cleanup(u64);

impl Cleanup {
    /// Keeps the action until the guard is dropped. It must not panic and must bear that its work is done already.
    pub fn new(action: impl FnOnce() + Send + 'static) -> Cleanup {
        watch_signals();
        let mut actions = ACTIONS.lock().unwrap_or_else(PoisonError::into_inner);
        let id = actions.last_key_value().map_or(0, |(last, _)| last + 1);
        actions.insert(id, Box::new(action));
        Cleanup(id)
    }
}

impl Cleanup {
    /// Forgets the action: somebody else sees to it.
    pub fn forget(self) {
        ACTIONS.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}

impl Drop for Cleanup {
    fn drop(&mut self) {
        let action = ACTIONS.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
        if let Some(action) = action {
            action();
        }
    }
}

/// Runs all actions, the youngest first, when a signal asks the process to end.
fn watch_signals() {
    static WATCH: Once = Once::new();
    WATCH.call_once(|| {
        crate::sweep::leftovers();
        let mut signals = Signals::new([SIGINT, SIGTERM]).expect("two ordinary signals");
        std::thread::spawn(move || {
            if let Some(signal) = signals.forever().next() {
                undo_all();
                std::process::exit(128 + signal);
            }
        });
    });
}

fn undo_all() {
    let pop = || ACTIONS.lock().unwrap_or_else(PoisonError::into_inner).pop_last();
    while let Some((_, action)) = pop() {
        action();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn the_action_runs_once_when_a_panic_unwinds() {
        let ran = Arc::new(AtomicU32::new(0));
        let counter = Arc::clone(&ran);
        let result = std::thread::spawn(move || {
            let _guard = Cleanup::new(move || {
                counter.fetch_add(1, Ordering::SeqCst);
            });
            panic!("on purpose");
        })
        .join();
        assert!(result.is_err());
        assert_eq!(ran.load(Ordering::SeqCst), 1);
    }
}
