//! `iomgr convert`: an image copied into another, zeros left out.

use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;
use vbd::{Copied, Means};

use crate::args::Format;
use crate::failure::Failure;
use crate::output::{print, print_json};
use crate::size;
use crate::watch::Watch;

const EXAMPLES: &str = "\
Examples:
  iomgr convert disk.img disk.vhd                raw to dynamic VHD
  iomgr convert disk.vhd disk.img                VHD to a sparse raw file
  iomgr convert --fixed --force a.vhd b.vhd      to a fixed VHD, over an older b.vhd
  iomgr convert --resume --verify a.vhd b.img    go on after an interruption, compare at the end
  iomgr convert /dev/vg/old disk.vhd             a block device into an image
  iomgr convert --force disk.vhd /dev/vg/new     and an image onto a block device

The target gets its name when it is complete; until then it is TARGET.iomgr-part.
Ctrl-C removes that, or with --resume keeps it, and the same command goes on with it.
A block device is written in place. Zeros and holes take no space.
Where the file system can share blocks, they are shared (reflink).";

/// Copy an image into a new one of another format
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Convert {
    /// The image to read
    source: PathBuf,
    /// The image to make
    target: PathBuf,
    /// The source's format, where its extension does not tell it
    #[arg(long, value_name = "FORMAT")]
    from: Option<Format>,
    /// The target's format, where its extension does not tell it
    #[arg(long, value_name = "FORMAT")]
    to: Option<Format>,
    /// VHD: make a fixed image instead of a dynamic one
    #[arg(long)]
    fixed: bool,
    /// Replace the target if it exists; a block device always does
    #[arg(long)]
    force: bool,
    /// Go on with what an interrupted run with --resume left; keep what there is when interrupted
    #[arg(long)]
    resume: bool,
    /// Read the copy from the disk again and compare it with the source before it gets its name
    #[arg(long)]
    verify: bool,
}

impl Convert {
    pub(crate) fn run(&self, json: bool) -> Result<ExitCode, Failure> {
        let watch = Watch::start("abandoned; what was copied is still there", json)?;
        let options = vbd::ConvertOptions {
            from: self.from.map(Into::into),
            to: self.to.map(Into::into),
            fixed: self.fixed,
            force: self.force,
            resume: self.resume,
            verify: self.verify,
        };
        let copied = vbd::convert(&self.source, &self.target, &options, &mut |progress| {
            watch.tell(progress)
        });
        let copied = match (copied, watch.end()) {
            (Ok(copied), _) => copied,
            (Err(error), Some(code)) if error.kind() == vbd::ErrorKind::Interrupted => {
                return Err(self.interrupted(code));
            }
            // It came while somebody else's lock was waited for.
            (Err(error), Some(code)) if error.kind() == vbd::ErrorKind::Locked => {
                return Err(Failure::interrupted(code));
            }
            (Err(error), _) => {
                return Err(Failure::from(error)
                    .option_of(&self.source, "--format", "--from")
                    .option_of(&self.target, "--format", "--to"));
            }
        };
        if json {
            print_json(&self.answer(copied))?;
        } else {
            print(&self.describe(copied))?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn interrupted(&self, code: u8) -> Failure {
        let is_device = std::fs::metadata(&self.target).is_ok_and(|target| target.file_type().is_block_device());
        let end = if is_device {
            "the device holds half a copy; convert again from the start"
        } else if self.resume {
            "the same command goes on with it"
        } else {
            "the unfinished target is removed"
        };
        Failure::interrupted(code).at(&self.target).hint(end)
    }

    fn answer(&self, copied: Copied) -> serde_json::Value {
        let mut answer = serde_json::to_value(copied).expect("plain data with text for keys");
        answer["source"] = json!(self.source.to_string_lossy());
        answer["target"] = json!(self.target.to_string_lossy());
        answer
    }

    fn describe(&self, copied: Copied) -> String {
        let (size, written) = (size::both(copied.size_bytes), size::both(copied.written_bytes));
        let mut text = format!("{}: {size}, of which {written} were not zero", self.target.display());
        if copied.resumed_at_bytes > 0 {
            text += &format!(" after the {} of an earlier run", size::both(copied.resumed_at_bytes));
        }
        let shared = size::both(copied.offloaded_bytes);
        match copied.means {
            Means::Reflink if copied.offloaded_bytes > 0 => text += &format!("; {shared} are shared with the source"),
            Means::ServerCopy if copied.offloaded_bytes > 0 => {
                text += &format!("; {shared} were copied by the file server")
            }
            _ => {}
        }
        if copied.verified {
            text += "; verified";
        }
        text + "\n"
    }
}
