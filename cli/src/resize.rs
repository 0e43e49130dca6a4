//! `iomgr resize`: a ublk device becomes as large as its image has become.

use std::process::ExitCode;

use clap::Args;
use indicatif::BinaryBytes;
use serde_json::json;
use vbd::grow_ublk_device;

use crate::failure::Failure;
use crate::output::{print, print_json};
use crate::servers::ANSWER_MAX;

const EXAMPLES: &str = "\
Examples:
  truncate -s 20G disk.img && iomgr resize 0
                             /dev/ublkb0 has 20 GiB, whoever has it open; a file system on it does not know yet (resize2fs)

It needs Linux 6.16. A device never shrinks.";

/// Make a ublk device as large as its image has become
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Resize {
    /// The number of the device
    #[arg(value_name = "ID")]
    id: u32,
}

impl Resize {
    pub(crate) fn run(&self, json: bool) -> Result<ExitCode, Failure> {
        let (before, after) = grow_ublk_device(self.id, ANSWER_MAX)?;
        match json {
            true => print_json(&json!({ "id": self.id, "before_bytes": before, "size_bytes": after }))?,
            false => {
                let verb = if before == after { "still has" } else { "has" };
                print(&format!("/dev/ublkb{}: {verb} {}\n", self.id, BinaryBytes(after)))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
