//! The control socket: JSON lines, one request and one or more answers each, versioned.
//!
//! ```text
//! → {"v":1,"verb":"status"}
//! ← {"v":1,"ok":true,"status":{…}}
//! → {"v":1,"verb":"stop"}
//! ← {"v":1,"ok":true,"stopping":true}
//! ← {"v":1,"ok":true,"stopped":true}          when everything is flushed and closed
//! ← {"v":1,"ok":false,"error":"…"}            whenever something is wrong
//! ```
//!
//! # Contract
//! - A wish to stop counts, whether or not its client stays for the answers.
//! - What outlives the server here are threads of silent clients, for [`IDLE_MAX`], and they hold no disk.
//!
//! Answers may gain fields within a version; what has no meaning for a client is to be ignored.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind};
use crate::server::{Status, Stopper};

/// The version spoken here.
const VERSION: u32 = 1;
/// A request line is at most so long.
const LINE_BYTES_MAX: u64 = 64 << 10;
/// So many clients at once; the next is turned away.
const CLIENTS_MAX: usize = 32;
/// A client that says nothing for so long is let go.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// A client that wants the end must take its answers in this time.
const LAST_ANSWER_MAX: Duration = Duration::from_secs(1);

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlRequest {
    /// 1: the version of this protocol.
    pub v: u32,
    /// What to do.
    pub verb: Verb,
}

/// The verbs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    /// How the server and its disks are.
    Status,
    /// End: finish, flush, close.
    Stop,
}

/// What the server answers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ControlAnswer {
    /// 1: the version of this protocol.
    pub v: u32,
    /// Did it work?
    pub ok: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Answer to `status`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
    /// First answer to `stop`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stopping: bool,
    /// Last answer to `stop`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stopped: bool,
}

impl ControlAnswer {
    fn ok() -> Self {
        Self {
            v: VERSION,
            ok: true,
            ..Self::default()
        }
    }

    fn stopped() -> Self {
        Self {
            stopped: true,
            ..Self::ok()
        }
    }

    fn error(what: impl Into<String>) -> Self {
        Self {
            v: VERSION,
            error: Some(what.into()),
            ..Self::default()
        }
    }
}

/// What clients can reach.
pub(crate) struct ControlContext {
    pub(crate) status: Arc<dyn Fn() -> Status + Send + Sync>,
    pub(crate) stopper: Stopper,
    pub(crate) farewell: Farewell,
}

/// Clients that asked for the end and wait for it. They are answered by who has ended the server, not by threads of
/// their own: those would race the end of the process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Farewell(Arc<Mutex<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    clients: Vec<UnixStream>,
    /// How it ended, once it has.
    last: Option<ControlAnswer>,
}

impl Farewell {
    fn wait(&self, mut client: UnixStream) -> std::io::Result<()> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &waiting.last {
            Some(last) => answer(&mut client, last),
            None => {
                waiting.clients.push(client);
                Ok(())
            }
        }
    }

    /// Tells all of them how the server ended.
    pub(crate) fn tell(&self, error: Option<String>) {
        let last = error.map_or_else(ControlAnswer::stopped, ControlAnswer::error);
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for mut client in waiting.clients.drain(..) {
            // Who went away does not want to know.
            let _ = answer(&mut client, &last);
        }
        waiting.last = Some(last);
    }
}

/// A control socket that is served, until this is dropped.
pub(crate) struct Control {
    listener: Arc<UnixListener>,
    /// The only lasting hold on it: clients that say nothing must not keep a disk open.
    _context: Arc<ControlContext>,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control")
            .field("listener", &self.listener)
            .finish_non_exhaustive()
    }
}

impl Control {
    /// Serves `listener`; clients are few and cheap, a thread each.
    pub(crate) fn start(listener: UnixListener, context: ControlContext) -> std::io::Result<Self> {
        let (listener, context) = (Arc::new(listener), Arc::new(context));
        let (accepting, reach) = (Arc::clone(&listener), Arc::downgrade(&context));
        thread::Builder::new()
            .name("control".into())
            .spawn(move || accept(&accepting, &reach))?;
        Ok(Self {
            listener,
            _context: context,
        })
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // Linux wakes who waits in accept, and turns clients away from now on.
        if let Err(error) = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both) {
            tracing::warn!(%error, "control_close: failed");
        }
    }
}

fn accept(listener: &UnixListener, context: &Weak<ControlContext>) {
    let clients = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        if context.strong_count() == 0 {
            return;
        }
        match stream {
            Ok(stream) => admit(stream, context, &clients),
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
    let mut line = String::new();
    loop {
        line.clear();
        let len = lines.by_ref().take(LINE_BYTES_MAX).read_line(&mut line)?;
        let Some(context) = context.upgrade().filter(|_| len > 0) else {
            return Ok(());
        };
        if len as u64 == LINE_BYTES_MAX && !line.ends_with('\n') {
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

fn parse(line: &str) -> Result<Verb, String> {
    let request: ControlRequest = serde_json::from_str(line).map_err(|error| format!("not a request: {error}"))?;
    if request.v == VERSION {
        Ok(request.verb)
    } else {
        Err(format!("version {VERSION} is spoken here, not {}", request.v))
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

fn answer(stream: &mut UnixStream, answer: &ControlAnswer) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(answer).map_err(std::io::Error::other)?;
    line.push(b'\n');
    stream.write_all(&line)
}

/// The client's side of a control socket.
#[derive(Debug)]
pub struct ControlClient {
    stream: BufReader<UnixStream>,
}

impl ControlClient {
    /// Connects; `timeout` bounds every answer.
    pub fn connect(path: &Path, timeout: Duration) -> Result<Self, Error> {
        let fail = |error: std::io::Error| {
            Error::new(
                ErrorKind::Control,
                "no server answers here; `iomgr status` lists those that run",
            )
            .at(path)
            .because(error)
        };
        let stream = UnixStream::connect(path).map_err(fail)?;
        stream.set_read_timeout(Some(timeout)).map_err(fail)?;
        stream.set_write_timeout(Some(timeout)).map_err(fail)?;
        Ok(Self {
            stream: BufReader::new(stream),
        })
    }

    /// Asks for the server's status.
    pub fn status(&mut self) -> Result<Status, Error> {
        self.ask(Verb::Status)?
            .status
            .ok_or_else(|| Error::new(ErrorKind::Control, "the answer holds no status"))
    }

    /// Has the server end, and waits until it has closed everything.
    pub fn stop(&mut self) -> Result<(), Error> {
        let mut answer = self.ask(Verb::Stop)?;
        while !answer.stopped {
            answer = self.answer()?;
        }
        Ok(())
    }

    fn ask(&mut self, verb: Verb) -> Result<ControlAnswer, Error> {
        let mut line = serde_json::to_vec(&ControlRequest { v: VERSION, verb }).expect("a request is plain data");
        line.push(b'\n');
        self.stream
            .get_mut()
            .write_all(&line)
            .map_err(|error| Error::new(ErrorKind::Control, "the server does not listen").because(error))?;
        self.answer()
    }

    fn answer(&mut self) -> Result<ControlAnswer, Error> {
        let mut line = String::new();
        let got = self.stream.read_line(&mut line);
        let fail = |what: &str| Error::new(ErrorKind::Control, what.to_owned());
        match got {
            Ok(0) => return Err(fail("the server ended before it answered")),
            Ok(_) => {}
            Err(error) => return Err(fail("the server does not answer in time").because(error)),
        }
        let answer: ControlAnswer =
            serde_json::from_str(&line).map_err(|error| fail("the answer makes no sense").because(error))?;
        match answer.error {
            Some(error) if !answer.ok => Err(fail("the server says no").because(error)),
            _ => Ok(answer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_checked() {
        assert_eq!(parse(r#"{"v":1,"verb":"status"}"#), Ok(Verb::Status));
        assert!(parse(r#"{"v":2,"verb":"status"}"#).unwrap_err().contains("version 1"));
        assert!(parse(r#"{"v":1,"verb":"explode"}"#).unwrap_err().contains("explode"));
        assert!(parse("").is_err());
    }

    #[test]
    fn answers_hold_only_what_they_mean() {
        let line = serde_json::to_string(&ControlAnswer {
            stopping: true,
            ..ControlAnswer::ok()
        })
        .unwrap();
        assert_eq!(line, r#"{"v":1,"ok":true,"stopping":true}"#);
    }
}
