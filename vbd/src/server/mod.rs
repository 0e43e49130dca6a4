//! Disks, served: the NBD frontend, the manager registry, the control socket, and an orderly end.

mod address;
mod options;
mod status;

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use blkdev_nbd::{Export, ServerConfig};
use crossbeam_channel::{Receiver, Sender, bounded};
use iomgr_core::manager::Registry;
use iomgr_core::{Device, Wake, Waker};

pub use address::Address;
pub use options::{DiskExport, ServerOptions};
pub use status::{DeviceStatus, NbdStatus, Status};

use crate::control::{Control, ControlContext, Farewell};
use crate::disk::Disk;
use crate::error::{Error, ErrorKind};
use crate::runtime::make_runtime_dir;
use crate::socket::BoundSocket;
use status::Source;

/// A running server. [`Server::wait`] for its end, then [`Server::stop`] it; a dropped server stops, too, but tells nobody
/// how that went.
#[derive(Debug)]
pub struct Server {
    /// Shared with whoever asks for the status; gone when it was stopped.
    nbd: Frontend,
    disks: Vec<Disk>,
    registry: Registry,
    addresses: Arc<[Address]>,
    socket: BoundSocket,
    /// Ends before its socket goes away.
    _control: Control,
    control_socket: BoundSocket,
    stop: Receiver<()>,
    failure: Arc<Failure>,
    stopper: Stopper,
    /// Says how it ended, to whoever asked for it on the control socket.
    farewell: Farewell,
}

/// The frontend's way to end [`Server::wait`].
#[derive(Debug)]
struct Failure(AtomicBool, Stopper);

impl Wake for Failure {
    fn wake(&self) {
        self.0.store(true, Ordering::Release);
        self.1.stop();
    }
}

type Frontend = Arc<Mutex<Option<blkdev_nbd::Server>>>;

/// Makes [`Server::wait`] return. Any thread, any number of times.
#[derive(Clone, Debug)]
pub struct Stopper(Sender<()>);

impl Stopper {
    /// Ask for the end.
    pub fn stop(&self) {
        // A full channel holds the same wish already.
        let _ = self.0.try_send(());
    }
}

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
        let (socket, listener) = bind(options.socket.as_deref(), disks[0].name(), "sock")?;
        let (control_socket, control_listener) = bind(options.control.as_deref(), disks[0].name(), "ctl")?;
        let registry = Registry::new();
        let (stop_tx, stop) = bounded(1);
        let farewell = Farewell::default();
        let stopper = Stopper(stop_tx);
        let failure = Arc::new(Failure(AtomicBool::new(false), stopper.clone()));
        let on_failure = Waker::new(Arc::clone(&failure) as Arc<dyn Wake>);
        let nbd = start_nbd(exports, &registry, listener, options, on_failure)?;
        let nbd = Arc::new(Mutex::new(Some(nbd)));
        let addresses: Arc<[_]> = Arc::new([Address::Unix(socket.path().to_owned())]);
        let source = Source {
            disks: disks.clone(),
            registry: registry.clone(),
            nbd: Arc::clone(&nbd),
            addresses: Arc::clone(&addresses),
            started: Instant::now(),
        };
        let context = ControlContext {
            status: Arc::new(move || source.status()),
            stopper: stopper.clone(),
            farewell: farewell.clone(),
        };
        let control = Control::start(control_listener, context)
            .map_err(|error| Error::new(ErrorKind::Server, "no thread for the control socket").because(error))?;
        Ok(Self {
            nbd,
            disks,
            registry,
            addresses,
            socket,
            _control: control,
            control_socket,
            stop,
            failure,
            stopper,
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

    /// The NBD socket.
    pub fn socket(&self) -> &Path {
        self.socket.path()
    }

    /// The control socket.
    pub fn control(&self) -> &Path {
        self.control_socket.path()
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
        self.stopper.clone()
    }

    /// Blocks until somebody asks for the end, or the frontend has failed.
    pub fn wait(&self) -> Result<(), Error> {
        // The server itself holds a sender, so the channel never closes.
        self.stop
            .recv()
            .expect("the server can be stopped as long as it is there");
        match self.failure.0.load(Ordering::Acquire) {
            true => Err(Error::new(ErrorKind::Server, "a queue thread ended; its log says why")),
            false => Ok(()),
        }
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
        farewell.tell(
            result
                .as_ref()
                .err()
                .map(|error| match std::error::Error::source(error) {
                    Some(cause) => format!("{error}: {cause}"),
                    None => error.to_string(),
                }),
        );
        result
    }

    fn shut_down(&mut self) -> Result<(), Error> {
        let Some(nbd) = self.frontend().take() else {
            return Ok(());
        };
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

fn bind(given: Option<&Path>, name: &str, extension: &str) -> Result<(BoundSocket, UnixListener), Error> {
    match given {
        Some(path) => BoundSocket::bind(path),
        None => BoundSocket::bind(&make_runtime_dir()?.join(format!("{name}.{extension}"))),
    }
}

fn start_nbd(
    exports: Vec<DiskExport>,
    registry: &Registry,
    listener: UnixListener,
    options: &ServerOptions,
    on_failure: Waker,
) -> Result<blkdev_nbd::Server, Error> {
    let fail = |error: Box<dyn std::error::Error + Send + Sync>| {
        Error::new(ErrorKind::Server, "the NBD frontend cannot be started").because(error)
    };
    let queue = options.queue(exports.len());
    let exports: Result<Vec<_>, _> = exports.into_iter().map(|export| attach(export, registry)).collect();
    let config = ServerConfig {
        threads: options.threads,
        depth: options.depth,
        queue,
        on_failure,
        ..ServerConfig::new(listener, exports.map_err(|error| fail(error.into()))?)
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
