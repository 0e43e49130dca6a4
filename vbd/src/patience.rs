//! Waiting for what another process has and is about to let go of.

use std::time::{Duration, Instant};

use crate::error::Error;

/// How long, if nothing else is said.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);

/// Asks `attempt` until it has an answer; `None` when the deadline is over before. `tell` is called once, when it has to wait.
pub(crate) fn wait_until<T>(
    deadline: Instant,
    mut attempt: impl FnMut() -> Result<Option<T>, Error>,
    tell: impl FnOnce(),
) -> Result<Option<T>, Error> {
    let mut tell = Some(tell);
    // Most is let go of in a moment: by a server that has just ended, in the kernel's own time.
    let mut pause = Duration::from_millis(1);
    loop {
        let answer = attempt()?;
        if answer.is_some() || Instant::now() >= deadline {
            return Ok(answer);
        }
        if let Some(tell) = tell.take() {
            tell();
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}
