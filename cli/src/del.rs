//! `iomgr del`: ublk devices end, whoever serves them.

use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use clap::{ArgGroup, Args};
use serde_json::json;
use vbd::{
    ErrorKind, check_ublk_unused, delete_idle_ublk_device, delete_ublk_device, ublk_devices, ublk_loses_cache,
    ublk_server,
};

use crate::failure::Failure;
use crate::output::{note, print, print_json};
use crate::size;

const EXAMPLES: &str = "\
Examples:
  iomgr del -n 0             end /dev/ublkb0: what is in flight finishes, the image is flushed and closed
  iomgr del -a               all of them, those of other programs as well
  iomgr del -n 0 --force     although it is mounted: whoever uses it gets errors

It returns when the device is gone, and says so if the end was no clean one.";

/// udev and its like look at a device whenever somebody has closed it. They are not who must let go of it.
const GLANCE_MAX: Duration = Duration::from_secs(2);
/// Between two tries.
const LOOK_AFTER: Duration = Duration::from_millis(50);

/// Delete ublk devices: /dev/ublkbN goes away, and its server ends
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES, group = ArgGroup::new("which").required(true).args(["number", "all"]))]
pub(crate) struct Del {
    /// The number of the device
    #[arg(short = 'n', long, value_name = "ID")]
    number: Vec<u32>,
    /// All devices
    #[arg(short, long)]
    all: bool,
    /// Also one that is mounted, a part of another device, or open: whoever uses it gets errors
    #[arg(long)]
    force: bool,
    /// How long to wait for each
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = size::timeout)]
    timeout: Duration,
}

impl Del {
    pub(crate) fn run(&self, json: bool) -> Result<ExitCode, Failure> {
        let ids = match self.all {
            true => ublk_devices()?.into_iter().map(|device| device.id).collect(),
            false => self.number.clone(),
        };
        let results: Vec<_> = ids.into_iter().map(|id| (id, self.delete(id))).collect();
        if json {
            print_json(&results.iter().map(entry).collect::<Vec<_>>())?;
        } else if results.is_empty() {
            note("there is no ublk device");
        } else {
            results.iter().try_for_each(tell)?;
        }
        let failed = results.iter().any(|(_, result)| result.is_err());
        Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    fn delete(&self, id: u32) -> Result<(), Failure> {
        if self.force {
            return Ok(self.delete_anyway(id)?);
        }
        let deadline = Instant::now() + GLANCE_MAX.min(self.timeout);
        loop {
            match self.delete_idle(id) {
                Err(error) if error.kind() == ErrorKind::Locked && Instant::now() < deadline => {
                    thread::sleep(LOOK_AFTER);
                }
                deleted => return Ok(deleted?),
            }
        }
    }

    /// Its server is asked, if it is one of ours: it says how that went. Else, or if it has died, the driver does it.
    fn delete_idle(&self, id: u32) -> Result<(), vbd::Error> {
        check_ublk_unused(id)?;
        match ublk_server(id, self.timeout) {
            Ok((mut server, _)) => server.stop_idle(),
            Err(_) => delete_idle_ublk_device(id),
        }
    }

    fn delete_anyway(&self, id: u32) -> Result<(), vbd::Error> {
        let error = match ublk_server(id, self.timeout) {
            Ok((mut server, _)) => return server.stop(),
            Err(error) => error,
        };
        if ublk_loses_cache(id)? {
            note(&format!(
                "warning: /dev/ublkb{id}: {error}; the driver alone stops it, and what its users have not synced is lost"
            ));
        }
        delete_ublk_device(id)
    }
}

fn entry((id, result): &(u32, Result<(), Failure>)) -> serde_json::Value {
    match result {
        Ok(()) => json!({ "id": id, "deleted": true }),
        Err(failure) => json!({ "id": id, "deleted": false, "error": failure.to_string() }),
    }
}

fn tell((id, result): &(u32, Result<(), Failure>)) -> Result<(), Failure> {
    match result {
        Ok(()) => print(&format!("/dev/ublkb{id}: deleted\n")),
        Err(failure) => {
            let (path, text) = (format!("/dev/ublkb{id}: "), failure.to_string());
            note(&format!("error: {path}{}", text.strip_prefix(&path).unwrap_or(&text)));
            Ok(())
        }
    }
}
