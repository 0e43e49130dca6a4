//! `iomgr info`: what an image is.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

use clap::Args;
use indicatif::BinaryBytes;
use vbd::ImageInfo;
use vbd::vhd::State;

use crate::args::Format;
use crate::failure::Failure;
use crate::output::{print, print_json, table};
use crate::size;

const EXAMPLES: &str = "\
Examples:
  iomgr info disk.vhd                       for people
  iomgr info disk.vhd --json                for programs
  iomgr info backup.0 --format vhd          where the extension tells no format";

/// Show what an image is: format, sizes, and a VHD's own words
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Info {
    /// The image
    image: PathBuf,
    /// The format, where the extension does not tell it
    #[arg(long)]
    format: Option<Format>,
}

impl Info {
    pub(crate) fn run(&self, json: bool) -> Result<ExitCode, Failure> {
        let info = vbd::info(&self.image, self.format.map(Into::into))?;
        if json {
            print_json(&info)?
        } else {
            print(&describe(&info))?
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn describe(info: &ImageInfo) -> String {
    let mut rows = vec![
        row("image:", info.path.display().to_string()),
        row("format:", format_name(info)),
        row("size:", size::both(info.size_bytes)),
        row("file:", size::both(info.file_bytes)),
    ];
    rows.extend(info.allocated_bytes.map(|bytes| row("allocated:", size::both(bytes))));
    rows.extend(info.vhd.iter().flat_map(vhd_rows));
    rows.extend(info.warnings.iter().map(|warning| row("warning:", warning.to_string())));
    table(&rows)
}

fn format_name(info: &ImageInfo) -> String {
    info.vhd.as_ref().map_or_else(
        || info.format.clone(),
        |vhd| format!("{}, {}", info.format, vhd.disk_type),
    )
}

fn vhd_rows(vhd: &vbd::vhd::Info) -> Vec<[String; 2]> {
    let created = UNIX_EPOCH + Duration::from_secs(vhd.created_unix);
    let (cylinders, heads, sectors) = vhd.geometry;
    let mut rows: Vec<_> = blocks(vhd).map(|blocks| row("blocks:", blocks)).into_iter().collect();
    rows.extend([
        row("creator:", vhd.creator.clone()),
        row("created:", humantime::format_rfc3339_seconds(created).to_string()),
        row("identity:", vhd.unique_id.clone()),
        row(
            "geometry:",
            format!("{cylinders} cylinders, {heads} heads, {sectors} sectors (it tells no size)"),
        ),
        row("state:", state(vhd)),
    ]);
    rows
}

/// `3 of 512 allocated, 2.00 MiB each, aligned to 4096`; nothing for a fixed image.
fn blocks(vhd: &vbd::vhd::Info) -> Option<String> {
    let (bytes, allocated, all) = (vhd.block_bytes?, vhd.allocated_blocks?, vhd.blocks?);
    let aligned = if vhd.aligned? {
        "aligned to 4096"
    } else {
        "not aligned to 4096"
    };
    Some(format!(
        "{allocated} of {all} allocated, {} each, {aligned}",
        BinaryBytes(bytes)
    ))
}

fn state(vhd: &vbd::vhd::Info) -> String {
    let footer = match vhd.state {
        State::Clean => "clean",
        State::FooterFromCopy => "the footer at the end is lost: to be repaired before it is written",
        State::BadEntries => {
            "corrupt: blocks lie where they cannot, and it can only be read; `iomgr check` names all that is wrong"
        }
    };
    let marks = [
        (vhd.saved_state, "of a suspended machine"),
        (vhd.hidden, "hidden: the inner node of a chain"),
    ];
    let marks = marks.iter().filter(|(is, _)| *is).map(|&(_, mark)| mark);
    std::iter::once(footer).chain(marks).collect::<Vec<_>>().join(", ")
}

fn row(name: &str, value: String) -> [String; 2] {
    [name.to_owned(), value]
}
