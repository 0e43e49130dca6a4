//! `iomgr compare`: do two images hold the same disk?

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;
use vbd::{CompareOptions, Comparison, Difference};

use crate::args::Format;
use crate::failure::Failure;
use crate::output::{note, print, print_json};
use crate::size;
use crate::watch::Watch;

const EXAMPLES: &str = "\
Examples:
  iomgr compare disk.img disk.vhd                 do they hold the same bytes?
  iomgr compare --strict a.img b.img              of the same size, too
  iomgr compare --format-b raw a.vhd /dev/loop0   an image and a device

A disk that is shorter counts as followed by zeros, unless --strict is given.
Exit codes: 0 the same, 1 different, 2 wrong usage, 3 could not be compared.";

const EXIT_DIFFERENT: u8 = 1;
const EXIT_NOT_COMPARED: u8 = 3;

/// Compare the disks in two images, whatever their formats
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Compare {
    /// An image
    a: PathBuf,
    /// Another
    b: PathBuf,
    /// The first one's format, where its extension does not tell it
    #[arg(long, value_name = "FORMAT")]
    format_a: Option<Format>,
    /// The second one's format, where its extension does not tell it
    #[arg(long, value_name = "FORMAT")]
    format_b: Option<Format>,
    /// Disks of different sizes differ, even where the rest is zeros
    #[arg(long)]
    strict: bool,
}

impl Compare {
    pub(crate) fn run(&self, json: bool) -> Result<ExitCode, Failure> {
        let comparison = self
            .compare(json)
            .map_err(|failure| failure.or_exit(EXIT_NOT_COMPARED))?;
        if json {
            print_json(&self.answer(&comparison))?;
        } else {
            self.tell(&comparison)?;
        }
        Ok(match comparison.difference {
            None => ExitCode::SUCCESS,
            Some(_) => EXIT_DIFFERENT.into(),
        })
    }

    fn compare(&self, json: bool) -> Result<Comparison, Failure> {
        let watch = Watch::start("abandoned", json)?;
        let options = CompareOptions {
            formats: [self.format_a, self.format_b].map(|format| format.map(Into::into)),
            strict: self.strict,
        };
        let compared = vbd::compare([&self.a, &self.b], &options, &mut |progress| watch.tell(progress));
        let interrupted = watch.end();
        compared.map_err(|error| match interrupted {
            Some(code) => Failure::interrupted(code).hint("nothing is known yet"),
            None => Failure::from(error)
                .option_of(&self.a, "--format", "--format-a")
                // Not what has become --format-a.
                .option_of(&self.b, "--format ", "--format-b "),
        })
    }

    fn answer(&self, comparison: &Comparison) -> serde_json::Value {
        json!({
            "a": self.a.to_string_lossy(),
            "b": self.b.to_string_lossy(),
            "identical": comparison.difference.is_none(),
            "difference": comparison.difference,
            "size_bytes": comparison.size_bytes,
            "read_bytes": comparison.read_bytes,
        })
    }

    fn tell(&self, comparison: &Comparison) -> Result<(), Failure> {
        let [a, b] = comparison.size_bytes;
        let sizes = format!("{} and {}", size::both(a), size::both(b));
        let verdict = match comparison.difference {
            None => "the disks are identical".to_owned(),
            Some(Difference::Size) => format!("the disks differ in size: {sizes}"),
            Some(Difference::Content { offset, sector }) => {
                format!("the disks differ, first at byte {offset} (sector {sector})")
            }
        };
        if a != b && comparison.difference != Some(Difference::Size) {
            note(&format!(
                "the disks differ in size ({sizes}); the shorter one counts as followed by zeros"
            ));
        }
        print(&format!("{verdict}\n"))
    }
}
