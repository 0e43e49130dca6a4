//! The client's side of a control socket.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{
    AttachRequest, ControlAnswer, ControlRequest, DetachRequest, ManagerSet, ManagerStatus, ManagerUnset, Nothing,
    PauseRequest, PolicyInfo, ResumeRequest, Sample, StatsRequest, Verb,
};
use crate::error::{Error, ErrorKind};
use crate::server::{DiskEntry, Status};

/// The client's side of a control socket.
#[derive(Debug)]
pub struct ControlClient {
    stream: BufReader<UnixStream>,
    path: PathBuf,
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
            path: path.to_path_buf(),
        })
    }

    /// From now on `timeout` bounds every answer.
    pub fn be_patient(&mut self, timeout: Duration) -> Result<(), Error> {
        let set = self.stream.get_ref().set_read_timeout(Some(timeout));
        set.map_err(|error| self.fail("cannot be waited for").because(error))
    }

    /// Asks for the server's status.
    pub fn status(&mut self) -> Result<Status, Error> {
        held(self.ask(Verb::Status(Nothing {}))?.status)
    }

    /// Has the server end, and waits until it has closed everything.
    pub fn stop(&mut self) -> Result<(), Error> {
        self.end(Verb::Stop(Nothing {}))
    }

    /// The same, but not while anybody has its block device open, as far as the kernel can tell.
    pub fn stop_idle(&mut self) -> Result<(), Error> {
        self.end(Verb::StopIdle(Nothing {}))
    }

    /// The same, but its block device stays, for the next server.
    pub fn hand_over(&mut self) -> Result<(), Error> {
        self.end(Verb::HandOver(Nothing {}))
    }

    fn end(&mut self, verb: Verb) -> Result<(), Error> {
        let mut answer = self.ask(verb)?;
        while !answer.stopped {
            answer = self.answer()?;
        }
        Ok(())
    }

    /// Asks for the disks.
    pub fn disks(&mut self) -> Result<Vec<DiskEntry>, Error> {
        held(self.ask(Verb::List(Nothing {}))?.disks)
    }

    /// What was done since this client last asked, on one disk or on all.
    pub fn sample(&mut self, disk: Option<&str>) -> Result<Sample, Error> {
        let disk = disk.map(str::to_owned);
        held(self.ask(Verb::Stats(StatsRequest { disk }))?.stats)
    }

    /// Asks for the current manager.
    pub fn manager(&mut self) -> Result<ManagerStatus, Error> {
        held(self.ask(Verb::ManagerShow(Nothing {}))?.manager)
    }

    /// Makes a policy the current manager, or changes its parameters.
    pub fn set_manager(&mut self, wish: ManagerSet) -> Result<ManagerStatus, Error> {
        held(self.ask(Verb::ManagerSet(wish))?.manager)
    }

    /// Goes back to "none"; only from the manager of that name, if there is one.
    pub fn unset_manager(&mut self, name: Option<&str>) -> Result<ManagerStatus, Error> {
        let name = name.map(str::to_owned);
        held(self.ask(Verb::ManagerUnset(ManagerUnset { name }))?.manager)
    }

    /// Asks for the policies that the server knows.
    pub fn managers(&mut self) -> Result<Vec<PolicyInfo>, Error> {
        held(self.ask(Verb::ManagerList(Nothing {}))?.managers)
    }

    /// Takes a disk's image away for a time. A lease lasts as long as this client.
    pub fn pause(&mut self, wish: PauseRequest) -> Result<DiskEntry, Error> {
        held(self.ask(Verb::Pause(wish))?.disk)
    }

    /// Gives a disk its image back, or another one.
    pub fn resume(&mut self, wish: ResumeRequest) -> Result<DiskEntry, Error> {
        wish.image.as_deref().map_or(Ok(()), check_image_name)?;
        held(self.ask(Verb::Resume(wish))?.disk)
    }

    /// Has the server serve one more disk.
    pub fn attach(&mut self, wish: AttachRequest) -> Result<DiskEntry, Error> {
        check_image_name(&wish.image)?;
        held(self.ask(Verb::Attach(wish))?.disk)
    }

    /// Has the server serve a disk no more; its image is free when this returns.
    pub fn detach(&mut self, which: DetachRequest) -> Result<(), Error> {
        self.ask(Verb::Detach(which)).map(drop)
    }

    fn ask(&mut self, verb: Verb) -> Result<ControlAnswer, Error> {
        let mut line = serde_json::to_vec(&ControlRequest::new(verb)).map_err(|error| {
            Error::new(ErrorKind::InvalidOption, "what is asked for cannot be written as JSON").because(error)
        })?;
        line.push(b'\n');
        self.stream
            .get_mut()
            .write_all(&line)
            .map_err(|error| self.fail("the server does not listen").because(error))?;
        self.answer()
    }

    fn fail(&self, what: &str) -> Error {
        Error::new(ErrorKind::Control, what.to_owned()).at(&self.path)
    }

    fn answer(&mut self) -> Result<ControlAnswer, Error> {
        let mut line = String::new();
        let got = self.stream.read_line(&mut line);
        let fail = |what| self.fail(what);
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
        answer.into_result()
    }
}

/// Can a server be told of it in JSON?
fn check_image_name(image: &Path) -> Result<(), Error> {
    match image.to_str() {
        Some(_) => Ok(()),
        None => {
            let what = "its name is not UTF-8, so a running server cannot be told of it; give it another name, or a link with one";
            Err(Error::new(ErrorKind::InvalidOption, what).at(image))
        }
    }
}

/// What an answer must hold.
fn held<T>(part: Option<T>) -> Result<T, Error> {
    part.ok_or_else(|| Error::new(ErrorKind::Control, "the answer does not hold what was asked for"))
}
