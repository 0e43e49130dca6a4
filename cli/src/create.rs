//! `iomgr create`: a new, empty image.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use crate::args::Format;
use crate::failure::Failure;
use crate::output::{note, print, print_json};
use crate::size;

const EXAMPLES: &str = "\
Examples:
  iomgr create disk.vhd --size 100G              dynamic VHD: takes space as it is written
  iomgr create disk.vhd --size 20G --fixed       fixed VHD
  iomgr create disk.img --size 1536M             raw
  iomgr create disk --size 1G --format vhd       where the extension tells no format";

/// Make a new image, all zeros
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Create {
    /// The file to make; its extension tells the format
    path: PathBuf,
    /// Size of the disk: 1G, 512M, 10GiB or bytes; a multiple of 512, and 1K is 1024
    #[arg(long, value_parser = size::parse)]
    size: u64,
    /// The format, where the extension does not tell it
    #[arg(long)]
    format: Option<Format>,
    /// VHD: all space in the file from the start, instead of a block at a time
    #[arg(long)]
    fixed: bool,
    /// VHD: bytes of a block, a power of two; other tools are tested with 2M and 512K only
    #[arg(long, value_name = "SIZE", value_parser = size::parse_u32, conflicts_with = "fixed")]
    block_size: Option<u32>,
    /// Replace the file if it exists
    #[arg(long)]
    force: bool,
}

impl Create {
    pub(crate) fn run(&self, json: bool) -> Result<ExitCode, Failure> {
        let size_bytes = vbd::create(&self.path, &self.options()).map_err(Failure::to_make)?;
        if size_bytes > self.size {
            note(&format!("{}: the disk is as large as the device", self.path.display()));
        }
        if json {
            let path = self.path.to_string_lossy();
            print_json(&json!({ "path": path, "format": self.format_name()?, "size_bytes": size_bytes }))?;
        } else {
            print(&format!(
                "{}: {}, {}\n",
                self.path.display(),
                self.format_name()?,
                size::both(size_bytes)
            ))?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn options(&self) -> vbd::CreateOptions {
        vbd::CreateOptions {
            format: self.format.map(Into::into),
            fixed: self.fixed,
            force: self.force,
            block_bytes: self.block_size,
            ..vbd::CreateOptions::new(self.size)
        }
    }

    fn format_name(&self) -> Result<&'static str, Failure> {
        Ok(match vbd::Format::resolve(self.format.map(Into::into), &self.path)? {
            vbd::Format::Raw => "raw",
            vbd::Format::Vhd if self.fixed => "vhd-fixed",
            vbd::Format::Vhd => "vhd-dynamic",
        })
    }
}
