//! `iomgr serve`, from its first line to its last.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::process::Process;
use crate::tool::{Ended, Tool};
use crate::wait::PATIENCE;

/// A server that says it is ready. Dropping it kills it; end it by [`Server::stop`] to see that it ends well.
#[derive(Debug)]
pub struct Server {
    ready: Value,
    starting: Starting,
}

/// A server that was started and has not said anything yet.
#[derive(Debug)]
pub struct Starting {
    process: Process,
    lines: Receiver<String>,
    stderr: Arc<Mutex<String>>,
    stderr_reader: Option<JoinHandle<()>>,
}

/// How a start came out.
#[derive(Debug)]
pub enum Outcome {
    /// The server is ready.
    Ready(Server),
    /// It ended instead.
    Ended(Ended),
    /// Neither yet.
    Pending(Starting),
}

impl Server {
    /// Serves the image with these further arguments, sockets in `run`; a server that does not get ready is a panic.
    pub fn start<S: AsRef<str>>(run: &Path, image: &Path, args: &[S]) -> Server {
        match Starting::new(run, image, args).wait(PATIENCE) {
            Outcome::Ready(server) => server,
            Outcome::Ended(ended) => panic!("iomgr serve {} ended: {ended:#?}", image.display()),
            Outcome::Pending(starting) => panic!("iomgr serve is not ready: {}", starting.stderr()),
        }
    }

    /// The NBD URI.
    pub fn uri(&self) -> &str {
        self.ready["uri"]
            .as_str()
            .unwrap_or_else(|| panic!("no uri in {}", self.ready))
    }

    /// The NBD socket.
    pub fn socket(&self) -> PathBuf {
        PathBuf::from(
            self.ready["socket"]
                .as_str()
                .unwrap_or_else(|| panic!("no socket in {}", self.ready)),
        )
    }

    /// The control socket.
    pub fn control(&self) -> PathBuf {
        PathBuf::from(
            self.ready["control"]
                .as_str()
                .unwrap_or_else(|| panic!("no control in {}", self.ready)),
        )
    }

    /// The whole ready line.
    pub fn ready(&self) -> &Value {
        &self.ready
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.starting.process.pid()
    }

    /// What it has printed on its standard error so far.
    pub fn stderr(&self) -> String {
        self.starting.stderr()
    }

    /// Asks it to end by SIGTERM; it must exit with 0 and take its sockets with it. Returns its standard error.
    pub fn stop(self) -> String {
        self.stop_by(Signal::TERM)
    }

    /// As [`Server::stop`], by another signal.
    pub fn stop_by(self, signal: Signal) -> String {
        self.starting.process.signal(signal);
        self.ended_well()
    }

    /// Waits until it has ended by itself (as after `iomgr stop`): exit code 0, no sockets left.
    pub fn ended_well(self) -> String {
        let sockets = [self.socket(), self.control()];
        let code = self.starting.process.exit_code();
        let ended = self.starting.ended(Some(code));
        assert_eq!(code, 0, "{ended:#?}");
        for socket in sockets {
            assert!(!socket.exists(), "{} is still there", socket.display());
        }
        ended.stderr
    }

    /// Kills it (SIGKILL) and waits until it is reaped.
    pub fn kill(self) {
        self.kill_only();
        assert!(
            self.starting.process.ended_within(PATIENCE).is_some(),
            "a killed server lives on"
        );
    }

    /// Sends SIGKILL; the caller waits, or lets it be.
    pub fn kill_only(&self) {
        self.starting.process.signal(Signal::KILL);
    }
}

impl Starting {
    /// Starts a server and does not wait for it.
    pub fn new<S: AsRef<str>>(run: &Path, image: &Path, args: &[S]) -> Starting {
        let tool = Tool::iomgr()
            .arg("serve")
            .arg(image)
            .args(args.iter().map(AsRef::as_ref))
            // What tests look for in the log is text.
            .args(["--json", "--log-format", "text"]);
        let process = Process::start(tool.env("IOMGR_RUNTIME_DIR", run), Stdio::piped(), Stdio::piped());
        let (send, lines) = channel();
        let stdout = process.take_stdout();
        std::thread::spawn(move || {
            // A test that has ended receives no more: then the rest is read and dropped, so that no pipe fills up.
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = send.send(line);
            }
        });
        let stderr = Arc::new(Mutex::new(String::new()));
        let reader = collect(process.take_stderr(), Arc::clone(&stderr));
        Starting {
            process,
            lines,
            stderr,
            stderr_reader: Some(reader),
        }
    }

    /// Waits for the ready line or the end.
    pub fn wait(self, time: Duration) -> Outcome {
        let deadline = std::time::Instant::now() + time;
        loop {
            match self
                .lines
                .recv_timeout(deadline.saturating_duration_since(std::time::Instant::now()))
            {
                Ok(line) => {
                    if let Some(ready) = ready(&line) {
                        return Outcome::Ready(Server { ready, starting: self });
                    }
                }
                Err(RecvTimeoutError::Timeout) => return Outcome::Pending(self),
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self
                        .process
                        .ended_within(PATIENCE)
                        .expect("a process without stdout ends");
                    return Outcome::Ended(self.ended(status.code()));
                }
            }
        }
    }

    /// What it has printed on its standard error so far.
    pub fn stderr(&self) -> String {
        self.stderr.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Everything that an ended process left.
    fn ended(mut self, code: Option<i32>) -> Ended {
        if let Some(reader) = self.stderr_reader.take() {
            reader.join().expect("the reader does not panic");
        }
        let stdout = self.lines.try_iter().collect::<Vec<_>>().join("\n");
        Ended {
            code,
            stdout,
            stderr: self.stderr(),
        }
    }
}

/// The line that says the server is ready.
fn ready(line: &str) -> Option<Value> {
    let value: Value = serde_json::from_str(line).ok()?;
    (value["event"] == "ready").then_some(value)
}

/// Collects text as it comes.
fn collect(mut from: impl Read + Send + 'static, into: Arc<Mutex<String>>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..count]);
            into.lock().unwrap_or_else(PoisonError::into_inner).push_str(&text);
        }
    })
}
