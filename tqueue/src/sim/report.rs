//! What to say when a test fails: how to run it again, and what happened last.

use super::SimHandle;

/// Prints how to replay, and the end of the [trace](SimHandle::trace) if one is kept, when it is dropped in a panic.
///
/// ```
/// use tqueue::sim::{SimConfig, SimHandle};
///
/// let seed = 42;
/// let machine = SimHandle::new(SimConfig::new(seed));
/// machine.record(100);
/// let _report = machine.report_panic(format!("cargo xtask sim --seed {seed}"));
/// // … what may panic …
/// ```
#[derive(Debug)]
#[must_use = "it reports what happens while it lives"]
pub struct PanicReport {
    machine: SimHandle,
    replay: String,
}

impl SimHandle {
    /// Reports panics while the value lives; `replay` is the command that runs the same seed again.
    pub fn report_panic(&self, replay: impl Into<String>) -> PanicReport {
        PanicReport {
            machine: self.clone(),
            replay: replay.into(),
        }
    }
}

impl Drop for PanicReport {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprint!("{}", self.machine.trace());
            eprintln!("replay with: {}", self.replay);
        }
    }
}
