//! The disks of an NBD server, which come and go while it runs.
//!
//! ```text
//!  attach: the managers start it ─► every queue thread opens it ─► clients find it
//!  detach: clients lose it ─► what waits ends, what is at work ends ─► its queues are closed ─► the image is flushed, closed
//! ```
//!
//! # Contract
//! - Attach, detach and stop may be called at the same time from any threads. Each disk is closed once, after its last request.
//! - A disk whose detach has failed because its storage does not answer stays, and can be detached again. It serves nobody
//!   meanwhile, and tries nothing again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use blkdev_nbd::{ConnectionLimits, Export, Listener, ServerConfig};
use iomgr_core::manager::Registry;
use iomgr_core::{Device, Waker};

use super::options::{self, DiskExport, ServerOptions};
use crate::disk::Disk;
use crate::error::{Error, ErrorKind};
use crate::ublk::check_not_waiting;

/// See the module.
#[derive(Debug)]
pub(crate) struct Board {
    registry: Registry,
    /// In the order in which they came, the default export first.
    disks: Mutex<Vec<Disk>>,
    /// Gone when the server was stopped. Who uses the frontend reads it, for as long as that takes; who stops it writes.
    frontend: RwLock<Option<blkdev_nbd::Server>>,
}

impl Board {
    /// Starts the frontend with these disks.
    pub(super) fn start(
        exports: Vec<DiskExport>,
        registry: Registry,
        listeners: Vec<Listener>,
        limits: &ConnectionLimits,
        options: &ServerOptions,
        on_failure: Waker,
    ) -> Result<Self, Error> {
        let disks = exports.iter().map(|export| export.disk.clone()).collect();
        let queue = options.queue(exports.len());
        let exports = exports.into_iter().map(|export| introduce(export, &registry));
        let config = ServerConfig {
            listeners,
            exports: exports.collect::<Result<_, _>>()?,
            spare_exports: ServerOptions::SPARE_DISKS,
            threads: options.threads,
            depth: options.depth,
            queue,
            limits: limits.clone(),
            on_failure,
            watchdog: None,
        };
        let frontend = blkdev_nbd::Server::start(config)
            .map_err(|error| Error::new(ErrorKind::Server, "the NBD frontend cannot be started").because(error))?;
        Ok(Self {
            registry,
            disks: Mutex::new(disks),
            frontend: RwLock::new(Some(frontend)),
        })
    }

    /// Serves one more disk, under its name. Who connects when this has returned finds it.
    ///
    /// # Errors
    /// Another disk has its name; the manager refuses it; there is no room for another one; a queue does not open.
    pub(crate) fn attach(&self, export: DiskExport) -> Result<(), Error> {
        let frontend = self.frontend();
        let frontend = frontend.as_ref().ok_or_else(stopping)?;
        let disk = export.disk.clone();
        // Whoever takes the name in this moment is noticed by the frontend.
        options::check_name(&disk, &self.disks())?;
        let failed = |error| {
            Error::new(ErrorKind::Server, "cannot be attached")
                .at(&disk.info().path)
                .because(error)
        };
        frontend.attach(introduce(export, &self.registry)?).map_err(failed)?;
        self.lock().push(disk);
        Ok(())
    }

    /// Ends a disk: its clients' requests that wait end at once, those at work end by themselves, the connections are closed,
    /// then the image is flushed and closed. Clients have until `timeout` to take their replies.
    ///
    /// # Errors
    /// No disk has this name; requests do not end, and the disk stays, as the module says; the image cannot be closed cleanly,
    /// and is gone all the same.
    pub(crate) fn detach(&self, name: &str, timeout: Duration) -> Result<(), Error> {
        let frontend = self.frontend();
        let frontend = frontend.as_ref().ok_or_else(stopping)?;
        let disk = self.disk(name).ok_or_else(|| unknown(name))?;
        // Nobody waits at the end for storage that may come back. Also where the detach fails later: clients have lost it by then.
        disk.end_retries();
        let failed = |error| Error::new(ErrorKind::Server, format!("{name:?} cannot be detached")).because(error);
        frontend.detach(name, timeout).map_err(failed)?;
        self.lock().retain(|disk| disk.name() != name);
        disk.close()
    }

    /// The disks that are served, in the order in which they came.
    pub(crate) fn disks(&self) -> Vec<Disk> {
        self.lock().clone()
    }

    /// The disk of that name.
    pub(crate) fn disk(&self, name: &str) -> Option<Disk> {
        self.lock().iter().find(|disk| disk.name() == name).cloned()
    }

    /// The frontend; nothing once it was stopped. Who holds it holds a stop up.
    pub(super) fn frontend(&self) -> RwLockReadGuard<'_, Option<blkdev_nbd::Server>> {
        self.frontend.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the frontend, then the disks. Fine if they have ended.
    pub(super) fn stop(&self) -> Result<(), Error> {
        // Whoever attaches or detaches right now is done in time, and lets us have the frontend.
        if let Some(frontend) = self.frontend().as_ref() {
            frontend.begin_stop();
        }
        self.disks().iter().for_each(Disk::end_retries);
        end_policy(&self.registry);
        let frontend = self.frontend.write().unwrap_or_else(PoisonError::into_inner).take();
        let Some(frontend) = frontend else {
            return Ok(());
        };
        let stopped = frontend
            .stop()
            .map_err(|error| Error::new(ErrorKind::Server, "the frontend did not end cleanly").because(error));
        // Also after a frontend that failed: what can be closed is closed.
        let disks = std::mem::take(&mut *self.lock());
        close(&disks).and(stopped)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Disk>> {
        self.disks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes a disk known to the managers, and an export of it, if nobody else has still to write to its image.
fn introduce(export: DiskExport, registry: &Registry) -> Result<Export, Error> {
    let DiskExport { disk, description } = export;
    check_not_waiting(&disk.info())?;
    let managed = registry
        .attach(disk.name())
        .map_err(|error| Error::new(ErrorKind::Server, "the manager refuses the disk").because(error))?;
    Ok(Export {
        name: disk.name().to_owned(),
        description: description.unwrap_or_else(|| format!("{} image", disk.info().format)),
        managed,
        device: Arc::new(disk),
    })
}

/// Closes all of them, whatever becomes of one. The first failure is the answer, further ones are logged.
fn close(disks: &[Disk]) -> Result<(), Error> {
    let mut failures = disks.iter().filter_map(|disk| disk.close().err());
    let first = failures.next();
    failures.for_each(|error| tracing::error!(%error, "disk_close: failed"));
    first.map_or(Ok(()), Err)
}

/// At the end there is nothing left to share out: what waits for a policy goes on at once, and no other is taken.
pub(super) fn end_policy(registry: &Registry) {
    registry.close();
}

fn unknown(name: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("no disk is called {name:?}")).hint("`iomgr status` lists those there are")
}

pub(crate) fn stopping() -> Error {
    Error::new(ErrorKind::Server, "the server is being stopped")
}
