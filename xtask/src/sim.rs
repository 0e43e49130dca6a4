//! `cargo xtask sim`: the power-cut simulation of the whole stack, from a seed.

use clap::Args as ClapArgs;

use crate::Result;
use crate::runner::{self, Selection};

/// Where to start and how far to go.
#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// The seed that a failing run printed
    #[arg(long)]
    seed: Option<u64>,
    /// How many cut points to try
    #[arg(long)]
    cuts: Option<u64>,
}

/// Runs the module `sim` of the system tests with the seed in `IOMGR_SIM_SEED` and the number in `IOMGR_SIM_CUTS`.
pub(crate) fn run(args: &Args) -> Result {
    let mut selection = Selection::system(vec!["sim::".into()]).long();
    for (name, value) in [("IOMGR_SIM_SEED", args.seed), ("IOMGR_SIM_CUTS", args.cuts)] {
        if let Some(value) = value {
            selection = selection.env(name, value.to_string());
        }
    }
    let ended = runner::run(&selection)?;
    ended.tally.print();
    match (ended.ok, ended.tally.ended_well + ended.tally.failed) {
        (_, 0) => Err("there is no simulation to run".into()),
        (true, _) => Ok(()),
        (false, _) => Err("the simulation failed; its output names the seed".into()),
    }
}
