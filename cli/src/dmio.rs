//! `iomgr dmio`: I/O to regions of images and devices, with timeouts and cancelling, for people who test storage.

mod content;
mod disks;
mod place;
mod report;
mod rounds;
mod told;

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, Subcommand};
use vbd::dmio::{IoFlags, REGIONS_MAX};

use self::content::Content;
use self::disks::Disks;
use self::place::Place;
use self::rounds::Rounds;
use crate::args::{Cache, Format};
use crate::failure::Failure;
use crate::size;

const EXAMPLES: &str = "\
Examples:
  iomgr dmio read a.img                                 the first 4 KiB, and how long that took
  iomgr dmio write --timeout 200ms a.img /dev/sdb@1M    one write to two regions
  iomgr dmio write --timeout 200ms --cancel-on-timeout --linger 10s /dev/sdb@1M+64k
  iomgr dmio write --flush --timeout 1s a.img           and that it survives a power cut
  iomgr dmio read --choice --timeout 50ms a.img b.img   the first that answers well
  iomgr dmio read --repeat 60 --interval 1s --json /dev/sdb

REGION is IMAGE[@START[+LENGTH]]: an image or a block device, where (0), and how many bytes
(4k). Each region ends by itself: OK, ERROR or CANCELLED, after TIMEOUT perhaps. What is
cancelled is given up: a write that a device has got may still reach its disk, until LATE tells
that the device has answered. Writing OVERWRITES what is there.

Exit codes: 0 all OK; 1 an error; 2 wrong usage; 3 no error, but a region was late or given up;
130, 143, 129 after a signal, which cancels. Of a choice one good region is enough.";

/// Read or write regions with a timeout, and tell what each comes to
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Dmio {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Read(Read),
    Write(Write),
}

/// Read regions, each by itself; or the first of several that can be read
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
struct Read {
    #[command(flatten)]
    common: Common,
    /// The regions hold the same: read the next one if one fails or is late, until one is read
    #[arg(long)]
    choice: bool,
    /// Write what was read, of one region or a choice, into this file
    #[arg(long, value_name = "FILE", conflicts_with = "repeat")]
    output: Option<PathBuf>,
}

/// Write the same to all regions: OVERWRITES what is there
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
struct Write {
    #[command(flatten)]
    common: Common,
    /// What to write: a byte as 0xNN, the start of a file, or - for stdin. If not given, each sector says in words by whom,
    /// which and when it was written
    #[arg(long, value_name = "0xNN|FILE|-", value_parser = OsStringValueParser::new().try_map(Content::parse))]
    data: Option<Content>,
    /// Each region is OK only when it survives a power cut
    #[arg(long)]
    fua: bool,
    /// Then flush each image of which a region was OK, which is told like a region: OK, and what was written survives a power
    /// cut
    #[arg(long)]
    flush: bool,
}

/// What reading and writing take.
#[derive(Args, Debug)]
struct Common {
    /// Where: IMAGE[@START[+LENGTH]], sizes in multiples of 512 bytes. A path that exists as it stands is one
    #[arg(
        value_name = "REGION",
        required = true,
        value_parser = OsStringValueParser::new().try_map(Place::parse),
    )]
    regions: Vec<Place>,
    /// Tell of each region that still runs after so long; it goes on
    #[arg(long, value_name = "TIME", value_parser = size::timeout)]
    timeout: Option<Duration>,
    /// Cancel what still runs at the timeout, instead of telling of it
    #[arg(long, requires = "timeout")]
    cancel_on_timeout: bool,
    /// Cancel what still runs after so long
    #[arg(long, value_name = "TIME", value_parser = size::timeout)]
    cancel_after: Option<Duration>,
    /// Wait so long, at the end, for devices to answer for what was cancelled
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = size::seconds)]
    linger: Duration,
    /// Do it so often, one time after the other
    #[arg(long, value_name = "N", default_value = "1")]
    repeat: NonZeroU64,
    /// From one start to the next, with --repeat
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = size::seconds)]
    interval: Duration,
    /// The images' format, where their extensions do not tell it
    #[arg(long)]
    format: Option<Format>,
    /// The host's page cache: none goes past it, where the file can do that
    #[arg(long, default_value = "none")]
    cache: Cache,
    /// How long to wait for somebody else's lock on an image
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = size::seconds)]
    lock_timeout: Duration,
}

/// What is done to the regions.
#[derive(Debug)]
enum Task<'a> {
    Read {
        choice: bool,
    },
    Write {
        content: Option<&'a Content>,
        fua: bool,
        flush: bool,
    },
}

impl Dmio {
    pub(crate) fn run(&self, json: bool) -> Result<ExitCode, Failure> {
        match &self.verb {
            Verb::Read(read) => read.run(json),
            Verb::Write(write) => write.run(json),
        }
    }
}

impl Read {
    fn run(&self, json: bool) -> Result<ExitCode, Failure> {
        let regions = self.common.regions.len();
        if self.output.is_some() && regions > 1 && !self.choice {
            let what = format!("--output takes one region, or a --choice of several; these are {regions}");
            return Err(wrong(what));
        }
        if self.choice {
            self.common.check_lengths()?;
        }
        let task = Task::Read { choice: self.choice };
        let ended = self.common.run(&task, json)?;
        if let (Some(path), Some(bytes)) = (&self.output, &ended.read) {
            let written = std::fs::write(path, bytes);
            written.map_err(|error| Failure::new("cannot be written").at(path).because(error))?;
        }
        Ok(ended.code)
    }
}

impl Write {
    fn run(&self, json: bool) -> Result<ExitCode, Failure> {
        self.common.check_lengths()?;
        let task = Task::Write {
            content: self.data.as_ref(),
            fua: self.fua,
            flush: self.flush,
        };
        Ok(self.common.run(&task, json)?.code)
    }
}

/// How it went.
struct Ended {
    code: ExitCode,
    /// What was read last.
    read: Option<Vec<u8>>,
}

impl Common {
    fn run(&self, task: &Task<'_>, json: bool) -> Result<Ended, Failure> {
        if self.regions.len() > REGIONS_MAX {
            let what = format!("these are {} regions; {REGIONS_MAX} are the most", self.regions.len());
            return Err(wrong(what));
        }
        let disks = Disks::open(self, matches!(task, Task::Read { .. }))?;
        Rounds::new(self, task, disks, json)?.run()
    }

    /// One memory serves all regions of a request.
    fn check_lengths(&self) -> Result<(), Failure> {
        let first = &self.regions[0];
        match self.regions.iter().find(|place| place.len_bytes != first.len_bytes) {
            None => Ok(()),
            Some(other) => Err(wrong(format!(
                "{first} and {other} differ in length: regions of one request are of the same",
            ))),
        }
    }

    fn flags(&self) -> IoFlags {
        match self.cancel_on_timeout {
            true => IoFlags::CANCEL_ON_TIMEOUT,
            false => IoFlags::empty(),
        }
    }
}

/// The words of the command line make no sense together.
fn wrong(what: String) -> Failure {
    Failure::new(what).hint("see --help").exit(2)
}
