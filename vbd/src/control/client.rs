//! The client's side of a control socket.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::{ControlAnswer, ControlRequest, VERSION, Verb};
use crate::error::{Error, ErrorKind};
use crate::server::Status;

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
            // The kernel's word for it, "temporarily unavailable", would mislead.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(fail(
                    "the server does not answer in time; it may go on with what it was asked for",
                ));
            }
            Err(error) => return Err(fail("the server's answer is lost").because(error)),
        }
        let answer: ControlAnswer =
            serde_json::from_str(&line).map_err(|error| fail("the answer makes no sense").because(error))?;
        match answer.error {
            Some(error) if !answer.ok => Err(fail("the server says no").because(error)),
            _ => Ok(answer),
        }
    }
}
