//! `iomgr attach` and `iomgr detach`: disks come and go while their server runs.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use vbd::{AttachRequest, DetachRequest, Seconds};

use crate::args::{Cache, Format, disk_name};
use crate::failure::Failure;
use crate::output::{print, print_json};
use crate::retry::Retry;
use crate::servers::{ANSWER_MAX, OneServer, absolute};
use crate::size;

const ATTACH_EXAMPLES: &str = "\
Examples:
  iomgr attach data.vhd                        serve it, too; prints its URI
  iomgr attach data.vhd --server demo          by the server of the disk called demo
  iomgr attach iso.img --read-only --name cd
  qemu-img info \"$(iomgr attach data.vhd)\"

Who connects from now on finds it; other disks are not disturbed.";

const DETACH_EXAMPLES: &str = "\
Examples:
  iomgr detach data                 end it: flushed and closed when this returns
  iomgr detach data --timeout 1m    clients have a minute to take their replies

Its clients' requests that wait end with an error, those at work end by themselves, connections are
closed. Other disks are not disturbed; a server without disks goes on.";

/// Serve one more image by a server that runs
#[derive(Args, Debug)]
#[command(after_help = ATTACH_EXAMPLES)]
pub(crate) struct Attach {
    /// Image file or block device
    image: PathBuf,
    /// What to call the disk and its export; from the image's file name, if not given
    #[arg(long, value_parser = disk_name)]
    name: Option<String>,
    /// What clients are told that the disk is
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// The format, where the extension does not tell it
    #[arg(long)]
    format: Option<Format>,
    /// Refuse writes, and open the image for reading only
    #[arg(long)]
    read_only: bool,
    /// Restore a footer that a crash tore, so that the image can be written again
    #[arg(long, conflicts_with = "read_only")]
    repair: bool,
    /// The host's page cache: used and written back at flushes, or not used (direct I/O, where the file can do it)
    #[arg(long, value_name = "MODE", default_value = "writeback")]
    cache: Cache,
    #[command(flatten)]
    retry: Retry,
    /// How long to wait for somebody else's lock on the image
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = size::seconds)]
    lock_timeout: Duration,
    #[command(flatten)]
    server: OneServer,
}

/// End a disk: flushed and closed, while its server goes on
#[derive(Args, Debug)]
#[command(after_help = DETACH_EXAMPLES)]
pub(crate) struct Detach {
    /// The disk
    disk: String,
    /// How long clients have to take their replies
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = size::seconds)]
    timeout: Duration,
    #[command(flatten)]
    server: OneServer,
}

impl Attach {
    pub(crate) fn run(&self, json: bool) -> Result<ExitCode, Failure> {
        let target = self.server.target()?;
        let timeout = self.lock_timeout.saturating_add(OPEN_MAX);
        let mut server = target.connect(ANSWER_MAX)?;
        // One that does not even say this is not waited for.
        server.disks()?;
        server.be_patient(timeout)?;
        let disk = server.attach(self.request())?;
        match json {
            true => print_json(&disk)?,
            false => print(&format!("{}\n", disk.uris.first().map_or("", String::as_str)))?,
        }
        Ok(ExitCode::SUCCESS)
    }

    fn request(&self) -> AttachRequest {
        let retry = self.retry.policy();
        AttachRequest {
            image: absolute(&self.image),
            name: self.name.clone(),
            description: self.description.clone(),
            format: self.format.map(Into::into),
            read_only: self.read_only,
            repair: self.repair,
            cache: self.cache.into(),
            lock_timeout_s: Some(Seconds::new(self.lock_timeout)),
            retry_on: retry.also.iter_names().map(|(name, _)| name.to_owned()).collect(),
            retry_timeout_s: Some(Seconds::new(retry.timeout)),
        }
    }
}

/// Opening an image reads its metadata, which may lie far away.
const OPEN_MAX: Duration = Duration::from_secs(60);

impl Detach {
    pub(crate) fn run(&self, json: bool) -> Result<ExitCode, Failure> {
        let target = self.server.target_of(&self.disk)?;
        let timeout = self.timeout.saturating_add(OPEN_MAX).saturating_add(ANSWER_MAX);
        target.connect(timeout)?.detach(DetachRequest {
            disk: self.disk.clone(),
            timeout_s: Some(Seconds::new(self.timeout)),
        })?;
        match json {
            true => print_json(&json!({ "name": self.disk, "detached": true }))?,
            false => print(&format!("{}: detached\n", self.disk))?,
        }
        Ok(ExitCode::SUCCESS)
    }
}
