//! The server's side: it lets clients in, a few at a time, and answers them.

use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Read};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};

use super::{ControlAnswer, Farewell, Verb, answer, parse};
use crate::server::{Status, Stopper};

/// A request line is at most so long.
const LINE_BYTES_MAX: u64 = 64 << 10;
/// So many clients at once; the next is turned away.
const CLIENTS_MAX: usize = 32;
/// A client that says nothing for so long is let go.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// A client that wants the end must take its answers in this time.
const LAST_ANSWER_MAX: Duration = Duration::from_secs(1);

/// What clients can reach.
pub(crate) struct ControlContext {
    pub(crate) status: Arc<dyn Fn() -> Status + Send + Sync>,
    pub(crate) stopper: Stopper,
    pub(crate) farewell: Farewell,
}

/// A control socket that is served, until this is dropped.
pub(crate) struct Control {
    /// Closing it ends the thread. (Shutting the listener down would do that as well, and would also end it for who has
    /// passed it to this process, and keeps it for the next.)
    end: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
    /// The only lasting hold on it: clients that say nothing must not keep a disk open.
    _context: Arc<ControlContext>,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").finish_non_exhaustive()
    }
}

impl Control {
    /// Serves `listener`; clients are few and cheap, a thread each.
    pub(crate) fn start(listener: UnixListener, context: ControlContext) -> std::io::Result<Self> {
        let (ended, end) = std::io::pipe()?;
        // Who was announced may be gone before it is accepted.
        listener.set_nonblocking(true)?;
        let context = Arc::new(context);
        let reach = Arc::downgrade(&context);
        let thread = thread::Builder::new()
            .name("control".into())
            .spawn(move || accept_all(&listener, &ended, &reach))?;
        Ok(Self {
            end: Some(end),
            thread: Some(thread),
            _context: context,
        })
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.end = None;
        // It ends at once: it only lets clients in. If it panicked, its last words said so.
        let _ended = self.thread.take().map(JoinHandle::join);
    }
}

fn accept_all(listener: &UnixListener, ended: &PipeReader, context: &Weak<ControlContext>) {
    let clients = Arc::new(AtomicUsize::new(0));
    loop {
        let mut waited = [PollFd::new(ended, PollFlags::IN), PollFd::new(listener, PollFlags::IN)];
        if let Err(error) = rustix::io::retry_on_intr(|| poll(&mut waited, None)) {
            tracing::error!(%error, "control_poll: failed; nobody is let in any more");
            return;
        }
        if !waited[0].revents().is_empty() {
            return;
        }
        match listener.accept() {
            Ok((stream, _)) => admit(stream, context, &clients),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => {
                tracing::warn!(%error, "control_accept: failed");
                thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

/// A client's place among the [`CLIENTS_MAX`].
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(clients: &Arc<AtomicUsize>) -> Option<Self> {
        // Dropped again, and with it counted down, if it is one too many.
        let place = Self(Arc::clone(clients));
        (clients.fetch_add(1, Ordering::Relaxed) < CLIENTS_MAX).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn admit(mut stream: UnixStream, context: &Weak<ControlContext>, clients: &Arc<AtomicUsize>) {
    let Some(place) = Place::take(clients) else {
        let full = ControlAnswer::error(format!("{CLIENTS_MAX} clients are connected already"));
        // Who was turned away may be gone already.
        let _ = answer(&mut stream, &full);
        return;
    };
    let context = Weak::clone(context);
    let served = thread::Builder::new().name("control-client".into()).spawn(move || {
        if let Err(error) = serve(stream, &context) {
            tracing::debug!(%error, "control_client: gone");
        }
        drop(place);
    });
    if let Err(error) = served {
        tracing::warn!(%error, "control_client: no thread for it");
    }
}

fn serve(mut stream: UnixStream, context: &Weak<ControlContext>) -> std::io::Result<()> {
    stream.set_read_timeout(Some(IDLE_MAX))?;
    stream.set_write_timeout(Some(IDLE_MAX))?;
    let mut lines = BufReader::new(stream.try_clone()?);
    let mut line = Vec::new();
    loop {
        line.clear();
        let len = lines.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
        let Some(context) = context.upgrade().filter(|_| len > 0) else {
            return Ok(());
        };
        if len as u64 == LINE_BYTES_MAX && !line.ends_with(b"\n") {
            return answer(&mut stream, &ControlAnswer::error("the line is too long"));
        }
        match parse(&line) {
            Ok(Verb::Status) => {
                let status = ControlAnswer {
                    status: Some((context.status)()),
                    ..ControlAnswer::ok()
                };
                drop(context);
                answer(&mut stream, &status)?;
            }
            Ok(Verb::Stop) => return stop(stream, &context),
            Err(what) => {
                drop(context);
                answer(&mut stream, &ControlAnswer::error(what))?;
            }
        }
    }
}

fn stop(mut stream: UnixStream, context: &ControlContext) -> std::io::Result<()> {
    let stopping = ControlAnswer {
        stopping: true,
        ..ControlAnswer::ok()
    };
    let told = stream
        .set_write_timeout(Some(LAST_ANSWER_MAX))
        .and_then(|()| answer(&mut stream, &stopping))
        .and_then(|()| context.farewell.wait(stream));
    context.stopper.stop();
    told
}
