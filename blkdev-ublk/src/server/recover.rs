//! From one server to the next: recovered from one that died, handed over by one that leaves.
//!
//! ```text
//!  old server:  QUIESCE_DEV, where the kernel has it ─► what was begun ends ─► image closed ─► process ends
//!  new server:  image locked ─► threads ready ─► START_USER_RECOVERY ─► open /dev/ublkcN, fetch every tag ─► END_USER_RECOVERY
//! ```
//!
//! # Contract
//! - The caller has opened, and so locked, what is served, before the driver hears of the new server.
//! - A recovery that fails before `START_USER_RECOVERY` has not touched the device. What could fail for want of memory, of
//!   threads, or of the image comes before; after it only the device is opened and mapped, and its tags are fetched.
//! - One that fails, or is killed, after it leaves the device waiting for the next, if the tags of one queue at least were fetched. If
//!   not, drivers before Linux 6.15 take up no other, and the device can only be deleted.

use std::time::Duration;

use super::made::{check_mode, mode};
use super::{Server, Stage, watchdog};
use crate::abi::{Attributes, DeviceState, Params};
use crate::config::ServerConfig;
use crate::driver::Driver;
use crate::kernel::KernelDriver;
use crate::{Control, Error, ErrorKind, Features, Recovery};

/// How long idle tags may take to come back. Requests wait meanwhile.
const QUIESCE_MAX: Duration = Duration::from_secs(5);

impl Server {
    /// Takes over a device whose server has died, or has left; returns when it can be used again. Requests that the old server
    /// had and did not end come once more. Waits for the old one's end, up to `patience`.
    ///
    /// What the device was made with stays: of `config`, its sizes count only as far as they are checked.
    ///
    /// # Errors
    /// `NotFound`; `Busy`, if it is served; `Unsupported`, if it was not made for it; `Config`, if it is another device than the
    /// one with that mark, or what is to be served does not fit what users were told of it.
    pub fn recover(id: u32, config: ServerConfig, patience: Duration) -> Result<Self, Error> {
        Self::recover_on(&KernelDriver, id, config, patience)
    }

    pub(crate) fn recover_on(
        driver: &dyn Driver,
        id: u32,
        config: ServerConfig,
        patience: Duration,
    ) -> Result<Self, Error> {
        config.check()?;
        let mut control = Control::on(driver)?;
        let info = control.recoverable(id, config.mark)?;
        check_mode(mode(&config), &info)?;
        check_fit(&control.params(id)?, &config)?;
        let watchdog = watchdog(&config)?;
        let mut server = Self::new(control, info, watchdog, Stage::Adopted);
        server.prepare(&config)?;
        server.control.start_recovery(id, config.mark, patience)?;
        server.open(driver)?;
        server.control.end_recovery(id)?;
        server.info.state = DeviceState::Live;
        server.stage = Stage::Serving;
        Ok(server)
    }

    /// Leaves the device to the next server: what was begun ends, new requests wait. Close what was served then, and end the
    /// process: only its end lets the next server in.
    ///
    /// # Errors
    /// `Unsupported`, if the device was not made to outlive its server, or not with all its requests: it goes on. What a thread
    /// failed of.
    pub fn hand_over(&mut self) -> Result<(), Error> {
        let lacks = match self.recovery() {
            Recovery::Reissue => None,
            Recovery::Fail => Some("to keep the requests that its server has when that ends"),
            Recovery::Off => Some("to outlive its server"),
        };
        if let Some(lacks) = lacks {
            let what = format!("ublk device {} was not made {lacks}", self.info.id);
            return Err(Error::new(ErrorKind::Unsupported, what));
        }
        if self.info.features.contains(Features::QUIESCE)
            && let Err(error) = self.control.quiesce(self.info.id, QUIESCE_MAX)
        {
            tracing::warn!(%error, "quiesce: failed; requests that come meanwhile are handed over as well");
        }
        self.leave()
    }

    /// What becomes of the device when its server is gone.
    pub fn recovery(&self) -> Recovery {
        Recovery::of(self.info.features)
    }

    pub(super) fn outlives_server(&self) -> bool {
        self.recovery() != Recovery::Off
    }

    /// Has the threads end, and lets go of the device.
    pub(super) fn leave(&mut self) -> Result<(), Error> {
        self.ask_to_leave();
        let left = self.join(Stage::Gone);
        self.source = None;
        left
    }

    /// From now on the threads begin nothing more, and end when what they began has ended.
    pub(crate) fn ask_to_leave(&self) {
        if let Some(leave) = &self.leave {
            leave.ask();
        }
    }
}

fn refuse(what: String) -> Error {
    Error::new(ErrorKind::Config, what)
}

/// What users were told must hold still.
fn check_fit(told: &Params, config: &ServerConfig) -> Result<(), Error> {
    let (limits, name) = (config.device.limits(), config.device.name());
    let now = Params::of(&limits, config.buffer_bytes);
    if now.size < told.size {
        let (now, told) = (now.size.0, told.size.0);
        return Err(refuse(format!(
            "{name:?} has {now} sectors, and its device {told}: it was cut meanwhile"
        )));
    }
    if now.logical_block_shift > told.logical_block_shift {
        return Err(refuse(format!("{name:?} has larger blocks than its device")));
    }
    let (has, had) = (now.attributes, told.attributes);
    if has.contains(Attributes::READ_ONLY) && !had.contains(Attributes::READ_ONLY) {
        return Err(refuse(format!(
            "{name:?} can only be read, and its device can be written"
        )));
    }
    if has.contains(Attributes::VOLATILE_CACHE) && !had.contains(Attributes::VOLATILE_CACHE) {
        return Err(refuse(format!("{name:?} must be flushed, and its device never is")));
    }
    Ok(())
}
