//! Disks, served: the NBD frontend, the manager registry, the control socket, and an orderly end.

mod address;
mod doors;
mod end;
mod options;
mod status;
mod ublk;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use blkdev_nbd::{Export, Listener, ServerConfig};
use iomgr_core::manager::Registry;
use iomgr_core::{Device, Waker};

pub use address::Address;
pub use doors::Inherited;
pub use end::Stopper;
pub use options::{DiskExport, ServerOptions};
pub use status::{ConnectionStatus, DeviceStatus, LimitsStatus, NbdStatus, Status};
pub(crate) use ublk::failed;
pub use ublk::{UblkOptions, UblkServer, UblkStatus, UblkTarget};

use crate::control::{Control, ControlContext, Farewell};
use crate::disk::Disk;
use crate::error::{Error, ErrorKind};
use crate::pidfile::PidFile;
use crate::socket::BoundSocket;
use doors::{ControlDoor, Doors};
use end::End;
use status::Source;

/// A running server. [`Server::wait`] for its end, then [`Server::stop`] it; a dropped server stops, too, but tells nobody
/// how that went.
#[derive(Debug)]
pub struct Server {
    /// Shared with whoever asks for the status; gone when it was stopped.
    nbd: Frontend,
    disks: Vec<Disk>,
    registry: Registry,
    addresses: Vec<Address>,
    filters: Vec<String>,
    socket: Option<BoundSocket>,
    control_path: PathBuf,
    /// Ends before its socket goes away.
    _control: Control,
    _control_socket: Option<BoundSocket>,
    _pidfile: Option<PidFile>,
    end: End,
    /// Says how it ended, to whoever asked for it on the control socket.
    farewell: Farewell,
}

type Frontend = Arc<Mutex<Option<blkdev_nbd::Server>>>;

impl Server {
    /// Serves one disk; returns when clients can connect.
    pub fn start(disk: Disk, options: &ServerOptions) -> Result<Self, Error> {
        Self::start_all(vec![disk.into()], options)
    }

    /// Serves disks, each as the export of its name, and the first one also as the default export.
    pub fn start_all(exports: Vec<DiskExport>, options: &ServerOptions) -> Result<Self, Error> {
        options.check()?;
        options::check_names(&exports)?;
        let disks: Vec<_> = exports.iter().map(|export| export.disk.clone()).collect();
        let doors = Doors::open(options, disks[0].name())?;
        let control = ControlDoor::open(options, disks[0].name())?;
        let (registry, end, farewell) = (Registry::new(), End::new(), Farewell::default());
        let nbd = start_nbd(exports, &registry, doors.listeners, options, end.on_failure())?;
        let nbd = Arc::new(Mutex::new(Some(nbd)));
        let filters: Vec<_> = options.filters.iter().map(ToString::to_string).collect();
        let source = Source {
            disks: disks.clone(),
            registry: registry.clone(),
            nbd: Arc::clone(&nbd),
            addresses: doors.addresses.clone(),
            filters: filters.clone(),
            limits: LimitsStatus::from(&options.limits),
            started: Instant::now(),
        };
        let context = ControlContext {
            status: Arc::new(move || source.status()),
            stopper: end.stopper(),
            farewell: farewell.clone(),
        };
        let served = Control::start(control.listener, context)
            .map_err(|error| Error::new(ErrorKind::Server, "no thread for the control socket").because(error))?;
        Ok(Self {
            nbd,
            disks,
            registry,
            addresses: doors.addresses,
            filters,
            socket: doors.socket,
            control_path: control.path,
            _control: served,
            _control_socket: control.socket,
            _pidfile: options.pidfile.as_deref().map(PidFile::write).transpose()?,
            end,
            farewell,
        })
    }

    /// Where clients find the default export, which is the first disk: an NBD URI.
    pub fn uri(&self) -> String {
        self.addresses[0].uri("")
    }

    /// Where clients connect; at least one address, the one of [`Server::uri`] first.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// The filters between its queues and the images.
    pub fn filters(&self) -> &[String] {
        &self.filters
    }

    /// The unix socket that it has made for NBD; none where it has taken over what somebody passed to it.
    pub fn socket(&self) -> Option<&Path> {
        self.socket.as_ref().map(BoundSocket::path)
    }

    /// The control socket.
    pub fn control(&self) -> &Path {
        &self.control_path
    }

    /// The first disk.
    pub fn disk(&self) -> &Disk {
        &self.disks[0]
    }

    /// All disks.
    pub fn disks(&self) -> &[Disk] {
        &self.disks
    }

    /// The managers.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// For signal handlers and other threads.
    pub fn stopper(&self) -> Stopper {
        self.end.stopper()
    }

    /// Blocks until somebody asks for the end, or the frontend has failed.
    pub fn wait(&self) -> Result<(), Error> {
        self.end.wait()
    }

    /// Returns when each queue thread has ended a pass of its loop: it is alive. False once it was stopped or has failed.
    pub fn is_alive(&self) -> bool {
        let asked = self.frontend().as_ref().map(blkdev_nbd::Server::connections);
        asked.is_some() && !self.failed()
    }

    /// Has the frontend failed? Then [`Server::wait`] returns.
    pub fn failed(&self) -> bool {
        self.end.failed()
    }

    fn frontend(&self) -> MutexGuard<'_, Option<blkdev_nbd::Server>> {
        self.nbd.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends: no new requests, those in flight finish, the images are flushed and closed, the sockets go away.
    pub fn stop(mut self) -> Result<(), Error> {
        let result = self.shut_down();
        let farewell = self.farewell.clone();
        // Who hears of the end may start the next server at once: the sockets and the images must be free.
        drop(self);
        farewell.tell(result.as_ref().err().map(Error::line));
        result
    }

    fn shut_down(&mut self) -> Result<(), Error> {
        let Some(nbd) = self.frontend().take() else {
            return Ok(());
        };
        // Nobody waits at the end for storage that may come back.
        self.disks.iter().for_each(Disk::end_retries);
        let frontend = nbd
            .stop()
            .map_err(|error| Error::new(ErrorKind::Server, "the frontend did not end cleanly").because(error));
        // Also after a frontend that failed: what can be closed is closed.
        close(&self.disks).and(frontend)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.shut_down() {
            tracing::error!(%error, "server_stop: failed");
        }
    }
}

/// Closes all of them, whatever becomes of one. The first failure is the answer, further ones are logged.
fn close(disks: &[Disk]) -> Result<(), Error> {
    let mut failures = disks.iter().filter_map(|disk| disk.close().err());
    let first = failures.next();
    failures.for_each(|error| tracing::error!(%error, "disk_close: failed"));
    first.map_or(Ok(()), Err)
}

fn start_nbd(
    exports: Vec<DiskExport>,
    registry: &Registry,
    listeners: Vec<Listener>,
    options: &ServerOptions,
    on_failure: Waker,
) -> Result<blkdev_nbd::Server, Error> {
    let fail = |error: Box<dyn std::error::Error + Send + Sync>| {
        Error::new(ErrorKind::Server, "the NBD frontend cannot be started").because(error)
    };
    let queue = options.queue(exports.len());
    let exports: Result<Vec<_>, _> = exports.into_iter().map(|export| attach(export, registry)).collect();
    let config = ServerConfig {
        listeners,
        exports: exports.map_err(|error| fail(error.into()))?,
        threads: options.threads,
        depth: options.depth,
        queue,
        limits: options.limits.clone(),
        on_failure,
    };
    blkdev_nbd::Server::start(config).map_err(|error| fail(error.into()))
}

/// Makes a disk known to the managers, and an export of it.
fn attach(export: DiskExport, registry: &Registry) -> Result<Export, iomgr_core::manager::Error> {
    let DiskExport { disk, description } = export;
    Ok(Export {
        name: disk.name().to_owned(),
        description: description.unwrap_or_else(|| format!("{} image", disk.info().format)),
        managed: registry.attach(disk.name())?,
        device: Arc::new(disk),
    })
}
