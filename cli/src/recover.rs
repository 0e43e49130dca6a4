//! `iomgr recover` and `iomgr upgrade`: a ublk device goes on with another server, and who uses it notices nothing but a pause.

use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgGroup, Args};
use vbd::UblkServer;

use crate::failure::Failure;
use crate::size;
use crate::ublk::{self, Manner, Origin};

const EXAMPLES_RECOVER: &str = "\
Examples:
  iomgr recover 0            go on with /dev/ublkb0, whose server was killed
  iomgr recover 0 --timeout 5min
                             its storage may take so long to end what the server had begun

Requests that the dead server had are done once more, those that came since are done now; nobody who uses the
device sees an error. It waits until the dead server's last writes have landed in the image, and says for whom.";

const EXAMPLES_UPGRADE: &str = "\
Examples:
  iomgr upgrade 0            serve /dev/ublkb0 by this program, instead of an older one

The old server ends what it has begun, flushes and closes the image, and ends; requests wait meanwhile, and none fails.
A device that was added with --recovery fail or off is refused: use `iomgr del` and `iomgr add` for it.";

/// Go on with a ublk device whose server has died
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES_RECOVER)]
pub(crate) struct Recover {
    #[command(flatten)]
    device: Device,
}

/// Take over a ublk device from an older program, while it is in use
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES_UPGRADE)]
pub(crate) struct Upgrade {
    #[command(flatten)]
    device: Device,
}

/// Which device, and how it is served from then on.
#[derive(Args, Debug)]
#[group(skip)]
#[command(group = ArgGroup::new("which").required(true).args(["id", "number"]))]
struct Device {
    /// The number of the device
    #[arg(value_name = "ID")]
    id: Option<u32>,
    /// The same
    #[arg(short = 'n', long, value_name = "ID")]
    number: Option<u32>,
    /// How long to wait for the old server's end, and for its last writes
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = size::timeout)]
    timeout: Duration,
    #[command(flatten)]
    manner: Manner,
}

impl Device {
    fn id(&self) -> u32 {
        self.id.or(self.number).expect("clap wants one of them")
    }
}

impl Recover {
    pub(crate) fn run(&self, json: bool) -> Result<ExitCode, Failure> {
        let Self { device } = self;
        let start = || Ok(UblkServer::recover(device.id(), device.timeout)?);
        ublk::serve(start, Origin::TakenOver, &device.manner, json)
    }
}

impl Upgrade {
    pub(crate) fn run(&self, json: bool) -> Result<ExitCode, Failure> {
        let Self { device } = self;
        let start = || Ok(UblkServer::upgrade(device.id(), device.timeout)?);
        ublk::serve(start, Origin::TakenOver, &device.manner, json)
    }
}
