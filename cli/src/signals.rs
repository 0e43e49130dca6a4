//! Ctrl-C, SIGTERM, and a terminal that is closed.

use std::fs;
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::failure::Failure;
use crate::output::note;

/// From now on the first SIGINT, SIGTERM or SIGHUP calls `first` with its number, on a thread of its own; the next one ends the
/// process with 128 + its number, after saying `abandoned`.
pub(crate) fn handle(abandoned: &'static str, first: impl FnOnce(i32) + Send + 'static) -> Result<(), Failure> {
    let mut first = Some(first);
    handle_each(move |signal| match first.take() {
        Some(first) => first(signal),
        None => abandon(abandoned, signal),
    })
}

/// From now on every SIGINT, SIGTERM and SIGHUP calls `each` with its number, on a thread of its own.
pub(crate) fn handle_each(mut each: impl FnMut(i32) + Send + 'static) -> Result<(), Failure> {
    let fail = |error| Failure::new("cannot handle signals").because(error);
    // Who starts us by `nohup` wants us to outlive the terminal.
    let hangup = (!is_ignored(SIGHUP)).then_some(SIGHUP);
    let mut signals = Signals::new([SIGINT, SIGTERM].into_iter().chain(hangup)).map_err(fail)?;
    let wait = move || signals.forever().for_each(&mut each);
    thread::Builder::new()
        .name("signals".into())
        .spawn(wait)
        .map_err(fail)?;
    Ok(())
}

/// Were we started with `signal` ignored?
fn is_ignored(signal: i32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

/// Ends the process at once, after saying what that means.
pub(crate) fn abandon(what: &str, signal: i32) -> ! {
    note(what);
    std::process::exit(i32::from(exit_code(signal)))
}

/// What a process that a signal ended says, by the shells' convention.
pub(crate) fn exit_code(signal: i32) -> u8 {
    u8::try_from(128 + signal).expect("signals are numbered from 1 to 64")
}
