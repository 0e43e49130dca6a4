//! The server of ours that serves a ublk device, found by the device's number.
//!
//! Its control socket is the one that the device's record names. A device that does not outlive its server has no record, and
//! a record may be of an old one: so the socket that is there by default is asked as well, and who answers must say himself
//! that he serves the device.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::record::Record;
use super::ublk_control;
use crate::control::ControlClient;
use crate::error::{Error, ErrorKind};
use crate::server::Status;

/// Connects to the server of a device; what it says of itself. `timeout` bounds every answer.
///
/// # Errors
/// `Control`: none of our servers answers and says that it serves the device.
pub fn ublk_server(id: u32, timeout: Duration) -> Result<(ControlClient, Status), Error> {
    let default = ublk_control(id);
    let recorded = Record::read(id).map(|record| record.control).ok();
    let recorded = recorded.filter(|control| *control != default);
    find(recorded.into_iter().chain([default]), id, timeout)
}

/// The first of them that serves the device; else what the first of them answers.
fn find(controls: impl Iterator<Item = PathBuf>, id: u32, timeout: Duration) -> Result<(ControlClient, Status), Error> {
    let mut refused = None;
    for control in controls {
        match ask(&control, id, timeout) {
            Ok(server) => return Ok(server),
            Err(error) => refused = refused.or(Some(error)),
        }
    }
    let what = format!("no server of this program answers for ublk device {id}");
    let hint = "is it another program's, or was it added under another IOMGR_RUNTIME_DIR?";
    let error = Error::new(ErrorKind::Control, what).hint(hint);
    Err(match refused {
        Some(refused) => error.because(refused),
        None => error,
    })
}

/// Asks who listens there, who is to serve the device.
pub(crate) fn ask(control: &Path, id: u32, timeout: Duration) -> Result<(ControlClient, Status), Error> {
    let mut server = ControlClient::connect(control, timeout)?;
    let status = server.status()?;
    match status.ublk.as_ref().is_some_and(|ublk| ublk.id == id) {
        true => Ok((server, status)),
        false => Err(Error::new(ErrorKind::Control, format!("this server does not serve device {id}")).at(control)),
    }
}
