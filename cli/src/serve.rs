//! `iomgr serve`: images become block devices until somebody ends it.

mod activation;
mod block;
mod command;
mod frontend;
mod images;
mod notify;
mod ready;
mod service;

use std::fs::Permissions;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, ValueEnum};
use tempfile::TempDir;
use vbd::tqueue::EngineKind;
use vbd::tqueue::filter::FilterConfig;
use vbd::{ConnectionLimits, DiskExport, DiskOptions, Inherited, PidFile, Server, ServerOptions};

use crate::args::{Cache, FILTERS, Format, disk_name};
use crate::failure::Failure;
use crate::output::note;
use crate::retry::Retry;
use crate::signals::Caught;
use crate::supervise::Role;
use crate::{signals, size, supervise, ublk};
use frontend::{Frontend, Wanted};
use images::{Image, Opened};
use notify::Manager;
use service::Service;

const EXAMPLES: &str = "\
Examples:
  iomgr serve --create 1G demo.vhd                 make a 1 GiB dynamic VHD if there is none
  iomgr serve disk.vhd --queues 2 --depth 256      two queue threads
  iomgr serve /dev/sdb --cache none --read-only    a block device, by direct I/O
  iomgr serve disk.vhd --frontend nbd              over NBD, also where the kernel has ublk
  iomgr serve disk.vhd --socket /tmp/disk.sock     clients connect where you say
  iomgr serve system.vhd,read-only data.vhd        two disks, each the export of its name
  iomgr serve disk.vhd --run 'nbdinfo \"$uri\"'    serve while a command runs
  iomgr serve disk.img --supervise                 start again if the server is killed
  iomgr serve disk.img --filter latency:1ms-5ms    a slow disk
  iomgr serve disk.img --filter fault:rate=1%,op=write,errno=ENOSPC,seed=7

Where the kernel has ublk and permits it, one image becomes a block device of this machine, as
by `iomgr add`; otherwise clients connect by NBD. When ready it says which and where, and prints
lines to paste.
Ctrl-C, SIGTERM and `iomgr stop NAME` end it cleanly: no new requests, those in flight finish,
the images are flushed and closed. A second Ctrl-C ends it at once; the images are then as after
a crash, which is safe.";

/// As clap's.
const EXIT_USAGE: u8 = 2;

/// How long a supervised server waits for what the one before wrote last.
const LAST_WRITES_MAX: Duration = Duration::from_secs(60);

const ABANDONED: &str = "ended at once; the image is as after a crash: what was flushed is there, and it opens again";

/// Serve images or block devices to clients
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Serve {
    /// Image files or block devices, the first is the default export. Options of one alone may follow its path:
    /// IMAGE,name=NAME,format=FORMAT,read-only
    #[arg(required = true, value_name = "IMAGE", value_parser = OsStringValueParser::new().try_map(|text| Image::parse(&text)))]
    images: Vec<Image>,
    /// Make each image with this size first, if it does not exist
    #[arg(long, value_name = "SIZE", value_parser = size::parse, conflicts_with = "read_only")]
    create: Option<u64>,
    /// The format, where the extension does not tell it
    #[arg(long)]
    format: Option<Format>,
    /// Refuse writes, and open the images for reading only
    #[arg(long)]
    read_only: bool,
    /// Restore a footer that a crash tore, so that the image can be written again
    #[arg(long, conflicts_with = "read_only")]
    repair: bool,
    /// What to call the disk, its export and its sockets; from the image's file name, if not given. With several images,
    /// once for each, in their order
    #[arg(long, value_parser = disk_name)]
    name: Vec<String>,
    /// What clients are told that the disk is; once for each image, in their order
    #[arg(long, value_name = "TEXT", value_parser = description)]
    description: Vec<String>,
    /// How clients reach the disk: ublk, which is a block device of this machine, or NBD; auto takes ublk where it can be had
    /// and nothing is asked for that NBD alone can do
    #[arg(
        long,
        value_name = "KIND",
        default_value = "auto",
        env = "IOMGR_FRONTEND",
        hide_env_values = true
    )]
    frontend: Wanted,
    /// The NBD socket; NAME.sock in the runtime folder, by the first disk's name, if not given
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// The control socket; NAME.ctl in the runtime folder, likewise, if not given, or ublkbN.ctl
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    /// Listen on this TCP address as well; port 10809 if not given, port 0 for any that is free
    #[arg(long, value_name = "ADDRESS[:PORT]", value_parser = tcp_address, help_heading = NETWORK)]
    listen: Vec<SocketAddr>,
    /// Listen on TCP addresses that other machines can reach, although there is no TLS yet
    #[arg(long, help_heading = NETWORK)]
    insecure: bool,
    /// Connections at the same time; one more is closed at once
    #[arg(long, value_name = "N", default_value_t = limits().connections, help_heading = NETWORK)]
    max_connections: u32,
    /// Commands of one connection in flight; beyond, nothing is received from it
    #[arg(long, value_name = "N", default_value_t = limits().in_flight, help_heading = NETWORK)]
    in_flight: u32,
    /// How long a client may take from connecting to choosing a disk
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = size::timeout, help_heading = NETWORK)]
    handshake_timeout: Duration,
    /// How long a client may ask for nothing; as long as it likes, if not given
    #[arg(long, value_name = "TIME", value_parser = size::timeout, help_heading = NETWORK)]
    idle_timeout: Option<Duration>,
    /// How long a client that stands still may hold memory which others wait for
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = size::timeout, help_heading = NETWORK)]
    stall_timeout: Duration,
    /// Run this command by the shell, with $uri and others in its environment, and serve until it ends; its exit code
    /// is ours
    #[arg(long, value_name = "COMMAND")]
    run: Option<String>,
    /// Start another server when this one dies by a signal; not more than five times in a row. It takes a second process, which
    /// SIGTERM and SIGINT may be sent to as well. Who uses a block device sees a pause; NBD's clients must connect anew (QEMU's
    /// reconnect-delay)
    #[arg(long, conflicts_with = "run")]
    supervise: bool,
    /// Write the process id here when clients can connect
    #[arg(long, value_name = "PATH")]
    pidfile: Option<PathBuf>,
    /// Queue threads; connections are spread over them. Of a block device, its hardware queues
    #[arg(long, value_name = "N", default_value_t = ServerOptions::default().threads)]
    queues: u16,
    /// Requests in flight in each queue thread
    #[arg(long, value_name = "N", default_value_t = ServerOptions::default().depth)]
    depth: u32,
    /// The host's page cache: used and written back at flushes, or not used (direct I/O, where the file can do it)
    #[arg(long, value_name = "MODE", default_value = "writeback")]
    cache: Cache,
    /// What runs the I/O: io_uring, or blocking calls; auto takes those only where io_uring cannot be had
    #[arg(long, value_name = "KIND", default_value = "auto")]
    engine: Engine,
    #[command(flatten)]
    retry: Retry,
    /// Put a filter between the queues and the images, for tests: fault, latency, trace or checksum, its fields behind a
    /// colon (docs/filters.md). Once for each, in the order in which operations pass them
    #[arg(long, value_name = "NAME[:FIELD=VALUE,...]", help_heading = FILTERS)]
    filter: Vec<FilterConfig>,
    /// How long to wait for somebody else's lock on the image, and for a socket that another server has
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = size::seconds)]
    lock_timeout: Duration,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Engine {
    Auto,
    Uring,
    Sync,
}

/// The heading of what clients may and may not.
const NETWORK: &str = "Clients";
/// The port that is registered for NBD.
const NBD_PORT: u16 = 10809;

fn limits() -> ConnectionLimits {
    ConnectionLimits::default()
}

impl Serve {
    pub(crate) fn run(&self, json: bool) -> Result<ExitCode, Failure> {
        let images = self.images()?;
        let role = Role::take();
        match role {
            None if self.supervise => return self.supervise(),
            Some(Role::Device(id)) => return self.go_on(id, json),
            _ => {}
        }
        let options = self.server_options(activation::take()?, role);
        // Before an image is made.
        options.check()?;
        let frontend = match role {
            // Clients look for it where the one before was.
            Some(Role::Next) => Frontend::Nbd(None),
            _ => self.choose(&options)?,
        };
        let opened = Role::start(role, images::open(&images, &self.disk_options(role), self.create))?;
        // What is made from here on is taken away again, whenever a signal comes.
        let caught = signals::catch()?;
        match frontend {
            Frontend::Ublk => run_block(&opened[0], &options, caught, &Manager::from_env(), json),
            Frontend::Nbd(why) => self.run_nbd(opened, options, role, caught, why.as_deref(), json),
        }
    }

    fn run_nbd(
        &self,
        opened: Vec<Opened>,
        mut options: ServerOptions,
        role: Option<Role>,
        caught: Caught,
        why_not_ublk: Option<&str>,
        json: bool,
    ) -> Result<ExitCode, Failure> {
        let origins: Vec<_> = opened.iter().map(|opened| opened.origin).collect();
        // For the command alone, so that nobody else meets its sockets; removed last.
        let _folder = self.run.as_ref().map(|_| private_sockets(&mut options)).transpose()?;
        let started = Server::start_all(self.exports(opened), &options).map_err(Failure::to_make);
        let server = Role::start(role, started)?;
        let manager = Manager::from_env();
        match &self.run {
            Some(line) => {
                manager.ready(&server);
                command::run(server, line, caught, &manager)
            }
            None => serve(server, caught, &manager, |server| {
                ready::tell(server, &origins, why_not_ublk, json)
            }),
        }
    }

    /// Starts servers, by the same words, as long as they die.
    fn supervise(&self) -> Result<ExitCode, Failure> {
        refuse_another_manager()?;
        let options = self.server_options(Inherited::default(), None);
        options.check()?;
        match self.choose(&options)? {
            Frontend::Ublk => ublk::supervise(),
            Frontend::Nbd(_) => supervise::anew(),
        }
    }

    /// Serves a block device whose server has died.
    fn go_on(&self, id: u32, json: bool) -> Result<ExitCode, Failure> {
        let there = ublk::Origin::TakenOver;
        let server = ublk::begin(|| ublk::recover(id), there, None)?;
        let pidfile = self.pidfile.as_deref().map(PidFile::write).transpose();
        let _pidfile = there.heed(pidfile.map_err(Failure::from))?;
        there.heed(ublk::tell(&server, json))?;
        until_end(server, &Manager::from_env())
    }

    fn choose(&self, options: &ServerOptions) -> Result<Frontend, Failure> {
        let ublk = || vbd::check_ublk(&block::options(options));
        Frontend::choose(self.frontend, self.only_nbd(options), ublk)
    }

    /// What was asked for that a block device has not.
    fn only_nbd(&self, options: &ServerOptions) -> Option<&'static str> {
        let asked = [
            ("more than one image", self.images.len() > 1),
            ("--description", !self.description.is_empty()),
            ("--socket", self.socket.is_some()),
            ("--listen", !self.listen.is_empty()),
            (
                "a passed socket",
                !options.inherited.nbd.is_empty() || options.inherited.control.is_some(),
            ),
            ("a limit of clients", options.limits != limits()),
            ("--run", self.run.is_some()),
            ("--engine sync", matches!(self.engine, Engine::Sync)),
        ];
        asked.iter().find(|(_, is_asked)| *is_asked).map(|&(what, _)| what)
    }

    /// The images, with the names that `--name` gives them.
    fn images(&self) -> Result<Vec<Image>, Failure> {
        fits("--name", self.name.len(), self.images.len())?;
        fits("--description", self.description.len(), self.images.len())?;
        let mut images = self.images.clone();
        for (image, name) in images.iter_mut().zip(&self.name) {
            if image.name.replace(name.clone()).is_some() {
                let what = format!("{}: has two names, by --name and by name=", image.path.display());
                return Err(Failure::new(what).exit(EXIT_USAGE));
            }
        }
        Ok(images)
    }

    fn exports(&self, opened: Vec<Opened>) -> Vec<DiskExport> {
        let descriptions = self
            .description
            .iter()
            .cloned()
            .map(Some)
            .chain(std::iter::repeat(None));
        opened
            .into_iter()
            .zip(descriptions)
            .map(|(Opened { disk, .. }, description)| DiskExport { disk, description })
            .collect()
    }

    /// What holds for all images.
    fn disk_options(&self, role: Option<Role>) -> DiskOptions {
        let follows = role == Some(Role::Next);
        DiskOptions {
            name: None,
            format: self.format.map(Into::into),
            read_only: self.read_only,
            // One that died may have torn a footer, and its last writes may be on their way.
            repair: self.repair || follows && !self.read_only,
            cache: self.cache.into(),
            lock_timeout: self.patience(role),
            retry: self.retry.policy(),
        }
    }

    /// With what others hold.
    fn patience(&self, role: Option<Role>) -> Duration {
        match role {
            Some(Role::Next) => self.lock_timeout.max(LAST_WRITES_MAX),
            _ => self.lock_timeout,
        }
    }

    fn server_options(&self, inherited: Inherited, role: Option<Role>) -> ServerOptions {
        ServerOptions {
            socket: self.socket.as_deref().map(absolute),
            control: self.control.as_deref().map(absolute),
            listen: self.listen.clone(),
            insecure: self.insecure,
            inherited,
            pidfile: self.pidfile.clone(),
            threads: self.queues,
            depth: self.depth,
            engine: match self.engine {
                Engine::Auto => EngineKind::Auto,
                Engine::Uring => EngineKind::Uring,
                Engine::Sync => EngineKind::Sync,
            },
            filters: self.filter.clone(),
            limits: ConnectionLimits {
                connections: self.max_connections,
                in_flight: self.in_flight,
                handshake_timeout: self.handshake_timeout,
                idle_timeout: self.idle_timeout,
                stall_timeout: self.stall_timeout,
                ..limits()
            },
            socket_timeout: self.patience(role),
        }
    }
}

fn run_block(
    opened: &Opened,
    options: &ServerOptions,
    caught: Caught,
    manager: &Manager,
    json: bool,
) -> Result<ExitCode, Failure> {
    let server = block::start(opened, options)?;
    let _pidfile = options.pidfile.as_deref().map(PidFile::write).transpose()?;
    serve(server, caught, manager, |server| {
        block::tell(server, opened, &options.filters, json)
    })
}

/// Serves until somebody asks for the end; `tell` says that it can be used.
fn serve<S: Service>(
    server: S,
    caught: Caught,
    manager: &Manager,
    tell: impl FnOnce(&S) -> Result<(), Failure>,
) -> Result<ExitCode, Failure> {
    let stopper = server.stopper();
    caught.handle(ABANDONED, move |_| {
        note("closing: no new requests, finishing those in flight; once more to end at once");
        stopper.stop();
    })?;
    tell(&server)?;
    until_end(server, manager)
}

/// The rest of it.
fn until_end<S: Service>(server: S, manager: &Manager) -> Result<ExitCode, Failure> {
    manager.ready(&server);
    let ended = manager.wait(&server);
    manager.stopping();
    // Also after a failure: what can be closed is closed.
    let stopped = server.stop();
    ended.and(stopped)?;
    Ok(ExitCode::SUCCESS)
}

/// Whom a service manager has started, or passed sockets to, is the main process for it.
fn refuse_another_manager() -> Result<(), Failure> {
    let variables = ["LISTEN_FDS", "NOTIFY_SOCKET"];
    match variables.iter().find(|name| std::env::var_os(name).is_some()) {
        None => Ok(()),
        Some(name) => Err(
            Failure::new(format!("--supervise: there is a service manager already ({name})"))
                .hint("over NBD, let that start the server again (Restart=on-abnormal); a block device waits for `iomgr recover`"),
        ),
    }
}

/// Puts the sockets that have no place yet into a folder of their own.
fn private_sockets(options: &mut ServerOptions) -> Result<TempDir, Failure> {
    let folder = tempfile::Builder::new()
        .prefix("iomgr-")
        .permissions(Permissions::from_mode(0o700))
        .tempdir()
        .map_err(|error| Failure::new("--run: no folder for its sockets can be made; set TMPDIR").because(error))?;
    if options.inherited.nbd.is_empty() {
        options.socket.get_or_insert_with(|| folder.path().join("nbd.sock"));
    }
    options.control.get_or_insert_with(|| folder.path().join("control.ctl"));
    Ok(folder)
}

/// Clients are told of it, who may be in other folders; what would then be too long for a socket stays as it was said.
fn absolute(socket: &Path) -> PathBuf {
    const SOCKET_PATH_MAX: usize = 107;
    let absolute = std::path::absolute(socket).ok();
    let absolute = absolute.filter(|path| path.as_os_str().len() <= SOCKET_PATH_MAX);
    absolute.unwrap_or_else(|| socket.to_path_buf())
}

/// An IP address, with a port or without.
fn tcp_address(text: &str) -> Result<SocketAddr, String> {
    if let Some(port) = text.strip_prefix("localhost") {
        return tcp_address(&format!("127.0.0.1{port}"));
    }
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    let with_default_port = || Some(SocketAddr::new(bare.parse::<IpAddr>().ok()?, NBD_PORT));
    text.parse()
        .ok()
        .or_else(with_default_port)
        .ok_or_else(|| "is no address; say 127.0.0.1, 127.0.0.1:10809, [::1]:10809 or localhost".to_owned())
}

/// NBD bounds the texts that clients are sent.
fn description(text: &str) -> Result<String, &'static str> {
    if text.len() > 4096 {
        return Err("is longer than the 4096 bytes that NBD allows");
    }
    Ok(text.to_owned())
}

fn fits(option: &str, given: usize, images: usize) -> Result<(), Failure> {
    if given <= images {
        return Ok(());
    }
    let what = format!("{option} is given {given} times for {images} images; give it once for each, in their order");
    Err(Failure::new(what).exit(EXIT_USAGE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_may_leave_the_port_out() {
        for (text, address) in [
            ("127.0.0.1", "127.0.0.1:10809"),
            ("127.0.0.1:7", "127.0.0.1:7"),
            ("localhost", "127.0.0.1:10809"),
            ("localhost:0", "127.0.0.1:0"),
            ("::1", "[::1]:10809"),
            ("[::1]", "[::1]:10809"),
            ("[::1]:7", "[::1]:7"),
        ] {
            assert_eq!(tcp_address(text).unwrap().to_string(), address, "{text}");
        }
        for wrong in ["", "7", "127.0.0.1:", "127.0.0.1:70000", "example.org", "localhosts"] {
            assert!(tcp_address(wrong).is_err(), "{wrong}");
        }
    }
}
