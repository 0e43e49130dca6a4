//! Disks, served: the NBD frontend, the manager registry, the control socket, and an orderly end.

mod address;
mod board;
mod descriptors;
mod doors;
mod end;
mod options;
mod served;
mod status;
mod ublk;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use iomgr_core::Device;
use iomgr_core::manager::Registry;
use iomgr_core::policy::Governor;

pub use address::Address;
pub(crate) use board::{Board, stopping};
pub(crate) use doors::ControlDoor;
pub use doors::Inherited;
pub use end::Stopper;
pub use options::{DiskExport, ServerOptions};
pub use served::DiskEntry;
pub(crate) use served::Served;
pub use status::{ConnectionStatus, DeviceStatus, LimitsStatus, NbdStatus, Status};
pub use ublk::{UblkOptions, UblkServer, UblkStatus, UblkTarget};
pub(crate) use ublk::{failed, server_of};

use crate::control::Control;
use crate::disk::Disk;
use crate::error::Error;
use crate::pidfile::PidFile;
use crate::socket::BoundSocket;
use doors::Doors;
use end::End;
use status::Source;

/// A running server. [`Server::wait`] for its end, then [`Server::stop`] it; a dropped server stops, too, but tells nobody
/// how that went.
#[derive(Debug)]
pub struct Server {
    /// What is served. Shared with clients of the control socket.
    board: Arc<Board>,
    governor: Governor,
    addresses: Vec<Address>,
    filters: Vec<String>,
    socket: Option<BoundSocket>,
    control: Control,
    _pidfile: Option<PidFile>,
    end: End,
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
        let name = exports[0].disk.name();
        let deadline = Instant::now() + options.socket_timeout;
        let doors = Doors::open(options, name, deadline)?;
        let control = ControlDoor::open(options, name, deadline)?;
        let limits = descriptors::bound(&options.limits, options.threads);
        let (governor, end) = (Governor::new(Registry::new()), End::new());
        let board = Board::start(
            exports,
            governor.registry().clone(),
            doors.listeners,
            &limits,
            options,
            end.on_failure(),
        )?;
        let board = Arc::new(board);
        let filters: Vec<_> = options.filters.iter().map(ToString::to_string).collect();
        let source = Source {
            board: Arc::clone(&board),
            governor: governor.clone(),
            addresses: doors.addresses.clone(),
            filters: filters.clone(),
            limits: LimitsStatus::from(&limits),
            started: Instant::now(),
            stopper: end.stopper(),
        };
        Ok(Self {
            board,
            governor,
            addresses: doors.addresses,
            filters,
            socket: doors.socket,
            control: Control::start(control, Arc::new(source))?,
            _pidfile: options.pidfile.as_deref().map(PidFile::write).transpose()?,
            end,
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
        self.control.path()
    }

    /// The disk of that name.
    pub fn disk(&self, name: &str) -> Option<Disk> {
        self.board.disk(name)
    }

    /// All disks, in the order in which they came. The first one is the default export.
    pub fn disks(&self) -> Vec<Disk> {
        self.board.disks()
    }

    /// Serves one more disk, under its name. Who connects when this has returned finds it.
    ///
    /// # Errors
    /// Another disk has its name; the manager refuses it; there is no room for another one; a queue does not open.
    pub fn attach(&self, export: DiskExport) -> Result<(), Error> {
        self.board.attach(export)
    }

    /// Ends a disk: its clients' requests that wait end at once (with `ESHUTDOWN`), those at work end by themselves, the
    /// connections are closed, then the image is flushed and closed: another process may open it when this has returned. Clients
    /// have until `timeout` to take their replies. Other disks are not disturbed, and a server without disks goes on.
    ///
    /// # Errors
    /// No disk has this name; requests do not end, and it can be detached again, while no client reaches it and nothing of it is
    /// tried again; the image cannot be closed cleanly, and is gone all the same.
    pub fn detach(&self, name: &str, timeout: Duration) -> Result<(), Error> {
        self.board.detach(name, timeout)
    }

    /// The managers.
    pub fn registry(&self) -> &Registry {
        self.governor.registry()
    }

    /// Who governs its requests: sets policies and their parameters.
    pub fn governor(&self) -> &Governor {
        &self.governor
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
        let asked = self.board.frontend().as_ref().map(blkdev_nbd::Server::connections);
        asked.is_some() && !self.failed()
    }

    /// Has the frontend failed? Then [`Server::wait`] returns.
    pub fn failed(&self) -> bool {
        self.end.failed()
    }

    /// Ends: no new requests, those in flight finish, the images are flushed and closed, the sockets go away.
    pub fn stop(self) -> Result<(), Error> {
        let result = self.board.stop();
        let farewell = self.control.farewell();
        // Who hears of the end may start the next server at once: the sockets and the images must be free.
        drop(self);
        farewell.tell(&result);
        result
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.board.stop() {
            tracing::error!(%error, "server_stop: failed");
        }
    }
}
