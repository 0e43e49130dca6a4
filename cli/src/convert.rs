//! `iomgr convert`: an image copied into another, zeros left out.

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use crate::args::Format;
use crate::failure::Failure;
use crate::output::{print, print_json};
use crate::{signals, size};

const EXAMPLES: &str = "\
Examples:
  iomgr convert disk.img disk.vhd                raw to dynamic VHD
  iomgr convert disk.vhd disk.img                VHD to a sparse raw file
  iomgr convert --fixed --force a.vhd b.vhd      to a fixed VHD, over an older b.vhd
  iomgr convert --from raw /dev/loop0 disk.vhd   a block device into an image

Ctrl-C removes the unfinished target.";

/// Copy an image into a new one of another format
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Convert {
    /// The image to read
    source: PathBuf,
    /// The image to make
    target: PathBuf,
    /// The source's format, where its extension does not tell it
    #[arg(long, value_name = "FORMAT")]
    from: Option<Format>,
    /// The target's format, where its extension does not tell it
    #[arg(long, value_name = "FORMAT")]
    to: Option<Format>,
    /// VHD: make a fixed image instead of a dynamic one
    #[arg(long)]
    fixed: bool,
    /// Replace the target if it exists
    #[arg(long)]
    force: bool,
}

impl Convert {
    pub(crate) fn run(&self, json: bool) -> Result<ExitCode, Failure> {
        let signal = Arc::new(AtomicI32::new(0));
        let seen = Arc::clone(&signal);
        signals::handle("abandoned; the unfinished target is still there", move |number| {
            seen.store(number, Ordering::Relaxed);
        })?;
        let copied = self.copy(&signal).map_err(|failure| self.explain(failure, &signal))?;
        self.tell(copied, json)?;
        Ok(ExitCode::SUCCESS)
    }

    fn copy(&self, signal: &AtomicI32) -> Result<vbd::Copied, Failure> {
        let options = vbd::ConvertOptions {
            from: self.from.map(Into::into),
            to: self.to.map(Into::into),
            fixed: self.fixed,
            force: self.force,
        };
        let bar = self.progress_bar();
        let mut progress = |done| {
            bar.set_position(done);
            signal.load(Ordering::Relaxed) == 0
        };
        let copied = vbd::convert(&self.source, &self.target, &options, &mut progress);
        bar.finish_and_clear();
        Ok(copied?)
    }

    /// A bar on a terminal, nothing elsewhere.
    fn progress_bar(&self) -> ProgressBar {
        if !io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        // An image that cannot be looked at fails in the copy, with the full story.
        let size = vbd::info(&self.source, self.from.map(Into::into)).map_or(0, |info| info.size_bytes);
        let style =
            ProgressStyle::with_template("{bar:40} {percent:>3}%  {binary_bytes} of {binary_total_bytes}  {eta} left")
                .expect("the template is fixed and right");
        ProgressBar::with_draw_target(Some(size), ProgressDrawTarget::stderr()).with_style(style)
    }

    fn explain(&self, failure: Failure, signal: &AtomicI32) -> Failure {
        match signal.load(Ordering::Relaxed) {
            0 => failure,
            number => Failure::new(format!(
                "{}: interrupted; the unfinished target is removed",
                self.target.display()
            ))
            .exit(signals::exit_code(number)),
        }
    }

    fn tell(&self, copied: vbd::Copied, json: bool) -> Result<(), Failure> {
        if json {
            return print_json(&json!({
                "source": self.source.to_string_lossy(),
                "target": self.target.to_string_lossy(),
                "size_bytes": copied.size_bytes,
                "written_bytes": copied.written_bytes,
            }));
        }
        let (size, written) = (size::both(copied.size_bytes), size::both(copied.written_bytes));
        print(&format!(
            "{}: {size}, of which {written} were not zero\n",
            self.target.display()
        ))
    }
}
