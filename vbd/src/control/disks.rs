//! `pause`, `resume`, `attach` and `detach`: from the words of the protocol to the calls of the disk and the server.

use std::path::Path;
use std::time::Duration;

use super::Service;
use super::request::{AttachRequest, DetachRequest, PauseRequest, ResumeRequest};
use crate::disk::{Disk, DiskOptions};
use crate::error::{Error, ErrorKind};
use crate::pause::{Lease, PauseOptions, ResumeOptions};
use crate::retry::{RetryOn, RetryPolicy};
use crate::server::{DiskEntry, DiskExport, Served, UblkTarget};

/// How long clients of a disk that is detached have to take their replies.
const DETACH_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an image's lock is waited for at most: so long may the server's end wait for an attach.
const LOCK_TIMEOUT_MAX: Duration = Duration::from_secs(60);

pub(super) fn pause(service: &dyn Service, wish: &PauseRequest) -> Result<Option<Lease>, Error> {
    let disk = image_disk(service, &wish.disk)?;
    let options = PauseOptions {
        drain: wish.timeout_s.map_or(PauseOptions::default().drain, Into::into),
        resume_after: wish.resume_after_s.map(Into::into),
    };
    match wish.lease {
        true => disk.pause_leased(options).map(Some),
        false => disk.pause(options).map(|()| None),
    }
}

pub(super) fn resume(service: &dyn Service, wish: &ResumeRequest, lease: Option<&Lease>) -> Result<(), Error> {
    wish.image.as_deref().map_or(Ok(()), |path| check_path("image", path))?;
    let disk = image_disk(service, &wish.disk)?;
    if let Some(image) = &wish.image {
        refuse_twin(service, image, Some(&wish.disk))?;
    }
    let options = ResumeOptions {
        image: wish.image.clone(),
        format: wish.format,
    };
    lease.map_or_else(|| disk.resume(&options), |lease| lease.resume(&options))
}

pub(super) fn attach(service: &dyn Service, wish: AttachRequest) -> Result<DiskEntry, Error> {
    service.check_attach()?;
    check_path("image", &wish.image)?;
    let options = disk_options(&wish)?;
    refuse_twin(service, &wish.image, None)?;
    let disk = Disk::open(&wish.image, &options)?;
    let name = disk.info().name;
    if service.disks().iter().any(|other| other.name() == name) {
        let what = format!("would be called {name:?}, as another disk here is");
        return Err(Error::new(ErrorKind::Exists, what)
            .at(&wish.image)
            .hint("say another name"));
    }
    service.attach(DiskExport {
        disk,
        description: wish.description,
    })?;
    Ok(service.find(&name)?.entry())
}

/// An image that this process has locked, but for the disk that it is for, cannot be locked once more, which nobody else is
/// to blame for.
fn refuse_twin(service: &dyn Service, image: &Path, but: Option<&str>) -> Result<(), Error> {
    let is_writer = |served: &Served| matches!(&served.target, UblkTarget::Disk(disk) if disk.is_writer_of(image));
    let is_twin = |served: &Served| but != Some(served.name().as_str()) && is_writer(served);
    let Some(twin) = service.disks().into_iter().find(is_twin) else {
        return Ok(());
    };
    let what = format!("is the image of disk {:?} of this server already", twin.name());
    Err(Error::new(ErrorKind::Locked, what).at(image))
}

pub(super) fn detach(service: &dyn Service, which: &DetachRequest) -> Result<(), Error> {
    service.find(&which.disk)?;
    service.detach(&which.disk, which.timeout_s.map_or(DETACH_TIMEOUT, Into::into))
}

/// The disk of that name, which has an image.
fn image_disk(service: &dyn Service, name: &str) -> Result<Disk, Error> {
    match service.find(name)?.target {
        UblkTarget::Disk(disk) => Ok(disk),
        UblkTarget::Null(_) => {
            let what = format!("disk {name:?} has no image that could be taken away");
            Err(Error::new(ErrorKind::Unsupported, what))
        }
    }
}

/// This process has a folder of its own, which is not the client's.
fn check_path(field: &str, path: &Path) -> Result<(), Error> {
    if path.is_absolute() {
        return Ok(());
    }
    let error = Error::new(
        ErrorKind::InvalidOption,
        "must be an absolute path: the server runs in another folder",
    );
    Err(error.at(path).field(field))
}

fn disk_options(wish: &AttachRequest) -> Result<DiskOptions, Error> {
    let defaults = DiskOptions::default();
    let lock_timeout = wish.lock_timeout_s.map_or(defaults.lock_timeout, Into::into);
    if lock_timeout > LOCK_TIMEOUT_MAX {
        let what = format!("is {LOCK_TIMEOUT_MAX:?} at most, not {lock_timeout:?}; try again then");
        return Err(Error::new(ErrorKind::InvalidOption, what).field("lock_timeout_s"));
    }
    let retry = RetryPolicy {
        also: wish
            .retry_on
            .iter()
            .map(|name| retry_on(name))
            .collect::<Result<_, _>>()?,
        timeout: wish.retry_timeout_s.map_or(defaults.retry.timeout, Into::into),
    };
    Ok(DiskOptions {
        name: wish.name.clone(),
        format: wish.format,
        read_only: wish.read_only,
        repair: wish.repair,
        cache: wish.cache,
        lock_timeout,
        retry,
    })
}

fn retry_on(name: &str) -> Result<RetryOn, Error> {
    RetryOn::from_name(name).ok_or_else(|| {
        let names: Vec<_> = RetryOn::all().iter_names().map(|(name, _)| name).collect();
        let what = format!("{name:?} is no error that may pass; those are {}", names.join(", "));
        Error::new(ErrorKind::InvalidOption, what).field("retry_on")
    })
}
