//! `iomgr add`: a block device that the kernel shows as `/dev/ublkbN`, served until somebody deletes it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use vbd::tqueue::filter::FilterConfig;
use vbd::{Disk, DiskOptions, NullDevice, UblkOptions, UblkRecovery, UblkServer, UblkTarget};

use crate::args::{Cache, FILTERS, Format};
use crate::failure::Failure;
use crate::retry::Retry;
use crate::size;
use crate::ublk::{self, Manner, Origin, Recovery};

const EXAMPLES: &str = "\
Examples:
  iomgr add disk.vhd                  prints /dev/ublkb0 when it can be used
  iomgr add /dev/sdb -n 7             a block device as /dev/ublkb7
  iomgr add disk.img -q 4 -d 64       four hardware queues, each with a thread and 64 requests
  iomgr add disk.img -z               no copying between the kernel and the server
  iomgr add disk.img --foreground     serve until Ctrl-C
  iomgr add disk.img --supervise      go on by itself if the server is killed
  iomgr add -p disk.img               as a user without privilege, where udev has a rule for that
  iomgr add --format raw disk         the bytes of a file whose name does not tell
  iomgr add null --size 1G            no storage behind it, for measuring
  iomgr add ./null --format raw       an image that is called null
  iomgr list --ublk                   the devices there are
  iomgr del -n 0                      end one, flushed and closed

It needs the kernel's ublk driver (`modprobe ublk_drv`) and the right to use /dev/ublk-control.
Without them, `iomgr serve IMAGE` serves an image over NBD.";

/// Make an image or block device a block device of this machine, /dev/ublkbN
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Add {
    /// The image file or block device. The word null is a device without storage, for measuring: writes go nowhere, and every
    /// request ends at once
    image: PathBuf,
    /// After the word raw, which is short for --format raw.
    #[arg(hide = true)]
    file: Option<PathBuf>,
    /// The format, where the extension does not tell it
    #[arg(long)]
    format: Option<Format>,
    /// Refuse writes, and open the image for reading only
    #[arg(long)]
    read_only: bool,
    /// Restore a footer that a crash tore, so that the image can be written again
    #[arg(long, conflicts_with = "read_only")]
    repair: bool,
    /// The size of a device without storage, a multiple of 512; 250G, if not given
    #[arg(long, value_name = "SIZE", value_parser = size::disk)]
    size: Option<u64>,
    /// The number of the device; any that is free, if not given
    #[arg(short = 'n', long, value_name = "ID", value_parser = clap::value_parser!(u32).range(0..=NUMBER_MAX))]
    number: Option<u32>,
    /// Hardware queues, each with a thread; the kernel makes no more than there are processors
    #[arg(short, long, value_name = "N", default_value_t = UblkOptions::default().queues)]
    queues: u16,
    /// Requests in flight in each queue
    #[arg(short, long, value_name = "N", default_value_t = UblkOptions::default().depth)]
    depth: u16,
    /// The largest request; each request in flight has so much memory, as far as it was ever used
    #[arg(short, long, value_name = "SIZE", default_value = "512K", value_parser = size::parse_u32)]
    buffer: u32,
    /// What becomes of the device when its server dies: it waits for `iomgr recover`, which ends what was begun; its requests
    /// fail until then; or it goes away
    #[arg(long, value_name = "WHAT", default_value = "reissue")]
    recovery: Recovery,
    /// Short for --recovery reissue
    #[arg(short = 'r', conflicts_with = "recovery")]
    recoverable: bool,
    /// Make the device as a user without CAP_SYS_ADMIN, for this user alone. It takes a rule of udev's (docs/ublk.md); such a
    /// device does not outlive its server
    #[arg(short = 'p', long, conflicts_with_all = ["recovery", "recoverable", "supervise", "zero_copy"])]
    unprivileged: bool,
    /// Let the kernel hand over the pages of requests, rather than copy them: pays for large requests. It takes Linux 6.16, and
    /// no filter that looks at bytes
    #[arg(short, long)]
    zero_copy: bool,
    /// The control socket; ublkbN.ctl in the runtime folder, if not given
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    #[command(flatten)]
    manner: Manner,
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
}

/// What the device is made from.
#[derive(Debug)]
enum Source<'a> {
    /// Nothing, of that many bytes.
    Null(u64),
    /// A file, in the format that was said, or that its name tells.
    File(&'a Path, Option<vbd::Format>),
}

/// As rublk's and `null_blk`'s.
const NULL_BYTES: u64 = 250 << 30;
/// The kernel has so many minor numbers.
const NUMBER_MAX: i64 = (1 << 20) - 1;

/// As clap's.
const EXIT_USAGE: u8 = 2;

impl Add {
    pub(crate) fn run(&self, json: bool) -> Result<ExitCode, Failure> {
        let source = self.source().map_err(|what| Failure::new(what).exit(EXIT_USAGE))?;
        let options = self.options();
        options.check()?;
        if self.manner.is_supervised() && options.recovery == UblkRecovery::Off {
            let what =
                "--supervise: a device that goes away with its server cannot be gone on with; leave --recovery off out";
            return Err(Failure::new(what).exit(EXIT_USAGE));
        }
        let start = || Ok(UblkServer::start(self.open(&source)?, &options)?);
        ublk::serve(start, Origin::Made, &self.manner, json)
    }

    /// What the words come to; or what is wrong with them.
    fn source(&self) -> Result<Source<'_>, String> {
        match (self.image.to_str(), &self.file) {
            (Some("null"), None) => self.null(),
            (Some("raw"), Some(file))
                if self.size.is_none() && self.format.is_none_or(|format| format == Format::Raw) =>
            {
                Ok(Source::File(file, Some(vbd::Format::Raw)))
            }
            (Some("raw"), Some(_)) => Err("add raw IMAGE: takes neither --size nor another --format".to_owned()),
            (Some("raw"), None) => Err("add raw: which image? If it is called so, say ./raw".to_owned()),
            (_, Some(file)) => Err(format!("{}: a device has one image", file.display())),
            (_, None) if self.size.is_some() => Err("--size: an image has its own; it is for null alone".to_owned()),
            (_, None) => Ok(Source::File(&self.image, self.format.map(Into::into))),
        }
    }

    /// There are no operations to see, and nothing to open, without an image.
    fn null(&self) -> Result<Source<'_>, String> {
        let of_images = [
            ("--format", self.format.is_some()),
            ("--read-only", self.read_only),
            ("--repair", self.repair),
            ("--retry-on", !self.retry.policy().also.is_empty()),
            ("--filter", !self.filter.is_empty()),
            ("--zero-copy", self.zero_copy),
        ];
        match of_images.iter().find(|(_, given)| *given) {
            Some((option, _)) => Err(format!("{option}: is for images; one that is called null is ./null")),
            None => Ok(Source::Null(self.size.unwrap_or(NULL_BYTES))),
        }
    }

    fn options(&self) -> UblkOptions {
        UblkOptions {
            id: self.number,
            queues: self.queues,
            depth: self.depth,
            buffer_bytes: self.buffer,
            zero_copy: self.zero_copy,
            control: self.control.as_deref().map(absolute),
            filters: self.filter.clone(),
            unprivileged: self.unprivileged,
            recovery: match self.unprivileged {
                true => UblkRecovery::Off,
                false => self.recovery.into(),
            },
        }
    }

    fn open(&self, source: &Source<'_>) -> Result<UblkTarget, vbd::Error> {
        let (path, format) = match *source {
            Source::Null(size) => return Ok(UblkTarget::Null(Arc::new(NullDevice::new("null", size)))),
            Source::File(path, format) => (path, format),
        };
        let options = DiskOptions {
            name: None,
            format,
            read_only: self.read_only,
            repair: self.repair,
            cache: self.cache.into(),
            lock_timeout: self.lock_timeout,
            retry: self.retry.policy(),
        };
        // `status` shows the path to people in other folders.
        Disk::open(&absolute(path), &options).map(UblkTarget::Disk)
    }
}

/// A child that serves in the background leaves this folder.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}
