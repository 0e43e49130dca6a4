//! `iomgr add`: a block device that the kernel shows as `/dev/ublkbN`, served until somebody deletes it.
//!
//! ```text
//!  parent ── starts itself once more, reads a line ──► prints it, exits 0;   no line: exits as the child did
//!               │                          ▲
//!               ▼                          │ the device is usable
//!  child ── adds, serves ── leaves the terminal, logs to a file ── … ── ends when the device is deleted, or by a signal
//! ```

mod background;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::json;
use vbd::tqueue::filter::FilterConfig;
use vbd::{Disk, DiskOptions, Format, NullDevice, UblkOptions, UblkServer, UblkTarget};

use crate::args::{Cache, FILTERS};
use crate::failure::Failure;
use crate::output::{note, print, print_json_line};
use crate::retry::Retry;
use crate::{signals, size};
use background::Child;
pub(crate) use background::is_in_background;

const EXAMPLES: &str = "\
Examples:
  iomgr add raw disk.img              prints /dev/ublkb0 when it can be used
  iomgr add raw /dev/sdb -n 7         a block device as /dev/ublkb7
  iomgr add raw disk.img --foreground
                                      serve until Ctrl-C
  iomgr add null --size 1G            no storage behind it, for measuring
  iomgr list --ublk                   the devices there are
  iomgr del -n 0                      end one, flushed and closed

It needs the kernel's ublk driver (`modprobe ublk_drv`) and the right to use /dev/ublk-control.
Without them, `iomgr serve IMAGE` serves an image over NBD.";

/// Make an image or block device a block device of this machine, /dev/ublkbN
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Add {
    #[command(subcommand)]
    target: Target,
}

#[derive(Debug, Subcommand)]
enum Target {
    Null(Null),
    Raw(Raw),
}

/// A device without storage: writes go nowhere, and every request ends at once
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
struct Null {
    /// Its size, a multiple of 512
    #[arg(long, value_name = "SIZE", default_value = "250G", value_parser = size::disk)]
    size: u64,
    #[command(flatten)]
    device: DeviceArgs,
}

/// The bytes of a file or block device, as they are
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
struct Raw {
    /// The image
    file: PathBuf,
    /// Refuse writes, and open the image for reading only
    #[arg(long)]
    read_only: bool,
    /// The host's page cache: used and written back at flushes, or not used (direct I/O, where the file can do it)
    #[arg(long, value_name = "MODE", default_value = "writeback")]
    cache: Cache,
    /// How long to wait for somebody else's lock on the image
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = size::seconds)]
    lock_timeout: Duration,
    #[command(flatten)]
    retry: Retry,
    /// Put a filter between the device and the image, for tests: fault, latency, trace or checksum, its fields behind a
    /// colon (docs/filters.md). Once for each, in the order in which operations pass them
    #[arg(long, value_name = "NAME[:FIELD=VALUE,...]", help_heading = FILTERS)]
    filter: Vec<FilterConfig>,
    #[command(flatten)]
    device: DeviceArgs,
}

/// What all of them take.
#[derive(Args, Debug)]
struct DeviceArgs {
    /// The number of the device; any that is free, if not given
    #[arg(short = 'n', long, value_name = "ID", value_parser = clap::value_parser!(u32).range(0..=NUMBER_MAX))]
    number: Option<u32>,
    /// Requests in flight
    #[arg(short, long, value_name = "N", default_value_t = UblkOptions::default().depth)]
    depth: u16,
    /// The largest request; each request in flight has so much memory, as far as it was ever used
    #[arg(short, long, value_name = "SIZE", default_value = "512K", value_parser = size::parse_u32)]
    buffer: u32,
    /// The control socket; ublkbN.ctl in the runtime folder, if not given
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    /// Stay in the foreground, and log to stderr
    #[arg(long)]
    foreground: bool,
}

/// The kernel has so many minor numbers.
const NUMBER_MAX: i64 = (1 << 20) - 1;

const ABANDONED: &str = "ended at once; what was flushed is in the image, and requests in flight have failed";

impl Add {
    pub(crate) fn run(&self, json: bool) -> Result<ExitCode, Failure> {
        let device = self.target.device();
        let options = UblkOptions {
            filters: self.target.filters().to_vec(),
            ..device.options()
        };
        options.check()?;
        match Child::from_env() {
            None if !device.foreground => background::start(),
            child => serve(&self.target, &options, child, json),
        }
    }
}

impl Target {
    fn device(&self) -> &DeviceArgs {
        match self {
            Self::Null(null) => &null.device,
            Self::Raw(raw) => &raw.device,
        }
    }

    /// There are no operations to see without an image.
    fn filters(&self) -> &[FilterConfig] {
        match self {
            Self::Null(_) => &[],
            Self::Raw(raw) => &raw.filter,
        }
    }

    fn open(&self) -> Result<UblkTarget, Failure> {
        match self {
            Self::Null(null) => Ok(UblkTarget::Null(Arc::new(NullDevice::new("null", null.size)))),
            Self::Raw(raw) => Ok(UblkTarget::Disk(raw.open()?)),
        }
    }
}

impl Raw {
    fn open(&self) -> Result<Disk, vbd::Error> {
        let options = DiskOptions {
            format: Some(Format::Raw),
            read_only: self.read_only,
            cache: self.cache.into(),
            lock_timeout: self.lock_timeout,
            retry: self.retry.policy(),
            ..DiskOptions::default()
        };
        // `status` shows the path to people in other folders.
        let path = std::path::absolute(&self.file).unwrap_or_else(|_| self.file.clone());
        Disk::open(&path, &options)
    }
}

impl DeviceArgs {
    fn options(&self) -> UblkOptions {
        UblkOptions {
            id: self.number,
            depth: self.depth,
            buffer_bytes: self.buffer,
            control: self.control.as_deref().map(absolute),
            ..UblkOptions::default()
        }
    }
}

/// Serves until somebody deletes the device or asks for the end.
fn serve(target: &Target, options: &UblkOptions, child: Option<Child>, json: bool) -> Result<ExitCode, Failure> {
    // What is made from here on is taken away again, whenever a signal comes.
    let caught = signals::catch()?;
    let server = UblkServer::start(target.open()?, options)?;
    let stopper = server.stopper();
    caught.handle(ABANDONED, move |_| {
        note("closing: finishing what is in flight; once more to end at once");
        stopper.stop();
    })?;
    let log = match child {
        // Whoever started us and went away does not want the device: it is taken away again.
        Some(child) => Some(child.go(&ready(&server, json), server.id())?),
        None => {
            tell(&server, json)?;
            None
        }
    };
    server.wait();
    server.stop()?;
    log.map_or(Ok(()), |log| log.remove())?;
    Ok(ExitCode::SUCCESS)
}

fn tell(server: &UblkServer, json: bool) -> Result<(), Failure> {
    match json {
        true => print_json_line(&event(server)),
        false => print(&ready(server, false)),
    }
}

/// The line that says that the device can be used.
fn ready(server: &UblkServer, json: bool) -> String {
    match json {
        true => format!("{}\n", event(server)),
        false => format!("{}\n", server.path().display()),
    }
}

fn event(server: &UblkServer) -> serde_json::Value {
    json!({
        "event": "ready",
        "pid": std::process::id(),
        "frontend": "ublk",
        "id": server.id(),
        "path": server.path().to_string_lossy(),
        "control": server.control().to_string_lossy(),
        "device": server.target().info(),
    })
}

/// A child that serves in the background leaves this folder.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}
