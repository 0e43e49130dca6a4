//! `--iops`, `--iops-max`, `--iops-max-length`, and the same for reads, for writes, and for bytes: eighteen options, made from
//! a table.

use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};
use serde_json::{Value, json};

use super::patch::{Bound, object};
use super::set::millis;
use crate::size;

/// The rates that are said, as a merge patch: a rate is said as a whole, so what is not said of its burst is none. Or why they
/// make no sense together.
#[derive(Debug)]
pub(super) struct Rates(pub(super) Result<Value, &'static str>);

/// A rate's field in JSON, its options, and what they are for.
struct Rate {
    field: &'static str,
    options: [&'static str; 3],
    help: &'static str,
}

macro_rules! rate {
    ($field:literal, $option:literal, $help:literal) => {
        Rate {
            field: $field,
            options: [$option, concat!($option, "-max"), concat!($option, "-max-length")],
            help: $help,
        }
    };
}

const RATES: [Rate; 6] = [
    rate!("iops", "iops", "Requests per second"),
    rate!("iops_read", "iops-read", "Reads per second"),
    rate!(
        "iops_write",
        "iops-write",
        "Writes, discards and write-zeroes per second"
    ),
    rate!("bps", "bps", "Bytes per second"),
    rate!("bps_read", "bps-read", "Bytes read per second"),
    rate!("bps_write", "bps-write", "Bytes written per second"),
];

impl Rate {
    fn is_of_bytes(&self) -> bool {
        self.field.starts_with("bps")
    }

    /// `--iops` and `--bps`, whose bursts have short forms.
    fn is_total(&self) -> bool {
        !self.field.contains('_')
    }

    fn arguments(&self) -> [Arg; 3] {
        let [average, max, length] = self.options;
        let unit = if self.is_of_bytes() { "SIZE" } else { "N" };
        let number = |name: &'static str| Arg::new(name).long(name).value_name(unit);
        let help = format!("{}; none for no bound", self.help);
        let burst = number(max).requires(average).help("During a burst");
        let length = Arg::new(length).long(length).value_name("TIME").value_parser(millis);
        [
            match self.is_of_bytes() {
                true => number(average).value_parser(bytes).help(help),
                false => number(average).value_parser(str::parse::<Bound<u64>>).help(help),
            },
            match self.is_of_bytes() {
                true => burst.value_parser(size::parse),
                false => burst.value_parser(str::parse::<u64>),
            },
            length.requires(max).help("How long a burst lasts; 1s if not said"),
        ]
    }

    /// Nothing, if it is not said.
    fn patch(&self, matches: &ArgMatches) -> Option<Value> {
        let [average, max, length] = self.options;
        let Bound(average) = *matches.get_one::<Bound<u64>>(average)?;
        let Some(average) = average else {
            return Some(Value::Null);
        };
        let short = |name| self.is_total().then_some(name);
        let max = matches.get_one(max).or_else(|| matches.get_one::<u64>(short("burst")?));
        let length = matches
            .get_one(length)
            .or_else(|| matches.get_one::<u32>(short("burst-length")?));
        Some(json!({ "average": average, "max": max, "max_length_ms": length }))
    }
}

impl Args for Rates {
    fn augment_args(command: Command) -> Command {
        let command = command.next_help_heading("Rates");
        let command = RATES
            .iter()
            .fold(command, |command, rate| command.args(rate.arguments()));
        command
            .arg(
                Arg::new("burst")
                    .long("burst")
                    .value_name("N")
                    .value_parser(size::parse)
                    .conflicts_with_all(["iops-max", "bps-max"])
                    .help("Short for --iops-max, or --bps-max"),
            )
            .arg(
                Arg::new("burst-length")
                    .long("burst-length")
                    .value_name("TIME")
                    .value_parser(millis)
                    .requires("burst")
                    .help("Short for --iops-max-length, or --bps-max-length"),
            )
            .arg(
                Arg::new("iops-size")
                    .long("iops-size")
                    .value_name("SIZE")
                    .value_parser(bytes)
                    .help("A longer request counts as several; none for one, whatever its length"),
            )
            .next_help_heading(None::<&str>)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Rates {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut rates = Self(Ok(Value::Null));
        rates.update_from_arg_matches(matches)?;
        Ok(rates)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0 = check_burst(matches).map(|()| patch(matches));
        Ok(())
    }
}

fn patch(matches: &ArgMatches) -> Value {
    let size = matches
        .get_one::<Bound<u64>>("iops-size")
        .map(|size| Value::from(*size));
    let rates = RATES.iter().map(|rate| (rate.field, rate.patch(matches)));
    object(rates.chain([("iops_size", size)]))
}

/// The short form must have one meaning.
fn check_burst(matches: &ArgMatches) -> Result<(), &'static str> {
    let is_said = |name: &str| matches.contains_id(name);
    match (is_said("burst"), is_said("iops"), is_said("bps")) {
        (true, true, true) => Err("--burst: is short for two with --iops and --bps; say --iops-max and --bps-max"),
        (true, false, false) => {
            Err("--burst: goes with --iops or --bps; of reads or writes, say --iops-read-max and so on")
        }
        _ => Ok(()),
    }
}

/// Bytes, or none.
fn bytes(text: &str) -> Result<Bound<u64>, &'static str> {
    match text {
        "none" => Ok(Bound(None)),
        _ => size::parse(text).map(|bytes| Bound(Some(bytes))),
    }
}
