//! A disk as a `/dev/ublkbN`: the ublk frontend, the manager registry, the control socket, and an orderly end.

mod fate;
mod recovery;
mod refused;
mod target;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use blkdev_ublk::{Recovery, Server as Frontend, ServerConfig, block_path};
use iomgr_core::manager::Registry;
use iomgr_core::policy::Governor;
use serde::{Deserialize, Serialize};
use tqueue::filter::FilterConfig;

use self::fate::{Decision, Fate};
pub(crate) use self::recovery::server_of;
pub(crate) use self::refused::failed;
use self::refused::{check_hand_over, not_added};
pub use self::target::UblkTarget;
use super::DiskExport;
use super::board::end_policy;
use super::doors::ControlDoor;
use super::end::{End, Stopper};
use super::served::Served;
use super::status::{NbdStatus, Status};
use crate::control::{Control, ManagerStatus, Service};
use crate::error::{Error, ErrorKind};
use crate::patience::PATIENCE;
use crate::ublk::record::{Record, RecordFile};
use crate::ublk::target::TargetRecord;
use crate::ublk::{check_not_waiting, in_use, ublk_name};

/// How to serve it.
#[derive(Clone, Debug)]
pub struct UblkOptions {
    /// The number of the device; any that is free if not given.
    pub id: Option<u32>,
    /// Hardware queues, from 1 to 64, each with a thread of its own; the kernel makes no more than it has processors.
    pub queues: u16,
    /// Requests in flight in each of them, from 1 to 4096.
    pub depth: u16,
    /// Bytes of the largest request, a power of two from 4096.
    pub buffer_bytes: u32,
    /// Let the kernel hand over the pages of requests, rather than copy them (Linux 6.16). Filters that look at bytes do not go
    /// with it, nor does a device without storage.
    pub zero_copy: bool,
    /// The control socket; `ublkbN.ctl` in the runtime folder if not given.
    pub control: Option<PathBuf>,
    /// What sees every op on its way to the image and back.
    pub filters: Vec<FilterConfig>,
    /// The device belongs to this user, who needs no privilege for it; it does not outlive its server.
    pub unprivileged: bool,
    /// What becomes of the device when its server dies.
    pub recovery: Recovery,
}

impl Default for UblkOptions {
    fn default() -> Self {
        Self {
            id: None,
            queues: ServerConfig::QUEUES,
            depth: ServerConfig::DEPTH,
            buffer_bytes: ServerConfig::BUFFER_BYTES,
            zero_copy: false,
            control: None,
            filters: Vec::new(),
            unprivileged: false,
            recovery: Recovery::default(),
        }
    }
}

/// How the ublk frontend is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UblkStatus {
    /// The number of the device.
    pub id: u32,
    /// Where it is.
    pub path: PathBuf,
    /// Hardware queues.
    pub queues: u16,
    /// Requests in flight at most, in each.
    pub depth: u16,
    /// Bytes of the largest request.
    pub buffer_bytes: u32,
    /// Are the pages of requests handed over, rather than copied?
    #[serde(default)]
    pub zero_copy: bool,
    /// Requests that were received and have not ended.
    pub in_flight: u32,
    /// Requests that have ended so far.
    pub requests_total: u64,
    /// Calls of `io_uring_enter` so far.
    pub enters_total: u64,
    /// Entries submitted by them.
    pub sqes_total: u64,
    /// Operations on the image that went there as part of another one.
    #[serde(default)]
    pub merges_total: u64,
}

/// A running server of one block device. [`wait`](Self::wait) for its end, then [`stop`](Self::stop) it; a dropped
/// one stops, too, but tells nobody how that went.
#[derive(Debug)]
pub struct UblkServer {
    frontend: Shared,
    target: UblkTarget,
    id: u32,
    path: PathBuf,
    governor: Governor,
    control: Control,
    /// For the next server, if there is to be one.
    record: Option<SharedRecord>,
    /// What becomes of the device at its end.
    fate: Decision,
    end: End,
}

type Shared = Arc<Mutex<Option<Frontend>>>;
type SharedRecord = Arc<Mutex<RecordFile>>;

impl UblkOptions {
    /// What can be told to be wrong before anything is opened; [`UblkServer::start`] asks it, too.
    pub fn check(&self) -> Result<(), Error> {
        blkdev_ublk::check_sizes(self.queues, self.depth, self.buffer_bytes).map_err(failed)
    }
}

impl UblkServer {
    /// Adds a block device, and serves it; returns when it can be used.
    pub fn start(target: UblkTarget, options: &UblkOptions) -> Result<Self, Error> {
        options.check()?;
        check_not_waiting(&target.info())?;
        let (governor, end) = (Governor::new(Registry::new()), End::new());
        let config = config(&target, &governor, options, &end)?;
        let mark = config.mark;
        let mut frontend = Frontend::add(config).map_err(|error| not_added(error, options))?;
        let id = frontend.id();
        let door = ControlDoor::make(options.control.as_deref(), &ublk_name(id), Instant::now() + PATIENCE)?;
        let record = match options.recovery {
            Recovery::Off => None,
            _ => {
                let record = Record::new(id, mark, &door.path, &options.filters, TargetRecord::of(&target)?)?;
                Some(recovery::keep_true(RecordFile::write(record)?, &target))
            }
        };
        let server = Self::over((id, target), (governor, end), door, record, options)?;
        let shown = frontend.show().map_err(failed);
        // One that cannot be seen ends as others do: where it cannot be taken down, the next server will want the record.
        *lock(&server.frontend) = Some(frontend);
        shown.map(|()| server)
    }

    /// All but the frontend.
    fn over(
        (id, target): (u32, UblkTarget),
        (governor, end): (Governor, End),
        door: ControlDoor,
        record: Option<SharedRecord>,
        options: &UblkOptions,
    ) -> Result<Self, Error> {
        let (frontend, fate) = (Shared::default(), Decision::default());
        let source = Source {
            frontend: Arc::clone(&frontend),
            target: target.clone(),
            governor: governor.clone(),
            id,
            path: block_path(id),
            filters: options.filters.iter().map(ToString::to_string).collect(),
            started: Instant::now(),
            stopper: end.stopper(),
            fate: fate.clone(),
            record: record.clone(),
        };
        Ok(Self {
            frontend,
            target,
            id,
            path: block_path(id),
            governor,
            control: Control::start(door, Arc::new(source))?,
            record,
            fate,
            end,
        })
    }

    /// The number of the block device.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The block device.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The control socket.
    pub fn control(&self) -> &Path {
        self.control.path()
    }

    /// Who governs its requests.
    pub fn governor(&self) -> &Governor {
        &self.governor
    }

    /// What is served.
    pub fn target(&self) -> &UblkTarget {
        &self.target
    }

    /// For signal handlers and other threads.
    pub fn stopper(&self) -> Stopper {
        self.end.stopper()
    }

    /// Blocks until somebody asks for the end, here or by the kernel's own means, or the frontend has failed.
    pub fn wait(&self) {
        // How it ended, `stop` tells.
        let _asked = self.end.wait();
    }

    /// Does it serve, and has no queue thread failed?
    pub fn is_alive(&self) -> bool {
        lock(&self.frontend).is_some() && !self.end.failed()
    }

    /// Ends: the block device goes away, what is in flight finishes, the image is flushed and closed. Whoever deletes the
    /// device by the kernel's own means waits for all of that.
    pub fn stop(mut self) -> Result<(), Error> {
        let result = self.shut_down();
        let farewell = self.control.farewell();
        drop(self);
        farewell.tell(&result);
        result
    }

    fn shut_down(&mut self) -> Result<(), Error> {
        let Some(mut frontend) = lock(&self.frontend).take() else {
            return Ok(());
        };
        if self.fate.at_the_end() == Fate::Leave {
            return self.leave(frontend);
        }
        // Nobody waits at the end for storage that may come back.
        self.target.end_retries();
        end_policy(self.governor.registry());
        let stopped = frontend.stop().map_err(failed);
        // A device that could not be stopped is left to the next server.
        self.own_record(stopped.is_ok());
        // Others may still serve if one thread failed, until this process ends; then the image is left as a crash leaves it.
        let closed = stopped.and_then(|()| self.target.close());
        let deleted = frontend.delete().map_err(failed);
        closed.and(deleted)
    }
}

impl Drop for UblkServer {
    fn drop(&mut self) {
        if let Err(error) = self.shut_down() {
            tracing::error!(%error, "server_stop: failed");
        }
    }
}

/// How the frontend is to serve it.
fn config(target: &UblkTarget, governor: &Governor, options: &UblkOptions, end: &End) -> Result<ServerConfig, Error> {
    let device = target.device();
    let managed = governor
        .registry()
        .attach(device.name())
        .map_err(|error| Error::new(ErrorKind::Server, "the manager refuses the device").because(error))?;
    Ok(ServerConfig {
        id: options.id,
        device,
        managed,
        queues: options.queues,
        depth: options.depth,
        buffer_bytes: options.buffer_bytes,
        unprivileged: options.unprivileged,
        zero_copy: options.zero_copy,
        recovery: options.recovery,
        // Random, as the maps of this process are.
        mark: RandomState::new().build_hasher().finish(),
        queue: tqueue::Config {
            filters: options.filters.clone(),
            ..tqueue::Config::default()
        },
        on_end: end.on_failure(),
        watchdog: None,
    })
}

/// What clients of the control socket can reach.
struct Source {
    frontend: Shared,
    target: UblkTarget,
    governor: Governor,
    id: u32,
    path: PathBuf,
    filters: Vec<String>,
    started: Instant,
    stopper: Stopper,
    fate: Decision,
    record: Option<SharedRecord>,
}

impl Service for Source {
    fn status(&self) -> Status {
        let registry = self.governor.registry();
        Status {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uri: self.path.display().to_string(),
            uptime_s: self.started.elapsed().as_secs_f64(),
            manager: self.governor.name(),
            managing: ManagerStatus::of(&self.governor),
            pending: registry.pending_total(),
            filters: self.filters.clone(),
            nbd: NbdStatus::default(),
            ublk: lock(&self.frontend).as_ref().map(UblkStatus::of),
            devices: self.disks().iter().map(|disk| disk.status(registry)).collect(),
            connections: Vec::new(),
            limits: None,
        }
    }

    fn disks(&self) -> Vec<Served> {
        vec![Served {
            target: self.target.clone(),
            uris: vec![self.path.display().to_string()],
        }]
    }

    fn governor(&self) -> &Governor {
        &self.governor
    }

    fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    fn check_attach(&self) -> Result<(), Error> {
        Err(one_disk(
            "`iomgr add` makes another block device, `iomgr serve` serves many disks over NBD",
        ))
    }

    fn attach(&self, _export: DiskExport) -> Result<(), Error> {
        self.check_attach()
    }

    fn detach(&self, _name: &str, _timeout: Duration) -> Result<(), Error> {
        Err(one_disk("`iomgr del -n ID` ends the block device and its server"))
    }

    fn manager_changed(&self) {
        if let Some(record) = &self.record {
            recovery::keep_manager(record, &self.governor);
        }
    }

    fn check_stop(&self) -> Result<(), Error> {
        self.fate.make(Fate::Delete, &self.path)
    }

    fn stop_idle(&self) -> Result<(), Error> {
        use blkdev_ublk::ErrorKind as Ublk;
        let _trial = self.fate.attempt(Fate::Delete, &self.path)?;
        // It lasts as long as what is in flight. Others look at the frontend meanwhile, and may end it.
        let careful = lock(&self.frontend).as_ref().map(Frontend::careful_stop);
        match careful.map_or(Ok(()), |careful| careful.stop_unless_open()) {
            // The kernel cannot tell.
            Err(error) if error.kind() == Ublk::Unsupported => {}
            Err(error) if error.kind() == Ublk::Busy => return Err(in_use(self.id)),
            stopped => stopped.map_err(failed)?,
        }
        self.check_stop()
    }

    fn hand_over(&self) -> Result<(), Error> {
        let recovery = lock(&self.frontend).as_ref().map_or(Recovery::Off, Frontend::recovery);
        check_hand_over(self.id, recovery)?;
        self.promise_to_leave()
    }
}

impl Source {
    /// Nothing comes in between any more: no pause, no other end.
    fn promise_to_leave(&self) -> Result<(), Error> {
        let _trial = self.fate.attempt(Fate::Leave, &self.path)?;
        if !self.target.keep_image() {
            let what = "is paused, or about to be, and what waits for its image cannot be handed over";
            return Err(Error::new(ErrorKind::State, what)
                .at(&self.path)
                .hint("resume it first"));
        }
        self.fate.make(Fate::Leave, &self.path)
    }
}

fn one_disk(way_out: &str) -> Error {
    Error::new(ErrorKind::Unsupported, "the server of a block device has one disk").hint(way_out)
}

impl UblkStatus {
    fn of(frontend: &Frontend) -> Self {
        let (info, stats) = (frontend.info(), frontend.stats());
        Self {
            id: info.id,
            path: frontend.path(),
            queues: info.queues,
            depth: info.depth,
            buffer_bytes: info.buffer_bytes,
            zero_copy: info.is_zero_copy(),
            in_flight: stats.in_flight,
            requests_total: stats.requests_total,
            enters_total: stats.enters_total,
            sqes_total: stats.sqes_total,
            merges_total: stats.merges_total,
        }
    }
}

fn lock(frontend: &Shared) -> MutexGuard<'_, Option<Frontend>> {
    frontend.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Disk, DiskOptions};
    use crate::pause::{PauseOptions, ResumeOptions};

    fn source(disk: &Disk) -> Source {
        Source {
            frontend: Shared::default(),
            target: UblkTarget::Disk(disk.clone()),
            governor: Governor::new(Registry::new()),
            id: 0,
            path: block_path(0),
            filters: Vec::new(),
            started: Instant::now(),
            stopper: End::new().stopper(),
            fate: Decision::default(),
            record: None,
        }
    }

    fn disk() -> (tempfile::TempDir, Disk) {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("a.img");
        std::fs::write(&image, [0; 4096]).unwrap();
        let disk = Disk::open(&image, &DiskOptions::default()).unwrap();
        (dir, disk)
    }

    #[test]
    fn who_has_promised_to_hand_over_is_neither_paused_nor_stopped() {
        let (_dir, disk) = disk();
        let source = source(&disk);
        source.promise_to_leave().unwrap();
        let paused = disk.pause(PauseOptions::default()).unwrap_err();
        assert_eq!(paused.kind(), ErrorKind::State);
        assert!(paused.to_string().contains("handed over"), "{paused}");
        assert!(disk.info().paused.is_none());
        for stopped in [source.check_stop(), source.stop_idle()] {
            assert_eq!(stopped.unwrap_err().kind(), ErrorKind::State);
        }
        assert_eq!(source.fate.at_the_end(), Fate::Leave);
    }

    #[test]
    fn who_is_being_stopped_hands_nothing_over() {
        for stop in [Source::check_stop, Source::stop_idle] {
            let (_dir, disk) = disk();
            let source = source(&disk);
            stop(&source).unwrap();
            assert_eq!(source.promise_to_leave().unwrap_err().kind(), ErrorKind::State);
            assert_eq!(source.fate.at_the_end(), Fate::Delete);
        }
    }

    #[test]
    fn a_pause_that_is_on_or_on_its_way_comes_first() {
        let (_dir, disk) = disk();
        let source = source(&disk);
        let change = disk.stable.change();
        source.promise_to_leave().unwrap_err();
        drop(change);
        disk.pause(PauseOptions::default()).unwrap();
        let refused = source.promise_to_leave().unwrap_err();
        assert!(refused.to_string().contains("is paused"), "{refused}");
        disk.resume(&ResumeOptions::default()).unwrap();
        source.promise_to_leave().unwrap();
    }
}
