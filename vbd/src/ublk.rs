//! ublk devices, whoever serves them: what there is, what the driver can do, and an end.

pub(crate) mod record;
pub(crate) mod server;
pub(crate) mod target;
mod users;
mod waiting;

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::Duration;

use blkdev_ublk::{Attributes, Control, DeviceInfo, ErrorKind as Ublk, Params, block_path};
use iomgr_core::{Errno, SECTOR_BYTES, SectorCount};
use rustix::thread::{CapabilitySet, capabilities};
use serde::Serialize;

use crate::error::{Error, ErrorKind};
use crate::runtime::runtime_dir;
use crate::server::{UblkOptions, failed};
use crate::socket::remove_dead;
use record::RecordFile;
pub use server::ublk_server;
pub(crate) use waiting::check_not_waiting;

/// A feature of the driver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UblkFeature {
    /// Its name, as in the kernel's header without `UBLK_F_`.
    pub name: String,
    /// The kernel that brought it.
    pub since: Option<String>,
    /// Does this one have it?
    pub is_there: bool,
}

/// A device, as the driver tells of it.
#[derive(Clone, Debug, Serialize)]
pub struct UblkDevice {
    /// Its number.
    pub id: u32,
    /// The block device, if it is live.
    pub path: PathBuf,
    /// `live`, `dead`, `quiesced`.
    pub state: String,
    /// Who serves it.
    pub server_pid: Option<u32>,
    /// Hardware queues.
    pub queues: u16,
    /// Requests in flight at most, in each.
    pub depth: u16,
    /// Bytes of the largest request.
    pub buffer_bytes: u32,
    /// Bytes.
    pub size_bytes: u64,
    /// Are writes refused?
    pub read_only: bool,
    /// `UBLK_F_*`.
    pub features: Vec<String>,
    /// The user and the group that it belongs to, if it was made without privilege.
    pub owner: Option<(u32, u32)>,
}

/// What the driver can do, in the order of its flags.
pub fn ublk_features() -> Result<Vec<UblkFeature>, Error> {
    let there = Control::open()
        .and_then(|mut control| control.features())
        .map_err(failed)?;
    let feature = |(name, feature): (&str, blkdev_ublk::Features)| UblkFeature {
        name: name.to_owned(),
        since: feature.since().map(|kernel| kernel.to_string()),
        is_there: there.contains(feature),
    };
    Ok(blkdev_ublk::Features::all_named().map(feature).collect())
}

/// Can this process add a ublk device that is served so?
///
/// # Errors
/// Why not: there is no driver, it is not for this process, it is too old, the kernel is known to break, or the options do not
/// suit it.
pub fn check_ublk(options: &UblkOptions) -> Result<(), Error> {
    options.check()?;
    blkdev_ublk::check_kernel()
        .and_then(|()| Control::open())
        .and_then(|mut control| control.features())
        .map_err(failed)?;
    check_privilege(options)
}

/// The driver would say so only when it is asked for a device.
fn check_privilege(options: &UblkOptions) -> Result<(), Error> {
    let ours = capabilities(None).map_err(|errno| {
        Error::new(ErrorKind::Server, "this process's capabilities cannot be read").because(std::io::Error::from(errno))
    })?;
    if options.unprivileged || ours.effective.contains(CapabilitySet::SYS_ADMIN) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Server, "this user may not add ublk devices").hint("be root, or have CAP_SYS_ADMIN"))
}

/// All ublk devices, by number.
pub fn ublk_devices() -> Result<Vec<UblkDevice>, Error> {
    let mut control = Control::open().map_err(failed)?;
    let ids = device_ids()?;
    // One that goes away meanwhile is none.
    let found = ids
        .into_iter()
        .filter_map(|id| Some((control.info(id).ok()?, control.params(id).ok())));
    Ok(found.map(|(info, params)| device(info, params)).collect())
}

/// Stops a device and deletes it, whoever serves it; returns when it is gone.
///
/// # Errors
/// It is not there; it does not go away because somebody has it open.
pub fn delete_ublk_device(id: u32) -> Result<(), Error> {
    let mut control = Control::open().map_err(failed)?;
    control.info(id).map_err(failed)?;
    control.stop(id).and_then(|()| control.delete(id)).map_err(failed)?;
    clean_up(id);
    Ok(())
}

/// The same, but not while anybody has it open, where the kernel can tell (since Linux 7.0); ask
/// [`check_ublk_unused`] before, which is of use where it cannot.
///
/// # Errors
/// `Locked`, if somebody has.
pub fn delete_idle_ublk_device(id: u32) -> Result<(), Error> {
    let mut control = Control::open().map_err(failed)?;
    control.info(id).map_err(failed)?;
    match control.stop_unless_open(id) {
        Err(error) if error.kind() == Ublk::Busy => Err(in_use(id)),
        Err(error) if !means_unused(error.kind()) => Err(failed(error)),
        _ => delete_ublk_device(id),
    }
}

/// Has the kernel nothing against the end of a device that it was to stop only if nobody has it open? It cannot tell, or there
/// is nothing to open.
fn means_unused(refusal: Ublk) -> bool {
    matches!(refusal, Ublk::Unsupported | Ublk::NotFound)
}

/// The user and the group that a device belongs to, if it was made without privilege.
pub fn ublk_owner(id: u32) -> Result<Option<(u32, u32)>, Error> {
    let info = Control::open().and_then(|mut control| control.info(id));
    Ok(owner(&info.map_err(failed)?))
}

fn owner(info: &DeviceInfo) -> Option<(u32, u32)> {
    let is_unprivileged = info.features.contains(blkdev_ublk::Features::UNPRIVILEGED_DEV);
    is_unprivileged.then_some(info.owner)
}

/// Is a device there which waits for its next server, now that its last one is dead?
pub fn ublk_waits_for_server(id: u32) -> Result<bool, Error> {
    use blkdev_ublk::{DeviceState, Features};
    match Control::open().and_then(|mut control| control.info(id)) {
        Ok(info) => Ok(info.features.contains(Features::USER_RECOVERY) && info.state != DeviceState::Dead),
        Err(error) if error.kind() == Ublk::NotFound => Ok(false),
        Err(error) => Err(failed(error)),
    }
}

/// Is a device there whose page cache is lost if it is stopped by the driver alone? It is live, and outlives its server.
pub fn ublk_loses_cache(id: u32) -> Result<bool, Error> {
    use blkdev_ublk::{DeviceState, Features};
    let info = Control::open()
        .and_then(|mut control| control.info(id))
        .map_err(failed)?;
    Ok(info.features.contains(Features::USER_RECOVERY) && info.state == DeviceState::Live)
}

/// Why a device is not stopped.
pub(crate) fn in_use(id: u32) -> Error {
    Error::new(ErrorKind::Locked, "is open: somebody uses it, who would get errors")
        .at(&block_path(id))
        .hint("let go of it first, or say --force")
}

/// Makes a device as large as its image has become; the size before and after, in bytes. Whoever has it open goes on.
///
/// # Errors
/// Its server does not say how large the image is, or is none of ours; the driver cannot do that.
pub fn grow_ublk_device(id: u32, timeout: Duration) -> Result<(u64, u64), Error> {
    let mut control = Control::open().map_err(failed)?;
    let before = control.params(id).map_err(failed)?.size.0 * SECTOR_BYTES;
    // The server looks at its image, and from then on lets requests through up to its end.
    let (_server, status) = ublk_server(id, timeout)?;
    let disk = status.devices.first();
    let disk =
        disk.ok_or_else(|| Error::new(ErrorKind::Control, format!("its server names no disk of device {id}")))?;
    let after = disk.info.size_bytes;
    if after != before {
        control
            .resize(id, SectorCount::from_bytes_floor(after))
            .map_err(failed)?;
    }
    Ok((before, after))
}

/// What a server of ours that died has left in the runtime folder. That of one that lives ends with it.
fn clean_up(id: u32) {
    RecordFile::remove_dead(id);
    let socket = ublk_control(id);
    if socket.exists() && remove_dead(&socket).unwrap_or(false) {
        // It may have had none.
        let _none = std::fs::remove_file(ublk_log(id));
    }
}

/// What the server of a device is called: its control socket, and its log.
pub(crate) fn ublk_name(id: u32) -> String {
    format!("ublkb{id}")
}

/// Where the server of a device logs, if it has no terminal.
pub fn ublk_log(id: u32) -> PathBuf {
    runtime_dir().join(format!("{}.log", ublk_name(id)))
}

/// Where the server of a device is reached, if it was not told otherwise.
pub(crate) fn ublk_control(id: u32) -> PathBuf {
    runtime_dir().join(format!("{}.ctl", ublk_name(id)))
}

/// Is it mounted, part of another device, or open? The last is known of those whom this process may see.
///
/// # Errors
/// `Locked`, if it is.
pub fn check_ublk_unused(id: u32) -> Result<(), Error> {
    let path = block_path(id);
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(rustix::fs::OFlags::EXCL.bits().cast_signed())
        .open(&path);
    match opened {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::BUSY) => {
            let what = "is in use: mounted, or a part of another device; unmount it first, or say --force";
            Err(Error::new(ErrorKind::Locked, what).at(&path))
        }
        // One that is stopped has no block device, and what else is wrong with it the driver tells.
        Err(_) => Ok(()),
        Ok(block_device) => {
            drop(block_device);
            check_not_open(id)
        }
    }
}

fn check_not_open(id: u32) -> Result<(), Error> {
    let users = users::users_of(id);
    if users.is_empty() {
        return Ok(());
    }
    let what = format!("is open: {} would get errors", users.join(", "));
    Err(Error::new(ErrorKind::Locked, what)
        .at(&block_path(id))
        .hint("let go of it first, or say --force"))
}

fn device_ids() -> Result<Vec<u32>, Error> {
    blkdev_ublk::device_ids()
        .map_err(|error| Error::new(ErrorKind::Server, "the devices cannot be listed").because(error))
}

fn device(info: DeviceInfo, params: Option<Params>) -> UblkDevice {
    let has = |attribute| {
        params
            .as_ref()
            .is_some_and(|params: &Params| params.attributes.contains(attribute))
    };
    UblkDevice {
        id: info.id,
        path: block_path(info.id),
        state: info.state.to_string(),
        server_pid: u32::try_from(info.server_pid).ok().filter(|&pid| pid > 0),
        queues: info.queues,
        depth: info.depth,
        buffer_bytes: info.buffer_bytes,
        size_bytes: params.as_ref().map_or(0, |params| params.size.0 * SECTOR_BYTES),
        read_only: has(Attributes::READ_ONLY),
        owner: owner(&info),
        features: info.features.iter_names().map(|(name, _)| name.to_owned()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Above all where the kernel does not answer in time, somebody may use the device.
    #[test]
    fn only_a_kernel_that_cannot_tell_leaves_it_to_us() {
        for refusal in [Ublk::Unsupported, Ublk::NotFound] {
            assert!(means_unused(refusal), "{refusal:?}");
        }
        for refusal in [Ublk::Busy, Ublk::TimedOut, Ublk::Denied, Ublk::Os, Ublk::Queue] {
            assert!(!means_unused(refusal), "{refusal:?}");
        }
    }
}
