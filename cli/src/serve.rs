//! `iomgr serve`: images become block devices until somebody ends it.

mod images;
mod ready;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, ValueEnum};
use vbd::tqueue::EngineKind;
use vbd::{DiskExport, DiskOptions, Server, ServerOptions};

use crate::args::Format;
use crate::failure::Failure;
use crate::output::note;
use crate::{signals, size};
use images::{Image, Opened};

const EXAMPLES: &str = "\
Examples:
  iomgr serve --create 1G demo.vhd                 make a 1 GiB dynamic VHD if there is none
  iomgr serve disk.vhd --queues 2 --depth 256      two queue threads
  iomgr serve /dev/sdb --cache none --read-only    a block device, by direct I/O
  iomgr serve disk.vhd --socket /tmp/disk.sock     clients connect where you say
  iomgr serve system.vhd,read-only data.vhd        two disks, each the export of its name

When ready it prints the URI, and lines to paste for nbdinfo, qemu-io and fio.
Ctrl-C, SIGTERM and `iomgr stop NAME` end it cleanly: no new requests, those in flight finish,
the images are flushed and closed. A second Ctrl-C ends it at once; the images are then as after
a crash, which is safe.";

/// As clap's.
const EXIT_USAGE: u8 = 2;

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
    #[arg(long, value_parser = images::disk_name)]
    name: Vec<String>,
    /// What clients are told that the disk is; once for each image, in their order
    #[arg(long, value_name = "TEXT", value_parser = description)]
    description: Vec<String>,
    /// The NBD socket; NAME.sock in the runtime folder, by the first disk's name, if not given
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// The control socket; NAME.ctl in the runtime folder, likewise, if not given
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

impl Serve {
    pub(crate) fn run(&self, json: bool) -> Result<ExitCode, Failure> {
        let opened = images::open(&self.images()?, &self.disk_options(), self.create)?;
        let origins: Vec<_> = opened.iter().map(|opened| opened.origin).collect();
        let server = Server::start_all(self.exports(opened), &self.server_options())?;
        let stopper = server.stopper();
        signals::handle(ABANDONED, move |_| {
            note("closing: no new requests, finishing those in flight; once more to end at once");
            stopper.stop();
        })?;
        ready::tell(&server, &origins, json)?;
        let ended = server.wait();
        // Also after a failure: what can be closed is closed.
        let stopped = server.stop();
        ended.and(stopped)?;
        Ok(ExitCode::SUCCESS)
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
    fn disk_options(&self) -> DiskOptions {
        DiskOptions {
            name: None,
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
