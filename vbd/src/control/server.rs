//! The server's side: it lets clients in, a few at a time, and answers them.

use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Read};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};

use super::farewell::Farewell;
use super::request::{ControlRequest, refuse};
use super::session::Session;
use super::{ControlAnswer, Service};
use crate::error::{Error, ErrorKind};
use crate::server::ControlDoor;
use crate::socket::BoundSocket;

/// A request line is at most so long.
const LINE_BYTES_MAX: u64 = 64 << 10;
/// So many clients at once; the next is turned away.
const CLIENTS_MAX: usize = 32;
/// A client that says nothing for so long is let go, unless it holds a lease.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// A client that wants the end must take its answers in this time.
const LAST_ANSWER_MAX: Duration = Duration::from_secs(1);

/// A control socket that is served, until this is dropped.
pub(crate) struct Control {
    /// Closing it ends the thread. (Shutting the listener down would do that as well, and would also end it for who has
    /// passed it to this process, and keeps it for the next.)
    end: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
    reach: Arc<Reach>,
    path: PathBuf,
    /// Goes away last.
    _socket: Option<BoundSocket>,
}

/// What clients can reach, as long as there is a server. They hold it while they are answered, and only then: who says
/// nothing must not keep a disk open.
struct Reach {
    service: RwLock<Option<Arc<dyn Service>>>,
    farewell: Farewell,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Control {
    /// Serves clients behind `door`; they are few and cheap, a thread each.
    pub(crate) fn start(door: ControlDoor, service: Arc<dyn Service>) -> Result<Self, Error> {
        let reach = Arc::new(Reach {
            service: RwLock::new(Some(service)),
            farewell: Farewell::default(),
        });
        let (end, thread) = spawn(door.listener, Arc::clone(&reach))
            .map_err(|error| Error::new(ErrorKind::Server, "no thread for the control socket").because(error))?;
        Ok(Self {
            end: Some(end),
            thread: Some(thread),
            reach,
            path: door.path,
            _socket: door.socket,
        })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// To tell those who asked for the end how that went.
    pub(crate) fn farewell(&self) -> Farewell {
        self.reach.farewell.clone()
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.end = None;
        // It ends at once: it only lets clients in. If it panicked, its last words said so.
        let _ended = self.thread.take().map(JoinHandle::join);
        // Whoever is being answered is waited for. The frontend has ended, so nothing that they wait for lasts.
        let service = self
            .reach
            .service
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        drop(service);
    }
}

fn spawn(listener: UnixListener, reach: Arc<Reach>) -> std::io::Result<(PipeWriter, JoinHandle<()>)> {
    let (ended, end) = std::io::pipe()?;
    // Who was announced may be gone before it is accepted.
    listener.set_nonblocking(true)?;
    let thread = thread::Builder::new()
        .name("control".into())
        .spawn(move || accept_all(&listener, &ended, &reach))?;
    Ok((end, thread))
}

fn accept_all(listener: &UnixListener, ended: &PipeReader, reach: &Arc<Reach>) {
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
            Ok((stream, _)) => admit(stream, reach, &clients),
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

fn admit(mut stream: UnixStream, reach: &Arc<Reach>, clients: &Arc<AtomicUsize>) {
    let Some(place) = Place::take(clients) else {
        let what = format!("{CLIENTS_MAX} clients are connected already; try again when one has gone");
        // Who was turned away may be gone already.
        let _ = ControlAnswer::error(&Error::new(ErrorKind::Control, what)).write(&mut stream);
        return;
    };
    let reach = Arc::clone(reach);
    let served = thread::Builder::new().name("control-client".into()).spawn(move || {
        if let Err(error) = serve(stream, &reach) {
            tracing::debug!(%error, "control_client: gone");
        }
        drop(place);
    });
    if let Err(error) = served {
        tracing::warn!(%error, "control_client: no thread for it");
    }
}

fn serve(mut stream: UnixStream, reach: &Reach) -> std::io::Result<()> {
    stream.set_read_timeout(Some(IDLE_MAX))?;
    stream.set_write_timeout(Some(IDLE_MAX))?;
    let mut lines = BufReader::new(stream.try_clone()?);
    let mut session = Session::default();
    loop {
        let Some(line) = read_line(&mut lines, || reach.may_be_silent(&session))? else {
            return Ok(());
        };
        if line.len() as u64 == LINE_BYTES_MAX && !line.ends_with(b"\n") {
            let what = format!("the line is too long; {LINE_BYTES_MAX} bytes are taken");
            return ControlAnswer::error(&refuse(what)).write(&mut stream);
        }
        match reach.answer(&mut session, &line) {
            Some(answer) if answer.stopping => return reach.stop(stream, &answer),
            Some(answer) => answer.write(&mut stream)?,
            None => return Ok(()),
        }
    }
}

/// A line, or as much of it as is taken; nothing at the end.
fn read_line(lines: &mut BufReader<UnixStream>, may_be_silent: impl Fn() -> bool) -> std::io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    loop {
        let room = LINE_BYTES_MAX - line.len() as u64;
        match lines.by_ref().take(room).read_until(b'\n', &mut line) {
            Ok(_) => return Ok((!line.is_empty()).then_some(line)),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock && may_be_silent() => {}
            Err(error) => return Err(error),
        }
    }
}

impl Reach {
    fn may_be_silent(&self, session: &Session) -> bool {
        let service = self.service.read().unwrap_or_else(PoisonError::into_inner);
        service.as_deref().is_some_and(|service| session.holds_a_lease(service))
    }

    /// Nothing, if the server has ended.
    fn answer(&self, session: &mut Session, line: &[u8]) -> Option<ControlAnswer> {
        let service = self.service.read().unwrap_or_else(PoisonError::into_inner);
        let service = service.as_deref()?;
        let answer = ControlRequest::parse(line).and_then(|request| session.answer(service, request.verb));
        Some(answer.unwrap_or_else(|error| ControlAnswer::error(&error)))
    }

    fn stop(&self, mut stream: UnixStream, stopping: &ControlAnswer) -> std::io::Result<()> {
        let told = stream
            .set_write_timeout(Some(LAST_ANSWER_MAX))
            .and_then(|()| stopping.write(&mut stream))
            .and_then(|()| self.farewell.wait(stream));
        let service = self.service.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(service) = service.as_deref() {
            service.stopper().stop();
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io::{ErrorKind, Write};

    use super::*;

    fn silent_pair() -> (UnixStream, BufReader<UnixStream>) {
        let (client, server) = UnixStream::pair().unwrap();
        server.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        (client, BufReader::new(server))
    }

    #[test]
    fn who_is_silent_is_let_go() {
        let (mut client, mut lines) = silent_pair();
        client.write_all(b"{\"v\":1").unwrap();
        let error = read_line(&mut lines, || false).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
    }

    #[test]
    fn who_may_be_silent_is_waited_for_in_the_middle_of_a_line_as_well() {
        let (mut client, mut lines) = silent_pair();
        client.write_all(b"one ").unwrap();
        let looks = Cell::new(0);
        let line = read_line(&mut lines, || {
            looks.set(looks.get() + 1);
            if looks.get() == 3 {
                (&client).write_all(b"line\nand another\n").unwrap();
            }
            true
        });
        assert_eq!((line.unwrap().unwrap(), looks.get()), (b"one line\n".to_vec(), 3));
        assert_eq!(read_line(&mut lines, || false).unwrap().unwrap(), b"and another\n");
        drop(client);
        assert_eq!(read_line(&mut lines, || true).unwrap(), None);
    }
}
