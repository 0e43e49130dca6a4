//! From one server of a device to the next.
//!
//! ```text
//!            its server is killed, or leaves                      START_USER_RECOVERY ─► fetch every tag ─► END_USER_RECOVERY
//!  live ──────────────────────────────────► quiesced (or failing) ───────────────────────────────────────────────► live
//! ```
//!
//! `START_USER_RECOVERY` forgets what the old server had, so it is sent only when the old one is gone for the kernel as well:
//! that takes a moment, and with kernels before 6.15 half a minute if all tags were with the server.

use std::thread;
use std::time::{Duration, Instant};

use iomgr_core::Errno;

use super::{Control, QUICK, START, STOP, about};
use crate::abi::{ControlOp, DeviceInfo, DeviceState};
use crate::{Error, ErrorKind, Features};

/// Between two looks at a device whose server is going.
const PAUSE_MIN: Duration = Duration::from_millis(2);
const PAUSE_MAX: Duration = Duration::from_millis(100);

impl Control {
    /// What the device is, if it is the one with that mark and can be recovered, now or when its server is gone.
    pub(crate) fn recoverable(&mut self, id: u32, mark: u64) -> Result<DeviceInfo, Error> {
        let info = self.info(id)?;
        check_identity(&info, mark)?;
        check_recoverable(&info)?;
        Ok(info)
    }

    /// Has the kernel forget the last server, as soon as that has gone; not after `patience`. Meanwhile the device may be
    /// deleted, and another get its number.
    pub(crate) fn start_recovery(&mut self, id: u32, mark: u64, patience: Duration) -> Result<(), Error> {
        let deadline = Instant::now() + patience;
        let mut pause = PAUSE_MIN;
        loop {
            let info = self.recoverable(id, mark)?;
            let is_left = matches!(info.state, DeviceState::Quiesced | DeviceState::FailIo);
            // A command that is given up here may be obeyed later, and nobody could take up what it began: so it has time.
            let begun = is_left.then(|| self.run(ControlOp::StartRecovery, id, 0, STOP, &mut []));
            match begun {
                Some(Ok(())) => return Ok(()),
                None | Some(Err(Errno::BUSY)) if Instant::now() >= deadline => return Err(still_served(&info)),
                None | Some(Err(Errno::BUSY)) => {}
                Some(Err(Errno::INVAL)) => return Err(broken_off(id)),
                Some(Err(errno)) => return Err(about(id, "START_USER_RECOVERY", errno)),
            }
            thread::sleep(pause);
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Lets requests through again. Its queues must be served already.
    pub(crate) fn end_recovery(&mut self, id: u32) -> Result<(), Error> {
        let pid = u64::from(std::process::id());
        self.run(ControlOp::EndRecovery, id, pid, START, &mut [])
            .map_err(|errno| about(id, "END_USER_RECOVERY", errno))
    }

    /// Has new requests wait in the kernel for the next server, and aborts the fetches of idle tags. False: not in time.
    pub(crate) fn quiesce(&mut self, id: u32, patience: Duration) -> Result<bool, Error> {
        let millis = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX).max(1);
        match self.run(ControlOp::Quiesce, id, millis, patience + QUICK, &mut []) {
            Ok(()) => Ok(true),
            Err(Errno::BUSY | Errno::INTR) => Ok(false),
            Err(errno) => Err(about(id, "QUIESCE_DEV", errno)),
        }
    }
}

fn check_identity(info: &DeviceInfo, mark: u64) -> Result<(), Error> {
    match info.mark == mark {
        true => Ok(()),
        false => Err(Error::new(
            ErrorKind::Config,
            format!(
                "ublk device {} is not the one that is to be recovered: that was deleted, and another has its number",
                info.id
            ),
        )),
    }
}

fn check_recoverable(info: &DeviceInfo) -> Result<(), Error> {
    if !info.features.contains(Features::USER_RECOVERY) {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("ublk device {} was not made to outlive its server", info.id),
        ));
    }
    match info.state {
        DeviceState::Dead => Err(Error::new(
            ErrorKind::NotFound,
            format!("ublk device {} is stopped: there is nothing left to recover", info.id),
        )),
        _ => Ok(()),
    }
}

fn still_served(info: &DeviceInfo) -> Error {
    let what = match info.state {
        DeviceState::Live => format!(
            "ublk device {} is live: process {} serves it, or has just died and the kernel has not noticed yet",
            info.id, info.server_pid
        ),
        state => format!(
            "ublk device {} is {state}, but a process still has it open: one that is dying, or that recovers it, too",
            info.id
        ),
    };
    Error::new(ErrorKind::Busy, what)
}

/// The kernel begins no recovery while another has fetched nothing yet, also one that will not any more.
fn broken_off(id: u32) -> Error {
    let what = format!(
        "another recovery of ublk device {id} is under way; or one ended before it served anything, which the driver cannot \
         take up: delete it then"
    );
    Error::new(ErrorKind::Busy, what).caused_by(Errno::INVAL)
}
