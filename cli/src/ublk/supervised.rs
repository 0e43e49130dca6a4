//! A block device whose server is started again when it dies: by recovery, so that who uses the device sees a pause.

use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, Stdio};

use serde_json::Value;
use vbd::ublk_waits_for_server;

use super::Origin;
use super::background::Child;
use crate::failure::Failure;
use crate::output::{note, print};
use crate::running::exit_code;
use crate::supervise::{Role, Supervisor};

/// Starts servers as long as they die and their device is there.
pub(super) fn run(origin: Origin, mut background: Option<Child>) -> Result<ExitCode, Failure> {
    let is_in_background = background.is_some();
    let mut supervisor = Supervisor::new()?;
    let (mut role, mut device) = (Role::First, None);
    loop {
        let mut command = role.command();
        let Some(mut server) = supervisor.start(command.stdout(Stdio::piped()))? else {
            return device.map_or(Ok(ExitCode::SUCCESS), |id| Err(left(id)));
        };
        if let Some(line) = server.line() {
            let id = device_of(&line)?;
            let told = match background.take() {
                Some(child) => child.go(&line, id).map(drop),
                None if is_in_background => Ok(()),
                None => print(&line),
            };
            // Who cannot be told of a new device does not want it.
            if told.is_err() && device.is_none() && origin == Origin::Made {
                supervisor.end();
                supervisor.wait(&mut server)?;
                return told.map(|()| ExitCode::FAILURE);
            }
            device = Some(id);
        }
        let status = supervisor.wait(&mut server)?;
        let code = exit_code(status);
        let Some(id) = device.filter(|_| !status.success() && !supervisor.is_asked()) else {
            return Ok(ExitCode::from(code));
        };
        if !ublk_waits_for_server(id)? {
            // One that ended by itself has said why.
            if status.signal().is_some() {
                note(&format!(
                    "the server died by signal {}, and its device is gone",
                    code - 128
                ));
            }
            return Ok(ExitCode::from(code));
        }
        let goes_on = supervisor
            .pause(&server, status)
            .map_err(|failure| failure.hint(way_out(id)))?;
        if !goes_on {
            return Err(left(id));
        }
        role = Role::Device(id);
    }
}

/// The device that a server says that it serves.
fn device_of(line: &str) -> Result<u32, Failure> {
    let text = line.trim_end();
    let of_json = || {
        serde_json::from_str::<Value>(text).ok()?["id"]
            .as_u64()?
            .try_into()
            .ok()
    };
    let of_path = || text.strip_prefix("/dev/ublkb")?.parse().ok();
    of_path()
        .or_else(of_json)
        .ok_or_else(|| Failure::new(format!("the server says {text:?}, which names no device")))
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
        assert_eq!(device_of("/dev/ublkb7\n").unwrap(), 7);
        assert_eq!(device_of("{\"event\":\"ready\",\"id\":7}\n").unwrap(), 7);
        for other in ["\n", "/dev/sda\n", "{\"id\":-1}\n"] {
            device_of(other).unwrap_err();
        }
    }
}
