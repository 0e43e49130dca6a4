//! `cargo xtask test`: builds the product once, sees to the tools, runs the groups, sums up.

use clap::Args as ClapArgs;

use crate::Result;
use crate::cmd;
use crate::guest;
use crate::runner::{self, Ended, Selection};
use crate::tally::Tally;
use crate::tools;

/// Which tests, and whether missing tools may be installed.
#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) groups: Groups,
    /// Never install missing tools; say the command that would
    #[arg(long)]
    pub(crate) no_install: bool,
    /// Only tests whose path contains one of these
    #[arg(last = true)]
    pub(crate) filters: Vec<String>,
}

/// The groups; none chosen means all.
#[derive(Debug, Default, Clone, Copy, ClapArgs)]
#[expect(clippy::struct_excessive_bools, reason = "one switch per group of tests")]
pub(crate) struct Groups {
    /// Each crate's own tests: unit, property, simulation, documentation examples
    #[arg(long)]
    unit: bool,
    /// Power cuts of the whole stack in the simulator
    #[arg(long)]
    sim: bool,
    /// Servers on loop devices, file systems on top
    #[arg(long = "loop")]
    loop_: bool,
    /// Real NBD clients: nbdcopy, qemu-io, fio
    #[arg(long)]
    nbd: bool,
    /// Several disks, commands that are run, service managers, TCP
    #[arg(long)]
    serve: bool,
    /// The binary's verbs, exit codes and texts, images by other tools
    #[arg(long)]
    cli: bool,
    /// Converting, comparing and mapping, against QEMU's tools
    #[arg(long)]
    tools: bool,
    /// Servers killed in the middle of writes, locks
    #[arg(long)]
    crash: bool,
    /// Full disks, failing flushes
    #[arg(long)]
    full: bool,
    /// Merged ops that fail in part, stalled and failing devices below the queue
    #[arg(long)]
    queue: bool,
    /// I/O to regions of devices that stop to answer: timeouts, cancelling, late answers
    #[arg(long)]
    regions: bool,
    /// Manager hooks under load, allocations on the data path
    #[arg(long)]
    hooks: bool,
    /// Policies with real clients: rates, shares, swaps
    #[arg(long)]
    managers: bool,
    /// The control socket's verbs while clients work
    #[arg(long)]
    control: bool,
    /// Scripts in a guest whose kernel has ublk
    #[arg(long)]
    ublk: bool,
}

impl Groups {
    /// The chosen modules of the system tests.
    fn system(self) -> Vec<&'static str> {
        let table = [
            (self.sim, "sim::"),
            (self.loop_, "loop_::"),
            (self.nbd, "nbd::"),
            (self.serve, "serve::"),
            (self.cli, "cli::"),
            (self.tools, "tools::"),
            (self.crash, "crash::"),
            (self.full, "full::"),
            (self.queue, "queue::"),
            (self.regions, "regions::"),
            (self.hooks, "hooks"),
            (self.managers, "managers::"),
            (self.control, "control::"),
        ];
        table
            .into_iter()
            .filter_map(|(chosen, module)| chosen.then_some(module))
            .collect()
    }

    /// Whether the guest's scripts are chosen: by their switch, or with everything.
    fn guest(self) -> bool {
        self.ublk || !self.unit && self.system().is_empty()
    }

    /// What the runner shall run, in none to two runs.
    fn selections(self, filters: &[String]) -> Vec<Selection> {
        let system = self.system();
        match (self.unit, system.is_empty()) {
            (false, true) if self.ublk => Vec::new(),
            (false, true) => vec![Selection::all(filters.to_vec())],
            (true, true) => vec![Selection::units(filters.to_vec())],
            (false, false) => vec![Selection::system(narrowed(&system, filters))],
            (true, false) => {
                vec![
                    Selection::units(filters.to_vec()),
                    Selection::system(narrowed(&system, filters)),
                ]
            }
        }
    }
}

/// A runner's filters are alternatives, so a group and a name are joined into one: `nbd::` + `fio` finds `nbd::nbd_fio…`
/// when the name starts so; a filter that names its group itself is kept as it is.
fn narrowed(groups: &[&str], filters: &[String]) -> Vec<String> {
    if filters.is_empty() {
        return groups.iter().map(|&group| group.to_owned()).collect();
    }
    let join = |group: &&str, filter: &String| {
        let named = filter.starts_with(group);
        if named {
            filter.clone()
        } else {
            format!("{group}{filter}")
        }
    };
    groups
        .iter()
        .flat_map(|group| filters.iter().map(move |filter| join(group, filter)))
        .collect()
}

/// Runs the chosen tests and prints the sum; fails when a test did, or when CI had to skip one it must not skip.
pub(crate) fn run(args: &Args) -> Result {
    let mut tally = Tally::default();
    let ended = tests(args, &mut tally);
    tally.print();
    ended?;
    refuse_skips(&tally, std::env::var("CI").is_ok_and(|ci| ci == "true"))
}

/// Runs the chosen tests and adds them to the sum.
fn tests(args: &Args, tally: &mut Tally) -> Result {
    tools::provide(!args.no_install)?;
    let product = build()?;
    let mut ok = true;
    for selection in args.groups.selections(&args.filters) {
        let selection = selection.env("IOMGR_BIN", &product);
        let runs = [Some(runner::run(&selection)?), examples(&selection)?];
        for Ended {
            tally: part,
            ok: part_ok,
        } in runs.into_iter().flatten()
        {
            tally.add(part);
            ok &= part_ok;
        }
    }
    if args.groups.guest() {
        let part = guest::test(&product, &args.filters)?;
        ok &= part.failed == 0;
        tally.add(part);
    }
    if ok { Ok(()) } else { Err("tests failed".into()) }
}

/// The documentation's examples belong to a run of whole crates, not to a chosen name or to the system tests.
fn examples(selection: &Selection) -> Result<Option<Ended>> {
    let whole = selection.filters.is_empty() && selection.packages.iter().any(|word| word == "--workspace");
    if whole { runner::doctests(selection) } else { Ok(None) }
}

/// Builds the product as users run it and returns its path; one that `IOMGR_BIN` names is taken as it is.
pub(crate) fn build() -> Result<String> {
    if let Ok(product) = std::env::var("IOMGR_BIN") {
        println!("testing {product}");
        return Ok(product);
    }
    binary("iomgr", "iomgr")
}

/// Builds a package's binary as users run it and returns its path.
pub(crate) fn binary(package: &str, name: &str) -> Result<String> {
    let build = ["build", "--release", "--package", package, "--bin", name];
    cmd::run(cmd::cargo().args(build))?;
    let messages = cmd::capture(cmd::cargo().args(build).args(["--quiet", "--message-format", "json"]))?;
    executable(&messages, name).ok_or_else(|| format!("cargo did not say where it put {name}").into())
}

/// The path of a binary, from cargo's messages.
fn executable(messages: &str, name: &str) -> Option<String> {
    let message = |line: &str| serde_json::from_str::<serde_json::Value>(line).ok();
    let artifacts = messages.lines().filter_map(message);
    let mut binaries = artifacts.filter(|artifact| artifact["target"]["name"] == name);
    binaries.find_map(|artifact| artifact["executable"].as_str().map(str::to_owned))
}

/// With `CI=true` a skip that the tests require is a failure.
pub(crate) fn refuse_skips(tally: &Tally, ci: bool) -> Result {
    let refused = tally.skips.iter().filter(|skip| !skip.is_allowed()).count();
    if ci && refused > 0 {
        return Err(format!("CI must run every test, but {refused} skips are none of the allowed ones").into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tally::Skip;

    #[test]
    fn groups_choose_modules_and_names_narrow_them() {
        let groups = Groups {
            nbd: true,
            cli: true,
            ..Groups::default()
        };
        let selections = groups.selections(&["nbd_fio".to_owned()]);
        assert_eq!(selections.len(), 1);
        assert_eq!(selections[0].filters, ["nbd::nbd_fio", "cli::nbd_fio"]);
        assert_eq!(selections[0].packages, ["--package", "iomgr-tests", "--tests"]);
    }

    #[test]
    fn the_guest_is_a_group_of_its_own() {
        let ublk = Groups {
            ublk: true,
            ..Groups::default()
        };
        assert!(ublk.guest() && ublk.selections(&[]).is_empty());
        let nbd = Groups {
            nbd: true,
            ..Groups::default()
        };
        assert!(!nbd.guest());
    }

    #[test]
    fn no_group_means_all() {
        assert!(Groups::default().guest());
        let selections = Groups::default().selections(&[]);
        assert_eq!(selections.len(), 1);
        assert_eq!(selections[0].packages, ["--workspace"]);
    }

    #[test]
    fn ci_refuses_skips_except_of_the_shared_images() {
        let skip = |reason: &str| Skip {
            test: "t".into(),
            reason: reason.into(),
        };
        let tally = |reason| Tally {
            skips: [skip(reason)].into(),
            ..Tally::default()
        };
        assert!(refuse_skips(&tally("no fio"), true).is_err());
        assert!(refuse_skips(&tally("no fio"), false).is_ok());
        assert!(refuse_skips(&tally("../shared is not here"), true).is_ok());
    }

    #[test]
    fn the_binary_is_found_in_cargos_messages() {
        let messages = "{\"target\":{\"name\":\"vbd\"},\"executable\":null}\n\
                        {\"target\":{\"name\":\"iomgr\"},\"executable\":\"/t/iomgr\"}";
        assert_eq!(executable(messages, "iomgr").as_deref(), Some("/t/iomgr"));
    }
}
