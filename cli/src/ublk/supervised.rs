//! A block device whose server is started again when it dies: by recovery, so that who uses the device sees a pause.

use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, ExitStatus, Stdio};

use serde_json::Value;
use vbd::ublk_waits_for_server;

use super::Origin;
use super::background::Child;
use crate::failure::Failure;
use crate::output::{note, print};
use crate::running::exit_code;
use crate::supervise::{Role, Server, Supervisor};

/// Starts servers as long as they die and their device is there.
pub(super) fn run(origin: Origin, background: Option<Child>) -> Result<ExitCode, Failure> {
    let mut supervisor = Supervisor::new()?;
    let mut audience = Audience::new(background);
    let mut role = Role::First;
    while let Some(mut server) = supervisor.start(role.command().stdout(Stdio::piped()))? {
        if let Err(failure) = audience.hear(&mut server)
            && role == Role::First
            && origin == Origin::Made
        {
            // Who cannot be told of a new device does not want it.
            supervisor.end();
            supervisor.wait(&mut server)?;
            return Err(failure);
        }
        let status = supervisor.wait(&mut server)?;
        let Some(id) = audience.device.filter(|_| !status.success()) else {
            return Ok(ExitCode::from(exit_code(status)));
        };
        if !ublk_waits_for_server(id)? {
            return Ok(gone(id, status));
        }
        if supervisor.is_asked() {
            break;
        }
        let pause = supervisor.pause(&server, status);
        if !pause.map_err(|failure| failure.hint(way_out(id)))? {
            break;
        }
        role = Role::Device(id);
    }
    audience.device.map_or(Ok(ExitCode::SUCCESS), |id| Err(left(id)))
}

/// Who hears what the servers say: at first whoever asked for the device.
struct Audience {
    /// There, until the device can be used.
    background: Option<Child>,
    is_in_background: bool,
    /// The device that the servers speak of.
    device: Option<u32>,
}

impl Audience {
    fn new(background: Option<Child>) -> Self {
        Self {
            is_in_background: background.is_some(),
            background,
            device: None,
        }
    }

    /// Passes on what a server says: in the foreground until its end, in the background until the device can be used.
    fn hear(&mut self, server: &mut Server) -> Result<(), Failure> {
        while let Some(line) = server.line() {
            self.device = self.device.or(device_of(&line));
            match self.device.and_then(|id| Some((self.background.take()?, id))) {
                Some((child, id)) => child.go(&line, id).map(drop)?,
                None if self.is_in_background => {}
                None => print(&line)?,
            }
        }
        Ok(())
    }
}

/// The device of which a line tells: its path, perhaps behind a word, or the event in JSON.
fn device_of(line: &str) -> Option<u32> {
    let text = line.trim_end();
    let path = text.split_once("/dev/ublkb").and_then(|(_, id)| id.parse().ok());
    path.or_else(|| {
        let event: Value = serde_json::from_str(text).ok()?;
        event["id"].as_u64()?.try_into().ok()
    })
}

/// There is nothing left to recover. A server that ended by itself has said why.
fn gone(id: u32, status: ExitStatus) -> ExitCode {
    if let Some(signal) = status.signal() {
        note(&format!(
            "the server died by signal {signal}, and /dev/ublkb{id} with it"
        ));
    }
    ExitCode::from(exit_code(status))
}

/// The end was asked for while there was no server.
fn left(id: u32) -> Failure {
    Failure::new(format!("ended while /dev/ublkb{id} had no server: its requests wait")).hint(way_out(id))
}

fn way_out(id: u32) -> String {
    format!("`iomgr recover {id}` goes on with /dev/ublkb{id}, `iomgr del -n {id} --force` ends it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_device_is_in_the_line() {
        for (line, device) in [
            ("/dev/ublkb7\n", Some(7)),
            ("device: /dev/ublkb7\n", Some(7)),
            ("{\"event\":\"ready\",\"id\":7,\"path\":\"/dev/ublkb7\"}\n", Some(7)),
            ("serving: /home/me/disk.vhd\n", None),
            ("  blkid -p /dev/ublkb7 and more\n", None),
            ("{\"id\":-1}\n", None),
        ] {
            assert_eq!(device_of(line), device, "{line}");
        }
    }
}
