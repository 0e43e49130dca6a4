//! `iomgr serve`: an image becomes a block device until somebody ends it.

mod ready;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use vbd::tqueue::EngineKind;
use vbd::{Disk, DiskOptions, ErrorKind, Server, ServerOptions};

use crate::args::Format;
use crate::failure::Failure;
use crate::output::note;
use crate::{signals, size};

const EXAMPLES: &str = "\
Examples:
  iomgr serve --create 1G demo.vhd                 make a 1 GiB dynamic VHD if there is none
  iomgr serve disk.vhd --queues 2 --depth 256      two queue threads
  iomgr serve /dev/sdb --cache none --read-only    a block device, by direct I/O
  iomgr serve disk.vhd --socket /tmp/disk.sock     clients connect where you say

When ready it prints the URI, and lines to paste for nbdinfo, qemu-io and fio.
Ctrl-C, SIGTERM and `iomgr stop NAME` end it cleanly: no new requests, those in flight finish,
the image is flushed and closed. A second Ctrl-C ends it at once; the image is then as after
a crash, which is safe.";

const ABANDONED: &str = "ended at once; the image is as after a crash: what was flushed is there, and it opens again";

/// Serve an image or block device to clients
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Serve {
    /// The image file or block device
    image: PathBuf,
    /// Make the image with this size first, if it does not exist
    #[arg(long, value_name = "SIZE", value_parser = size::parse, conflicts_with = "read_only")]
    create: Option<u64>,
    /// The format, where the extension does not tell it
    #[arg(long)]
    format: Option<Format>,
    /// Refuse writes, and open the image for reading only
    #[arg(long)]
    read_only: bool,
    /// Restore a footer that a crash tore, so that the image can be written again
    #[arg(long, conflicts_with = "read_only")]
    repair: bool,
    /// What to call the disk and its sockets; from the image's file name, if not given
    #[arg(long, value_parser = disk_name)]
    name: Option<String>,
    /// The NBD socket; NAME.sock in the runtime folder, if not given
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// The control socket; NAME.ctl in the runtime folder, if not given
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    /// Queue threads; connections are spread over them
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
    /// How long to wait for somebody else's lock on the image
    #[arg(long, value_name = "SECS", default_value = "2", value_parser = size::seconds)]
    lock_timeout: Duration,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Cache {
    None,
    Writeback,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Engine {
    Auto,
    Uring,
    Sync,
}

/// What became of `--create`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// It was there, and nobody asked for another.
    Found,
    /// `--create` found it and left it as it is.
    Reused,
    /// `--create` made it.
    Created,
}

impl Serve {
    pub(crate) fn run(&self, json: bool) -> Result<ExitCode, Failure> {
        let (disk, origin) = self.open()?;
        let server = Server::start(disk, &self.server_options())?;
        let stopper = server.stopper();
        signals::handle(ABANDONED, move |_| {
            note("closing: no new requests, finishing those in flight; once more to end at once");
            stopper.stop();
        })?;
        ready::tell(&server, origin, json)?;
        let ended = server.wait();
        // Also after a failure: what can be closed is closed.
        let stopped = server.stop();
        ended.and(stopped)?;
        Ok(ExitCode::SUCCESS)
    }

    fn open(&self) -> Result<(Disk, Origin), Failure> {
        let origin = self.create.map_or(Ok(Origin::Found), |bytes| self.create(bytes))?;
        // `status` shows the path to people in other folders.
        let path = std::path::absolute(&self.image).unwrap_or_else(|_| self.image.clone());
        let disk = Disk::open(&path, &self.disk_options())?;
        match self.create {
            Some(bytes) if origin == Origin::Reused => check_size(&disk, bytes)?,
            _ => {}
        }
        Ok((disk, origin))
    }

    /// Tries to create and takes "exists" for an answer, so that two starts at once cannot destroy each other's image.
    fn create(&self, bytes: u64) -> Result<Origin, Failure> {
        let options = vbd::CreateOptions {
            format: self.format.map(Into::into),
            ..vbd::CreateOptions::new(bytes)
        };
        match vbd::create(&self.image, &options) {
            Ok(()) => Ok(Origin::Created),
            Err(error) if error.kind() == ErrorKind::Exists => Ok(Origin::Reused),
            Err(error) => Err(error.into()),
        }
    }

    fn disk_options(&self) -> DiskOptions {
        DiskOptions {
            name: self.name.clone(),
            format: self.format.map(Into::into),
            read_only: self.read_only,
            repair: self.repair,
            cache: match self.cache {
                Cache::None => vbd::Cache::None,
                Cache::Writeback => vbd::Cache::Writeback,
            },
            lock_timeout: self.lock_timeout,
        }
    }

    fn server_options(&self) -> ServerOptions {
        ServerOptions {
            socket: self.socket.clone(),
            control: self.control.clone(),
            threads: self.queues,
            depth: self.depth,
            engine: match self.engine {
                Engine::Auto => EngineKind::Auto,
                Engine::Uring => EngineKind::Uring,
                Engine::Sync => EngineKind::Sync,
            },
        }
    }
}

/// A name becomes a file's name in the runtime folder.
fn disk_name(text: &str) -> Result<String, &'static str> {
    if text.is_empty() || text.starts_with('.') || text.contains('/') {
        return Err("is no name for a file: it must not be empty, begin with a dot or hold a slash");
    }
    Ok(text.to_owned())
}

fn check_size(disk: &Disk, bytes: u64) -> Result<(), vbd::Error> {
    let info = disk.info();
    if info.size_bytes == bytes {
        return Ok(());
    }
    let what = format!(
        "exists with {} bytes, not the {bytes} of --create; leave --create out to serve it as it is",
        info.size_bytes
    );
    Err(vbd::Error::new(ErrorKind::Exists, what).at(&info.path))
}
