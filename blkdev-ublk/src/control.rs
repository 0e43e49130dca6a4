//! The control device: devices are made, started, looked at, stopped and deleted by commands on it.
//!
//! ```text
//!  add ─► set_params ─► start ─► (served) ─► stop ─► delete
//!                                   ▲  └─ its server dies or leaves ─► recovered by the next ─┐
//!                                   └──────────────────────────────────────────────────────────┘
//! ```
//!
//! # Contract
//! - What comes back from `add` and `set_params` is what the kernel made of it: it drops flags that it does not know, cuts
//!   sizes down, and ignores parameters that are newer than it.
//! - No command waits for ever; one that does not end in time fails, and this control device with it.

mod recovery;

use std::time::Duration;

use crossbeam_channel::Receiver;
use iomgr_core::{Errno, SectorCount};
use rustix::thread::CpuSet;

use crate::abi::{ControlOp, DeviceInfo, Params};
use crate::affinity::{self, AFFINITY_BYTES};
use crate::driver::{ControlCall, ControlPort, Driver};
use crate::kernel::KernelDriver;
use crate::{CONTROL_PATH, Error, ErrorKind, Features, char_path};

/// Commands that only look or take note.
const QUICK: Duration = Duration::from_secs(20);
/// The partition scan reads from the device, which may be slow.
const START: Duration = Duration::from_secs(120);
/// What is in flight, and what the page cache holds of the device, goes down first.
const STOP: Duration = Duration::from_secs(600);
/// The last user of the device lets go of it.
const DELETE: Duration = Duration::from_secs(30);

/// The control device.
#[derive(Debug)]
pub struct Control {
    port: Box<dyn ControlPort>,
    /// The device that was looked at last, and whether it belongs to a user without privilege.
    looked_at: Option<(u32, bool)>,
}

impl Control {
    /// Opens the control device.
    ///
    /// # Errors
    /// `NoDriver`, `Denied`; `Queue` where io_uring cannot be had.
    pub fn open() -> Result<Self, Error> {
        Self::on(&KernelDriver)
    }

    pub(crate) fn on(driver: &dyn Driver) -> Result<Self, Error> {
        Ok(Self {
            port: driver.control()?,
            looked_at: None,
        })
    }

    /// What the driver can do.
    pub fn features(&mut self) -> Result<Features, Error> {
        let mut bits = [0; 8];
        self.run(ControlOp::Features, 0, 0, QUICK, &mut bits)
            .map_err(|errno| match errno {
                Errno::OPNOTSUPP | Errno::INVAL => Error::new(
                    ErrorKind::Unsupported,
                    "the ublk driver does not tell its features: it is older than Linux 6.5",
                ),
                errno => failed("GET_FEATURES", errno),
            })?;
        Ok(Features::from_bits_retain(u64::from_ne_bytes(bits)))
    }

    /// Makes a device, as `info` asks for; what the kernel made of that.
    pub(crate) fn add(&mut self, info: &DeviceInfo) -> Result<DeviceInfo, Error> {
        let mut bytes = info.emit();
        self.run(ControlOp::Add, info.id, 0, QUICK, &mut bytes)
            .map_err(|errno| not_added(info.id, errno))?;
        Ok(self.look_at(DeviceInfo::parse(&bytes)))
    }

    /// Tells what the device can take; what the kernel made of that.
    pub(crate) fn set_params(&mut self, id: u32, params: &Params) -> Result<Params, Error> {
        self.run(ControlOp::SetParams, id, 0, QUICK, &mut params.emit())
            .map_err(|errno| failed("SET_PARAMS", errno))?;
        self.params(id)
    }

    /// What the device can take.
    pub fn params(&mut self, id: u32) -> Result<Params, Error> {
        let mut bytes = [0; Params::BYTES];
        // How much there is room for.
        bytes[..4].copy_from_slice(&u32::try_from(Params::BYTES).expect("it is small").to_ne_bytes());
        self.run(ControlOp::Params, id, 0, QUICK, &mut bytes)
            .map_err(|errno| about(id, "GET_PARAMS", errno))?;
        Ok(Params::parse(&bytes))
    }

    /// The processors whose requests the kernel sends to a queue of the device.
    pub(crate) fn affinity(&mut self, id: u32, queue: u16) -> Result<CpuSet, Error> {
        let mut map = [0; AFFINITY_BYTES];
        self.run(ControlOp::Affinity, id, queue.into(), QUICK, &mut map)
            .map_err(|errno| about(id, "GET_QUEUE_AFFINITY", errno))?;
        Ok(affinity::parse(&map))
    }

    /// What the device is.
    pub fn info(&mut self, id: u32) -> Result<DeviceInfo, Error> {
        let mut bytes = [0; DeviceInfo::BYTES];
        let call = ControlCall {
            op: ControlOp::DeviceInfo,
            device: id,
            data: 0,
            by_path: false,
            timeout: QUICK,
        };
        let told = match self.port.run(call, &mut bytes) {
            // Of a user without privilege: its path is asked for.
            Err(Errno::INVAL) => self.port.run(ControlCall { by_path: true, ..call }, &mut bytes),
            told => told,
        };
        told.map_err(|errno| about(id, "GET_DEV_INFO", errno))?;
        Ok(self.look_at(DeviceInfo::parse(&bytes)))
    }

    fn look_at(&mut self, info: DeviceInfo) -> DeviceInfo {
        self.looked_at = Some((info.id, info.features.contains(Features::UNPRIVILEGED_DEV)));
        info
    }

    /// Must the device's path come with its commands?
    fn needs_path(&mut self, id: u32) -> bool {
        match self.looked_at {
            Some((of, is_unprivileged)) if of == id => is_unprivileged,
            // What is wrong with it, the command itself will say.
            _ => self
                .info(id)
                .is_ok_and(|info| info.features.contains(Features::UNPRIVILEGED_DEV)),
        }
    }

    /// Makes the block device appear. Its queues must be served already: the kernel waits for that, and then reads the
    /// partition table.
    pub(crate) fn start(&mut self, id: u32) -> Result<(), Error> {
        let pid = u64::from(std::process::id());
        self.run(ControlOp::Start, id, pid, START, &mut [])
            .map_err(|errno| about(id, "START_DEV", errno))
    }

    /// Makes the block device go away: what is in flight ends first, then every fetch is aborted. Its queues must be served
    /// until this returns. A device that is stopped already stays so.
    pub fn stop(&mut self, id: u32) -> Result<(), Error> {
        self.run(ControlOp::Stop, id, 0, STOP, &mut [])
            .map_err(|errno| about(id, "STOP_DEV", errno))
    }

    /// The same, but not while anybody has the block device open.
    ///
    /// # Errors
    /// `Busy`; `Unsupported` before Linux 7.0.
    pub fn stop_unless_open(&mut self, id: u32) -> Result<(), Error> {
        // An older driver has several ways to say so.
        if !self.features()?.contains(Features::SAFE_STOP_DEV) {
            return Err(too_old(Features::SAFE_STOP_DEV, "stop a device only if nobody uses it"));
        }
        self.run(ControlOp::TryStop, id, 0, STOP, &mut [])
            .map_err(|errno| match errno {
                Errno::BUSY => Error::new(ErrorKind::Busy, format!("somebody has ublk device {id} open")),
                errno => about(id, "TRY_STOP_DEV", errno),
            })
    }

    /// Makes the block device as large as the one behind it has become. Whoever has it open goes on.
    ///
    /// # Errors
    /// `Unsupported` before Linux 6.16; `Config` for a size that would cut it.
    pub fn resize(&mut self, id: u32, size: SectorCount) -> Result<(), Error> {
        if !self.features()?.contains(Features::UPDATE_SIZE) {
            return Err(too_old(Features::UPDATE_SIZE, "resize a device that is in use"));
        }
        let now = self.params(id)?.size;
        if size < now {
            let what = format!(
                "ublk device {id} has {} sectors, and would lose some with {}: it can only grow",
                now.0, size.0
            );
            return Err(Error::new(ErrorKind::Config, what));
        }
        self.run(ControlOp::UpdateSize, id, size.0, QUICK, &mut [])
            .map_err(|errno| about(id, "UPDATE_SIZE", errno))
    }

    /// Has what the page cache holds of the block device written back, which must be served; tells when it is. What is left
    /// there when a device is stopped that can be recovered fails.
    pub(crate) fn write_back(&self, id: u32) -> Receiver<Result<(), Errno>> {
        self.port.write_back(id)
    }

    /// Deletes a device, and waits until whoever has it open has let go of it.
    pub fn delete(&mut self, id: u32) -> Result<(), Error> {
        let deleted = self.run(ControlOp::Delete, id, 0, DELETE, &mut []);
        deleted.map_err(|errno| match errno {
            Errno::TIMEDOUT => Error::new(
                ErrorKind::Busy,
                format!(
                    "ublk device {} is deleted, but somebody still has {} or its block device open; it goes away with the last of them",
                    id,
                    char_path(id).display()
                ),
            ),
            errno => about(id, "DEL_DEV", errno),
        })
    }

    fn run(
        &mut self,
        op: ControlOp,
        device: u32,
        data: u64,
        timeout: Duration,
        structure: &mut [u8],
    ) -> Result<(), Errno> {
        let by_path = !matches!(op, ControlOp::Features | ControlOp::Add) && self.needs_path(device);
        let call = ControlCall {
            op,
            device,
            data,
            by_path,
            timeout,
        };
        self.port.run(call, structure)
    }
}

/// Why a device could not be made.
fn not_added(id: u32, errno: Errno) -> Error {
    let (kind, text) = match errno {
        Errno::EXIST => (
            ErrorKind::Taken,
            format!("there is a ublk device {id} already; choose another number, or none to get any that is free"),
        ),
        // Old kernels count all devices, new ones those without privilege, against a parameter of the module.
        Errno::ACCESS | Errno::NOSPC => (
            ErrorKind::Full,
            "the ublk driver takes no more devices; delete some, or raise its limit \
             (/sys/module/ublk_drv/parameters/ublks_max)"
                .to_owned(),
        ),
        Errno::PERM => (
            ErrorKind::Denied,
            "this user may not add ublk devices; be root, have CAP_SYS_ADMIN, or make one without privilege (--unprivileged)"
                .to_owned(),
        ),
        Errno::INVAL => (
            ErrorKind::Config,
            "the ublk driver does not take such a device; a smaller depth or buffer may help".to_owned(),
        ),
        errno => return failed("ADD_DEV", errno),
    };
    Error::new(kind, text).caused_by(errno)
}

/// This driver is older than what it is asked for.
fn too_old(feature: Features, what: &str) -> Error {
    let since = feature.since().expect("it has a name");
    Error::new(
        ErrorKind::Unsupported,
        format!("this ublk driver cannot {what}: that takes {since}"),
    )
}

/// A command about a device that should be there.
fn about(id: u32, command: &str, errno: Errno) -> Error {
    match errno {
        Errno::NODEV | Errno::NOENT => Error::new(ErrorKind::NotFound, format!("there is no ublk device {id}")),
        errno => failed(command, errno),
    }
}

fn failed(command: &str, errno: Errno) -> Error {
    let (kind, text) = match errno {
        Errno::TIMEDOUT => (
            ErrorKind::TimedOut,
            format!("{command} does not end; the kernel's log may say why"),
        ),
        Errno::ACCESS | Errno::PERM => (ErrorKind::Denied, format!("this user may not do that ({command})")),
        Errno::BUSY => (ErrorKind::Busy, format!("{command}: the device is in use")),
        _ => (ErrorKind::Os, format!("{CONTROL_PATH} refuses {command}")),
    };
    Error::new(kind, text).caused_by(errno)
}
