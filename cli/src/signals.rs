//! Ctrl-C, SIGTERM, and a terminal that is closed; and the one for a file that grows too large.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::{fs, io};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::flag;
use signal_hook::iterator::Signals;

use crate::failure::Failure;
use crate::output::note;

/// SIGINT, SIGTERM and SIGHUP, which end the process no more: those that come are kept until somebody handles them.
#[derive(Debug)]
pub(crate) struct Caught(Signals);

/// From now on a write beyond RLIMIT_FSIZE (`ulimit -f`) fails with `EFBIG`, as others fail, and does not end the process.
pub(crate) fn survive_size_limit() -> Result<(), Failure> {
    if is_ignored(SIGXFSZ) {
        return Ok(());
    }
    // Nobody asks for the flag. The programs that we start would inherit that a signal is ignored; one that is caught is to them as
    // it always was.
    flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)))
        .map(drop)
        .map_err(cannot)
}

/// From now on signals are caught.
pub(crate) fn catch() -> Result<Caught, Failure> {
    // Who starts us by `nohup` wants us to outlive the terminal.
    let hangup = (!is_ignored(SIGHUP)).then_some(SIGHUP);
    Signals::new([SIGINT, SIGTERM].into_iter().chain(hangup))
        .map(Caught)
        .map_err(cannot)
}

impl Caught {
    /// The first one calls `first` with its number, on a thread of its own; the next one ends the process with 128 + its
    /// number, after saying `abandoned`.
    pub(crate) fn handle(
        self,
        abandoned: &'static str,
        first: impl FnOnce(i32) + Send + 'static,
    ) -> Result<(), Failure> {
        let mut first = Some(first);
        self.handle_each(move |signal| match first.take() {
            Some(first) => first(signal),
            None => abandon(abandoned, signal),
        })
    }

    /// Every one calls `each` with its number, on a thread of its own.
    pub(crate) fn handle_each(mut self, mut each: impl FnMut(i32) + Send + 'static) -> Result<(), Failure> {
        let wait = move || self.0.forever().for_each(&mut each);
        thread::Builder::new()
            .name("signals".into())
            .spawn(wait)
            .map_err(cannot)?;
        Ok(())
    }
}

fn cannot(error: io::Error) -> Failure {
    Failure::new("cannot handle signals").because(error)
}

/// Were we started with `signal` ignored?
fn is_ignored(signal: i32) -> bool {
    is_in("SigIgn:", signal)
}

/// Does `signal` call a handler?
#[cfg(test)]
pub(crate) fn is_caught(signal: i32) -> bool {
    is_in("SigCgt:", signal)
}

/// Is `signal` in the set that the kernel shows under this name?
fn is_in(set: &str, signal: i32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix(set));
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
