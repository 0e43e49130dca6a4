//! A block device that changes servers: recovered from one that has died, handed over by one that leaves.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use blkdev_ublk::{DeviceInfo, Server as Frontend, ServerConfig};
use iomgr_core::manager::Registry;
use iomgr_core::policy::{Governor, ManagerConfig};

use super::{End, SharedRecord, UblkOptions, UblkServer, UblkTarget, config, failed, lock};
use crate::error::{Error, ErrorKind};
use crate::server::board::end_policy;
use crate::server::doors::ControlDoor;
use crate::ublk::record::{Record, RecordFile};
use crate::ublk::server::{ask, ublk_server};
use crate::ublk::target::TargetRecord;
use crate::ublk::ublk_name;

/// A server that is well answers at once.
const ANSWER_MAX: Duration = Duration::from_secs(2);

impl UblkServer {
    /// Takes over a block device whose server has died or left; returns when it can be used again. Whoever has it open goes on.
    ///
    /// The image is locked before the driver hears of a new server: that is granted when the old one's last write has landed.
    /// The manager is the one that the old server had, as it begins: its buckets are full, its histories empty.
    ///
    /// # Errors
    /// The device is not there, or is served, or was not made to outlive its server; nothing is known of its image, or
    /// another one is there now; its server, or who holds the image, does not end within `patience`. The device stays as it is.
    pub fn recover(id: u32, patience: Duration) -> Result<Self, Error> {
        let deadline = Instant::now() + patience;
        let info = blkdev_ublk::Control::open().and_then(|mut control| control.info(id));
        let info = info.map_err(failed)?;
        let record = RecordFile::take(id, deadline, server_of)?;
        let known = record.record().clone();
        if info.mark != known.mark {
            let what = "was deleted, and another has its number: it is not recovered by what is known of the old one";
            return Err(Error::new(ErrorKind::Server, format!("ublk device {id} {what}")));
        }
        let options = options(&known, &info)?;
        let target = known.target.open(left(deadline))?;
        let record = keep_true(record, &target);
        let door = ControlDoor::make(options.control.as_deref(), &ublk_name(id), deadline)?;
        let (governor, end) = (governor(known.manager.as_ref()), End::new());
        let config = ServerConfig {
            mark: known.mark,
            ..config(&target, &governor, &options, &end)?
        };
        let server = Self::over((id, target), (governor, end), door, Some(record), &options)?;
        let frontend = Frontend::recover(id, config, left(deadline)).map_err(failed)?;
        *lock(&server.frontend) = Some(frontend);
        server.own_record(true);
        Ok(server)
    }

    /// Takes over a block device from a server that is well: that ends what it has begun, flushes and closes the image, and ends;
    /// requests wait meanwhile, and none fails.
    ///
    /// # Errors
    /// Nobody serves it who could hand it over: nothing has happened. As [`recover`](Self::recover), after the old server has
    /// ended: the device waits for the next.
    pub fn upgrade(id: u32, patience: Duration) -> Result<Self, Error> {
        let deadline = Instant::now() + patience;
        let asked = ublk_server(id, patience).and_then(|(mut server, _)| server.hand_over());
        asked.map_err(|error| match error.kind() {
            // It does not answer, perhaps in time.
            ErrorKind::Control => error.hint(format!("when the old server has ended, `iomgr recover {id}` goes on")),
            _ => error,
        })?;
        let hint = |error: Error| error.hint(format!("the old server has ended; `iomgr recover {id}` tries again"));
        Self::recover(id, left(deadline)).map_err(hint)
    }

    /// Leaves the device to the next server: what was begun ends, the image is flushed and closed.
    pub(super) fn leave(&mut self, mut frontend: Frontend) -> Result<(), Error> {
        self.own_record(false);
        // What waits for a policy was begun. The next server has it again, by the record.
        end_policy(self.governor.registry());
        let left = frontend.hand_over().map_err(failed);
        left.and(self.target.close())
    }

    /// Does what the next server needs to know go away with this one?
    pub(super) fn own_record(&self, is_ours: bool) {
        if let Some(record) = &self.record {
            lock_record(record).own(is_ours);
        }
    }
}

/// Has the record follow the images behind the disk: with an old one the next server would lose what was written since.
pub(super) fn keep_true(file: RecordFile, target: &UblkTarget) -> SharedRecord {
    let file = Arc::new(Mutex::new(file));
    if let UblkTarget::Disk(disk) = target {
        let kept = Arc::clone(&file);
        disk.tell_of_images(move |image| {
            let target = TargetRecord::of_image(image.info(), image.retry)?;
            lock_record(&kept).change(|record| record.target = target)
        });
    }
    file
}

/// Has the record follow the manager. It is current already: if that cannot be written down, the next server has the one before.
pub(super) fn keep_manager(file: &SharedRecord, governor: &Governor) {
    let mut file = lock_record(file);
    // One that is none of ours cannot be made again.
    let manager = governor.config().filter(|config| *config != ManagerConfig::default());
    if let Err(error) = file.change(|record| record.manager = manager) {
        tracing::error!(%error, "manager_not_kept: the next server of the device will have the manager that was before");
    }
}

/// The manager that there was. A device without it is better than none.
fn governor(manager: Option<&ManagerConfig>) -> Governor {
    let governor = Governor::new(Registry::new());
    if let Some(manager) = manager
        && let Err(error) = governor.set(manager)
    {
        tracing::error!(%error, "manager_lost: the old server had one, and this one goes on without");
    }
    governor
}

fn lock_record(file: &SharedRecord) -> MutexGuard<'_, RecordFile> {
    file.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How it was served, as far as the driver does not know it better.
fn options(known: &Record, info: &DeviceInfo) -> Result<UblkOptions, Error> {
    let filter = |text: &String| {
        text.parse().map_err(|error| {
            let what = format!("{text:?}, which the device was added with, is no filter");
            Error::new(ErrorKind::Server, what).because(error)
        })
    };
    Ok(UblkOptions {
        id: Some(info.id),
        queues: info.queues,
        depth: info.depth,
        buffer_bytes: info.buffer_bytes,
        zero_copy: info.is_zero_copy(),
        control: Some(PathBuf::clone(&known.control)),
        filters: known.filters.iter().map(filter).collect::<Result<_, _>>()?,
        ..UblkOptions::default()
    })
}

/// The process that serves a device and is well.
pub(crate) fn server_of(known: &Record) -> Option<u32> {
    let (_server, status) = ask(&known.control, known.id, ANSWER_MAX).ok()?;
    Some(status.pid)
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::disk::{Disk, DiskOptions};
    use crate::null::NullDevice;
    use crate::pause::{PauseOptions, ResumeOptions};

    /// What the next server opens is what was written to last, also if this one dies a moment after it went over to it.
    #[test]
    fn the_record_follows_the_image() {
        let dir = tempfile::tempdir().unwrap();
        let [old, new, state] = ["old.img", "new.img", "state"].map(|name| dir.path().join(name));
        for image in [&old, &new] {
            fs::write(image, [0; 4096]).unwrap();
        }
        let disk = Disk::open(&old, &DiskOptions::default()).unwrap();
        let target = UblkTarget::Disk(disk.clone());
        let record = Record::new(0, 1, &state, &[], TargetRecord::of(&target).unwrap()).unwrap();
        let file = keep_true(RecordFile::write_at(state.clone(), record).unwrap(), &target);
        let names = |image: &str| fs::read_to_string(&state).unwrap().contains(image);
        assert!(names("old.img") && !names("new.img"));
        let refused = disk.replace(&new, &DiskOptions::default(), Duration::ZERO).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::State, "no time to write it down");
        disk.pause(PauseOptions::default()).unwrap();
        let other = ResumeOptions {
            image: Some(new),
            format: None,
        };
        disk.resume(&other).unwrap();
        assert!(names("new.img") && !names("old.img"));
        file.lock().unwrap().own(true);
        drop((disk, target, file));
        assert!(!state.exists());
    }

    #[test]
    fn the_record_follows_the_manager() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let null = UblkTarget::Null(Arc::new(NullDevice::new("null", 4096)));
        let record = Record::new(0, 1, &state, &[], TargetRecord::of(&null).unwrap()).unwrap();
        let file = Arc::new(Mutex::new(RecordFile::write_at(state.clone(), record).unwrap()));
        let managed = Governor::new(Registry::new());
        let wish: ManagerConfig =
            serde_json::from_str(r#"{"policy":{"name":"turn","share":3},"limit":{"max":4}}"#).unwrap();
        managed.set(&wish).unwrap();
        keep_manager(&file, &managed);
        let known = lock_record(&file).record().manager.clone();
        assert_eq!(governor(known.as_ref()).config(), managed.config());
        assert!(fs::read_to_string(&state).unwrap().contains("turn"));
        managed.unset(None).unwrap();
        keep_manager(&file, &managed);
        assert!(!fs::read_to_string(&state).unwrap().contains("manager"));
        assert_eq!(governor(lock_record(&file).record().manager.as_ref()).name(), "none");
    }

    #[test]
    fn an_image_that_cannot_be_written_down_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("run");
        fs::create_dir(&folder).unwrap();
        let image = dir.path().join("a.img");
        fs::write(&image, [0; 4096]).unwrap();
        let disk = Disk::open(&image, &DiskOptions::default()).unwrap();
        let target = UblkTarget::Disk(disk.clone());
        let record = Record::new(0, 1, &image, &[], TargetRecord::of(&target).unwrap()).unwrap();
        let _file = keep_true(RecordFile::write_at(folder.join("state"), record).unwrap(), &target);
        disk.pause(PauseOptions::default()).unwrap();
        fs::remove_dir_all(&folder).unwrap();
        disk.resume(&ResumeOptions::default()).unwrap_err();
        assert!(disk.info().paused.is_some(), "it is as it was");
    }
}
