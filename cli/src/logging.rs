//! Log lines on stderr.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

use crate::args::LogFormat;
use crate::ublk::is_in_background;

/// What overrides `--verbose`, in the syntax of `RUST_LOG`.
const FILTER_ENV: &str = "IOMGR_LOG";

/// Starts logging: `quietest` and what is worse, and more with each `--verbose`.
pub(crate) fn start(quietest: &str, verbose: u8, format: LogFormat) {
    let level = [quietest, "info", "debug", "trace"][usize::from(verbose.min(3))];
    let filter = EnvFilter::try_from_env(FILTER_ENV).unwrap_or_else(|_| EnvFilter::new(level));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        // A server in the background goes over to a file.
        .with_ansi(io::stderr().is_terminal() && !is_in_background())
        .with_target(verbose > 1);
    match format {
        LogFormat::Text => lines.init(),
        LogFormat::Json => lines.json().init(),
    }
}
