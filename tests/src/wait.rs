//! Waiting for conditions that nothing announces.

use std::time::{Duration, Instant};

/// How long anything may take before a test gives up on it. Generous: it bounds a hang, it measures nothing.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Looks at the condition until it holds; says whether it did before [`PATIENCE`] ended.
///
/// For states that the kernel changes without telling (a loop device that is let go lazily, a socket that appears).
pub fn until(mut holds: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if holds() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
}
