//! A long piece of work: a bar on a terminal, and an orderly end on Ctrl-C and SIGTERM.

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use vbd::{Phase, Progress};

use crate::failure::Failure;
use crate::signals;

const STYLE: &str =
    "{msg} {bar:40} {percent:>3}%  {binary_bytes} of {binary_total_bytes}  {binary_bytes_per_sec}  {eta} left";

/// Who watches over the work.
#[derive(Debug)]
pub(crate) struct Watch {
    /// The signal that came, or 0.
    signal: Arc<AtomicI32>,
    bar: ProgressBar,
}

impl Watch {
    /// From now on a signal ends the work, a second one the process, which says `abandoned`. With `json` there is no bar.
    pub(crate) fn start(abandoned: &'static str, json: bool) -> Result<Self, Failure> {
        let signal = Arc::new(AtomicI32::new(0));
        let seen = Arc::clone(&signal);
        signals::catch()?.handle(abandoned, move |number| seen.store(number, Ordering::Relaxed))?;
        let is_seen = !json && io::stderr().is_terminal();
        let bar = if is_seen { visible_bar() } else { ProgressBar::hidden() };
        Ok(Self { signal, bar })
    }

    /// Shows how far the work has come; is it to go on?
    pub(crate) fn tell(&self, progress: Progress) -> bool {
        let phase = match progress.phase {
            Phase::Copy => "copying",
            Phase::Verify => "verifying",
            Phase::Compare => "comparing",
        };
        let is_new = self.bar.message() != phase;
        if is_new {
            self.bar.set_message(phase);
            self.bar.set_length(progress.size_bytes);
        }
        self.bar.set_position(progress.done_bytes);
        if is_new {
            // What a resumed copy need not do again is not its speed.
            self.bar.reset_eta();
        }
        self.signal.load(Ordering::Relaxed) == 0
    }

    /// Takes the bar away; which exit code does the signal that came stand for?
    pub(crate) fn end(&self) -> Option<u8> {
        self.bar.finish_and_clear();
        let signal = self.signal.load(Ordering::Relaxed);
        (signal != 0).then(|| signals::exit_code(signal))
    }
}

fn visible_bar() -> ProgressBar {
    let style = ProgressStyle::with_template(STYLE).expect("the template is fixed and right");
    ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr()).with_style(style)
}
