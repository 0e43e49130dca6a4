//! A disk, served: the NBD frontend, the manager registry, the control socket, and an orderly end.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use blkdev_nbd::{Export, ServerConfig};
use crossbeam_channel::{Receiver, Sender, bounded};
use iomgr_core::manager::Registry;
use iomgr_core::{Device, Wake, Waker};
use serde::{Deserialize, Serialize};
use tqueue::EngineKind;

use crate::control::{Control, ControlContext, Farewell};
use crate::disk::{Disk, DiskInfo};
use crate::error::{Error, ErrorKind};
use crate::runtime::{BoundSocket, make_runtime_dir};
use crate::stats::Stats;

/// How to serve.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// The NBD socket; in the runtime folder, by the disk's name, if not given.
    pub socket: Option<PathBuf>,
    /// The control socket; likewise.
    pub control: Option<PathBuf>,
    /// Queue threads, from 1.
    pub threads: u16,
    /// Requests in flight per thread and disk, from 1 to 4096.
    pub depth: u32,
    /// What runs the ops.
    pub engine: EngineKind,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            socket: None,
            control: None,
            threads: 1,
            depth: 128,
            engine: EngineKind::Auto,
        }
    }
}

/// The bounds of [`ServerOptions::threads`] and [`ServerOptions::depth`].
const THREADS_MAX: u16 = 64;
const DEPTH_MAX: u32 = 4096;

/// A running server. [`Server::wait`] for its end, then [`Server::stop`] it; a dropped server stops, too, but tells nobody
/// how that went.
#[derive(Debug)]
pub struct Server {
    /// Shared with whoever asks for the status; gone when it was stopped.
    nbd: Frontend,
    disk: Disk,
    registry: Registry,
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

/// How a server is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Process id.
    pub pid: u32,
    /// The server's version.
    pub version: String,
    /// Where clients connect.
    pub uri: String,
    /// Seconds since the start.
    pub uptime_s: f64,
    /// The current manager.
    pub manager: String,
    /// Requests pending over all devices.
    pub pending: u64,
    /// The frontend.
    pub nbd: NbdStatus,
    /// The disks.
    pub devices: Vec<DeviceStatus>,
}

/// How the NBD frontend is.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct NbdStatus {
    /// Connections that are open.
    pub connections: u32,
    /// Connections so far.
    pub connections_total: u64,
    /// Requests that were received and have not ended.
    pub in_flight: u32,
    /// Requests that have ended so far.
    pub requests_total: u64,
}

impl From<blkdev_nbd::ServerStats> for NbdStatus {
    fn from(stats: blkdev_nbd::ServerStats) -> Self {
        Self {
            connections: stats.connections,
            connections_total: stats.connections_total,
            in_flight: stats.in_flight,
            requests_total: stats.requests_total,
        }
    }
}

/// How a disk is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeviceStatus {
    /// What it is.
    #[serde(flatten)]
    pub info: DiskInfo,
    /// What it has done.
    pub stats: Stats,
}

impl DeviceStatus {
    fn new(disk: &Disk) -> Self {
        Self {
            info: disk.info(),
            stats: disk.stats(),
        }
    }
}

impl Server {
    /// Serves `disk`; returns when clients can connect.
    pub fn start(disk: Disk, options: &ServerOptions) -> Result<Self, Error> {
        check_range("queues", options.threads.into(), THREADS_MAX.into())?;
        check_range("depth", options.depth, DEPTH_MAX)?;
        let (socket, listener) = bind(options.socket.as_deref(), disk.name(), "sock")?;
        let (control_socket, control_listener) = bind(options.control.as_deref(), disk.name(), "ctl")?;
        let registry = Registry::new();
        let (stop_tx, stop) = bounded(1);
        let farewell = Farewell::default();
        let stopper = Stopper(stop_tx);
        let failure = Arc::new(Failure(AtomicBool::new(false), stopper.clone()));
        let on_failure = Waker::new(Arc::clone(&failure) as Arc<dyn Wake>);
        let nbd = start_nbd(&disk, &registry, listener, options, on_failure)?;
        let nbd = Arc::new(Mutex::new(Some(nbd)));
        let status = status_source(disk.clone(), &registry, &nbd, uri(&socket));
        let context = ControlContext {
            status,
            stopper: stopper.clone(),
            farewell: farewell.clone(),
        };
        let control = Control::start(control_listener, context)
            .map_err(|error| Error::new(ErrorKind::Server, "no thread for the control socket").because(error))?;
        Ok(Self {
            nbd,
            disk,
            registry,
            socket,
            _control: control,
            control_socket,
            stop,
            failure,
            stopper,
            farewell,
        })
    }

    /// Where clients connect: an NBD URI.
    pub fn uri(&self) -> String {
        uri(&self.socket)
    }

    /// The NBD socket.
    pub fn socket(&self) -> &Path {
        self.socket.path()
    }

    /// The control socket.
    pub fn control(&self) -> &Path {
        self.control_socket.path()
    }

    /// The disk.
    pub fn disk(&self) -> &Disk {
        &self.disk
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

    /// Ends: no new requests, those in flight finish, the image is flushed and closed, the sockets go away.
    pub fn stop(mut self) -> Result<(), Error> {
        let result = self.shut_down();
        let farewell = self.farewell.clone();
        // Who hears of the end may start the next server at once: the sockets and the image must be free.
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
        self.disk.close().and(frontend)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.shut_down() {
            tracing::error!(%error, "server_stop: failed");
        }
    }
}

fn check_range(name: &str, value: u32, max: u32) -> Result<(), Error> {
    if (1..=max).contains(&value) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::InvalidOption,
        format!("{name} must be from 1 to {max}, not {value}"),
    ))
}

fn bind(
    given: Option<&Path>,
    name: &str,
    extension: &str,
) -> Result<(BoundSocket, std::os::unix::net::UnixListener), Error> {
    match given {
        Some(path) => BoundSocket::bind(path),
        None => BoundSocket::bind(&make_runtime_dir()?.join(format!("{name}.{extension}"))),
    }
}

fn start_nbd(
    disk: &Disk,
    registry: &Registry,
    listener: std::os::unix::net::UnixListener,
    options: &ServerOptions,
    on_failure: Waker,
) -> Result<blkdev_nbd::Server, Error> {
    let fail = |error: Box<dyn std::error::Error + Send + Sync>| {
        Error::new(ErrorKind::Server, "the NBD frontend cannot be started").because(error)
    };
    let managed = registry.attach(disk.name()).map_err(|error| fail(error.into()))?;
    let export = Export {
        name: disk.name().to_owned(),
        description: format!("{} image", disk.info().format),
        device: Arc::new(disk.clone()),
        managed,
    };
    let queue = tqueue::Config {
        engine: options.engine.clone(),
        size: options.depth.next_power_of_two().clamp(64, 4096),
        max_ops: options.depth * 2 + 1024,
        ..tqueue::Config::default()
    };
    let config = ServerConfig {
        threads: options.threads,
        depth: options.depth,
        queue,
        on_failure,
        ..ServerConfig::new(listener, vec![export])
    };
    blkdev_nbd::Server::start(config).map_err(|error| fail(error.into()))
}

fn uri(socket: &BoundSocket) -> String {
    format!(
        "nbd+unix:///?socket={}",
        percent_encode(&socket.path().to_string_lossy())
    )
}

/// Keeps what a URI's query may hold as it is.
fn percent_encode(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte);
    text.bytes()
        .map(|byte| {
            if plain(byte) {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}

fn status_source(
    disk: Disk,
    registry: &Registry,
    nbd: &Frontend,
    uri: String,
) -> Arc<dyn Fn() -> Status + Send + Sync> {
    let (registry, nbd, started) = (registry.clone(), Arc::clone(nbd), Instant::now());
    let stats = move || {
        nbd.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
            .map(blkdev_nbd::Server::stats)
    };
    Arc::new(move || Status {
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uri: uri.clone(),
        uptime_s: started.elapsed().as_secs_f64(),
        manager: registry.current().name().to_owned(),
        pending: registry.pending_total(),
        nbd: stats().map(NbdStatus::from).unwrap_or_default(),
        devices: vec![DeviceStatus::new(&disk)],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_holds_any_path() {
        assert_eq!(percent_encode("/run/a b&c.sock"), "/run/a%20b%26c.sock");
    }

    #[test]
    fn options_have_bounds() {
        assert!(check_range("depth", 0, 8).is_err());
        assert!(check_range("depth", 8, 8).is_ok());
        assert!(
            check_range("depth", 9, 8)
                .unwrap_err()
                .to_string()
                .contains("from 1 to 8")
        );
    }
}
