//! A running QEMU: its output as it comes, an end in bounded time, nothing left behind.

use std::io::{ErrorKind, Read};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::output::{Reader, Seen};
use crate::Result;

/// The guest that a signal must end, and its folder.
static CURRENT: Mutex<Option<(Shared, PathBuf)>> = Mutex::new(None);

type Shared = Arc<Mutex<Child>>;

/// How a run ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) seen: Seen,
    pub(super) out_of_time: bool,
    /// What QEMU itself said.
    pub(super) complaint: String,
}

/// Runs QEMU to its end, or to the limit, and passes the command's output on as it comes.
pub(super) fn run(mut qemu: Command, limit: Duration, folder: PathBuf, pass: &mut dyn FnMut(&[u8])) -> Result<Ended> {
    watch_signals();
    let complaints = folder.join("qemu.log");
    qemu.stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(std::fs::File::create(&complaints)?);
    let mut child = qemu
        .spawn()
        .map_err(|error| format!("QEMU cannot be started: {error}"))?;
    let stdout = child.stdout.take().expect("it was piped");
    let running = Running::new(child, folder);
    let deadline = Deadline::start(&running.0, limit);
    let seen = follow(stdout, pass)?;
    Ok(Ended {
        seen,
        out_of_time: deadline.passed(),
        complaint: std::fs::read_to_string(complaints)?,
    })
}

/// Reads up to the end of QEMU.
fn follow(mut stdout: ChildStdout, pass: &mut dyn FnMut(&[u8])) -> Result<Seen> {
    let (mut reader, mut buffer) = (Reader::default(), [0; 4096]);
    loop {
        match stdout.read(&mut buffer) {
            Ok(0) => return Ok(reader.seen),
            Ok(length) => reader.feed(&buffer[..length], pass),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Dropping it kills QEMU, if it still runs, and waits until it is gone.
#[derive(Debug)]
struct Running(Shared);

impl Running {
    fn new(child: Child, folder: PathBuf) -> Running {
        let child = Arc::new(Mutex::new(child));
        *current() = Some((Arc::clone(&child), folder));
        Running(child)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        *current() = None;
        kill(&self.0);
    }
}

/// Kills the guest when its time is over.
#[derive(Debug)]
struct Deadline {
    /// Hanging up ends the thread.
    ended: Sender<()>,
    thread: thread::JoinHandle<bool>,
}

impl Deadline {
    fn start(child: &Shared, limit: Duration) -> Deadline {
        let (ended, end) = mpsc::channel();
        let child = Arc::clone(child);
        let thread = thread::spawn(move || {
            let over = end.recv_timeout(limit) == Err(RecvTimeoutError::Timeout);
            if over {
                kill(&child);
            }
            over
        });
        Deadline { ended, thread }
    }

    fn passed(self) -> bool {
        drop(self.ended);
        self.thread.join().unwrap_or(false)
    }
}

/// Rust drops nothing when a signal ends the process, so a thread does then what `drop` would have done.
fn watch_signals() {
    static WATCH: Once = Once::new();
    WATCH.call_once(|| {
        let mut signals = Signals::new([SIGINT, SIGTERM]).expect("two ordinary signals");
        thread::spawn(move || {
            if let Some(signal) = signals.forever().next() {
                if let Some((child, folder)) = current().take() {
                    kill(&child);
                    let _ = std::fs::remove_dir_all(folder);
                }
                std::process::exit(128 + signal);
            }
        });
    });
}

fn current() -> std::sync::MutexGuard<'static, Option<(Shared, PathBuf)>> {
    CURRENT.lock().unwrap_or_else(PoisonError::into_inner)
}

fn kill(child: &Mutex<Child>) {
    let mut child = child.lock().unwrap_or_else(PoisonError::into_inner);
    let _ = child.kill();
    let _ = child.wait();
}
