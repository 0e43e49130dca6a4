//! How a server is started: which disks, where, with how much.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use blkdev_nbd::ConnectionLimits;
use tqueue::EngineKind;
use tqueue::filter::FilterConfig;

use super::doors::check_reach;
use super::{Address, Inherited};
use crate::disk::Disk;
use crate::error::{Error, ErrorKind};
use crate::patience::PATIENCE;
use crate::pidfile::PidFile;

/// How to serve.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// The NBD socket; in the runtime folder, by the first disk's name, if not given.
    pub socket: Option<PathBuf>,
    /// The control socket; likewise.
    pub control: Option<PathBuf>,
    /// TCP addresses to listen on as well; port 0 is any that is free.
    pub listen: Vec<SocketAddr>,
    /// Listen where other machines can connect, too: there is no TLS yet.
    pub insecure: bool,
    /// Sockets that listen already.
    pub inherited: Inherited,
    /// A file for the process id, there while clients can connect.
    pub pidfile: Option<PathBuf>,
    /// Queue threads, from 1.
    pub threads: u16,
    /// Requests in flight per thread and disk, from 1 to 4096.
    pub depth: u32,
    /// What runs the ops.
    pub engine: EngineKind,
    /// What sees every op on its way to the images and back, on each thread.
    pub filters: Vec<FilterConfig>,
    /// Bounds on what clients may take.
    pub limits: ConnectionLimits,
    /// Wait so long where another server listens: the kernel keeps a killed one's sockets until it has ended what that had in
    /// flight.
    pub socket_timeout: Duration,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            socket: None,
            control: None,
            listen: Vec::new(),
            insecure: false,
            inherited: Inherited::default(),
            pidfile: None,
            threads: 1,
            depth: 128,
            engine: EngineKind::Auto,
            filters: Vec::new(),
            limits: ConnectionLimits::default(),
            socket_timeout: PATIENCE,
        }
    }
}

/// The bounds of [`ServerOptions::threads`] and [`ServerOptions::depth`].
const THREADS_MAX: u16 = 64;
const DEPTH_MAX: u32 = 4096;
/// What the frontend has room for.
const CONNECTIONS_MAX: u32 = 4000;
/// Ops that a queue may have outstanding.
const OPS_MAX: u32 = 16384;

impl ServerOptions {
    /// Disks that a server can take on besides those that it starts with.
    pub(super) const SPARE_DISKS: u16 = 64;

    /// What can be told to be wrong before anything is opened; [`Server::start`](super::Server::start) asks it, too.
    pub fn check(&self) -> Result<(), Error> {
        check_range("queues", self.threads.into(), THREADS_MAX.into())?;
        check_range("depth", self.depth, DEPTH_MAX)?;
        check_range("max-connections", self.limits.connections, CONNECTIONS_MAX)?;
        check_range("in-flight", self.limits.in_flight, DEPTH_MAX)?;
        self.listen
            .iter()
            .try_for_each(|&address| check_reach(&Address::Tcp(address), self.insecure))?;
        self.check_sockets()?;
        self.pidfile.as_deref().map_or(Ok(()), PidFile::check)
    }

    fn check_sockets(&self) -> Result<(), Error> {
        match (&self.socket, &self.control) {
            (Some(socket), Some(control)) if socket == control => {
                let what = format!("--socket and --control are both {}", socket.display());
                Err(Error::new(ErrorKind::InvalidOption, what).hint("they speak different protocols: name two paths"))
            }
            _ => Ok(()),
        }
    }

    /// The queue of each thread, for so many disks, and those that come later. What finds no room in it waits in the disk's own
    /// queue.
    pub(super) fn queue(&self, disks: usize) -> tqueue::Config {
        let files = disks + usize::from(Self::SPARE_DISKS) + 1;
        let depth = self
            .depth
            .saturating_mul(u32::try_from(disks).unwrap_or(u32::MAX))
            .min(OPS_MAX);
        let defaults = tqueue::Config::default();
        tqueue::Config {
            engine: self.engine.clone(),
            filters: self.filters.clone(),
            size: depth.next_power_of_two().clamp(64, 4096),
            max_ops: (depth * 2 + 1024).min(OPS_MAX),
            files: u32::try_from(files).map_or(u32::MAX, |files| files.max(defaults.files)),
            ..defaults
        }
    }
}

/// A disk, as clients see it.
#[derive(Clone, Debug)]
pub struct DiskExport {
    /// What is served, under its own name.
    pub disk: Disk,
    /// For people, who see it when they list the exports; the image's format if not given.
    pub description: Option<String>,
}

impl From<Disk> for DiskExport {
    fn from(disk: Disk) -> Self {
        Self {
            disk,
            description: None,
        }
    }
}

/// Clients choose a disk by its name, so no two may have the same.
pub(super) fn check_names(exports: &[DiskExport]) -> Result<(), Error> {
    if exports.is_empty() {
        return Err(Error::new(ErrorKind::InvalidOption, "there is no disk to serve"));
    }
    let disks: Vec<_> = exports.iter().map(|export| &export.disk).collect();
    (0..disks.len()).try_for_each(|at| check_name(disks[at], disks[..at].iter().copied()))
}

/// Has none of the others its name?
pub(super) fn check_name<'a>(disk: &Disk, others: impl IntoIterator<Item = &'a Disk>) -> Result<(), Error> {
    let info = disk.info();
    let Some(other) = others.into_iter().map(Disk::info).find(|other| other.name == info.name) else {
        return Ok(());
    };
    let what = format!(
        "would be called {:?}, as {} is; choose another name for one of them, as by --name",
        info.name,
        other.path.display()
    );
    Err(Error::new(ErrorKind::InvalidOption, what).at(&info.path))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_have_bounds() {
        assert!(check_range("depth", 0, 8).is_err());
        assert!(check_range("depth", 8, 8).is_ok());
        let too_many = check_range("depth", 9, 8).unwrap_err().to_string();
        assert!(too_many.contains("from 1 to 8"), "{too_many}");
    }

    #[test]
    fn two_sockets_have_two_paths() {
        let options = |control: &str| ServerOptions {
            socket: Some("/run/x.sock".into()),
            control: Some(control.into()),
            ..ServerOptions::default()
        };
        assert!(options("/run/x.ctl").check().is_ok());
        let error = options("/run/x.sock").check().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidOption, "{error}");
    }

    #[test]
    fn a_queue_has_room_for_all_disks_within_its_bounds() {
        let options = ServerOptions::default();
        let (one, many) = (options.queue(1), options.queue(1000));
        assert_eq!((one.size, one.max_ops), (128, 1280));
        assert_eq!((many.size, many.max_ops), (4096, OPS_MAX));
        assert!(many.files > 1000);
    }
}
