//! The command line's frame: the verbs, what they all take, and the words that several of them share.

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

use crate::add::Add;
use crate::attach::{Attach, Detach};
use crate::check::Check;
use crate::compare::Compare;
use crate::completions::Completions;
use crate::convert::Convert;
use crate::create::Create;
use crate::del::Del;
use crate::dmio::Dmio;
use crate::doctor::Doctor;
use crate::features::Features;
use crate::info::Info;
use crate::list::List;
use crate::man::Man;
use crate::manager::Manager;
use crate::map::Map;
use crate::pause::{Pause, Resume};
use crate::recover::{Recover, Upgrade};
use crate::repair::Repair;
use crate::resize::Resize;
use crate::serve::Serve;
use crate::stats::Stats;
use crate::status::Status;
use crate::stop::Stop;

const EXAMPLES: &str = "\
Examples:
  iomgr serve --create 1G demo.vhd      make a 1 GiB disk and serve it over NBD
  iomgr status                          what is being served
  iomgr stop demo                       end it cleanly
  iomgr doctor                          what this machine offers

Every verb has examples in its own --help.
Exit codes: 0 well, 1 error, 2 wrong usage, 130, 143, 129 after SIGINT, SIGTERM, SIGHUP;
`check`: 2 corrupt, 3 leaked space only; `compare`: 1 different, 3 could not be compared;
`dmio`: 3 a region was late or given up.";

/// Serve disk images and block devices as virtual block devices, in user space.
#[derive(Debug, Parser)]
#[command(name = "iomgr", version, after_help = EXAMPLES, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// What every verb takes.
#[derive(Args, Debug)]
#[command(next_help_heading = "Common options")]
pub(crate) struct Common {
    /// Answer in JSON on stdout; an error is a line of JSON on stderr
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Log more to stderr: -v says what happens, -vv and -vvv say why. IOMGR_LOG (as RUST_LOG) overrides it
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
    /// How log lines look: text, unless the answer is JSON
    #[arg(long, global = true, value_name = "FORMAT")]
    pub(crate) log_format: Option<LogFormat>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    Create(Create),
    Info(Info),
    Check(Check),
    Repair(Repair),
    Convert(Convert),
    Compare(Compare),
    Map(Map),
    Dmio(Box<Dmio>),
    Serve(Box<Serve>),
    Add(Box<Add>),
    Del(Del),
    List(List),
    Recover(Recover),
    Upgrade(Upgrade),
    Resize(Resize),
    Features(Features),
    Attach(Box<Attach>),
    Detach(Detach),
    Pause(Pause),
    Resume(Resume),
    Manager(Manager),
    Stop(Stop),
    Status(Status),
    Stats(Stats),
    Doctor(Doctor),
    Completions(Completions),
    Man(Man),
}

/// The heading of what is for tests.
pub(crate) const FILTERS: &str = "Filters";

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// How the bytes of a file make a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Raw,
    Vhd,
}

impl From<Format> for vbd::Format {
    fn from(format: Format) -> Self {
        match format {
            Format::Raw => Self::Raw,
            Format::Vhd => Self::Vhd,
        }
    }
}

/// Does the host's page cache hold the image's bytes?
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Cache {
    None,
    Writeback,
}

impl From<Cache> for vbd::Cache {
    fn from(cache: Cache) -> Self {
        match cache {
            Cache::None => Self::None,
            Cache::Writeback => Self::Writeback,
        }
    }
}

/// A name becomes a file's name in the runtime folder.
pub(crate) fn disk_name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.starts_with('.') || text.contains('/') {
        return Err("is no name for a file: it must not be empty, begin with a dot or hold a slash".to_owned());
    }
    match vbd::check_disk_name(text) {
        Ok(()) => Ok(text.to_owned()),
        Err(error) => Err(error.parts().what.to_owned()),
    }
}
