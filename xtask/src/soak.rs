//! `cargo xtask soak`: the long forms of the system tests, the guest's scripts and the simulations, once per issue, summed up.

use std::time::{Duration, Instant};

use clap::Args as ClapArgs;

use crate::Result;
use crate::runner::{self, Selection};
use crate::tally::Tally;
use crate::{fuzz, guest, test, tools};

/// How long.
#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Start no further round of tests after this many minutes
    #[arg(long, default_value_t = 80)]
    minutes: u64,
}

/// What is run, in this order: the fixed long forms once, then rounds of the seeded ones with new seeds.
const ONCE: &[&str] = &["crash::", "full::", "loop_::", "nbd::", "hooks"];
const ROUNDS: &[&str] = &["sim::"];

/// Crates, and which of their tests have a long form: random ops of `tqueue` against the model (a million on each engine), and ten
/// million that allocate nothing; ten million events for each policy; of `dmio` five million calls for each invariant, and fifty
/// thousand histories of whole clients.
const CRATES: &[(&[&str], &[&str])] = &[
    (
        &["tqueue", "--tests"],
        &["real::", "faults::the_simulator", "nothing_allocates"],
    ),
    (&["iomgr-core", "--test", "policies"], &[]),
    (
        &["iomgr-dmio", "--test", "machine", "--test", "sim", "--test", "no_alloc"],
        &[],
    ),
];

/// How long each fuzz target runs.
const FUZZ_SECS: u64 = 60;

/// Runs with `IOMGR_SOAK=1`, by which tests choose their long form.
pub(crate) fn run(args: &Args) -> Result {
    let started = Instant::now();
    let end = Duration::from_secs(args.minutes * 60);
    tools::provide(true)?;
    let product = test::build()?;
    let mut soak = Soak {
        product,
        sum: Tally::default(),
        parts: Vec::new(),
    };
    soak.fuzz();
    for &(package, filters) in CRATES {
        soak.of_crate(package, filters)?;
    }
    for &module in ONCE {
        soak.part(module, module, 0)?;
    }
    soak.guest()?;
    let mut seed = 1;
    while started.elapsed() < end && soak.parts.last().is_some_and(Part::may_repeat) {
        for &module in ROUNDS {
            soak.part(&format!("{module} seed {seed}"), module, seed)?;
        }
        seed += 1;
    }
    soak.summary(started.elapsed())
}

#[derive(Debug)]
struct Soak {
    product: String,
    sum: Tally,
    parts: Vec<Part>,
}

#[derive(Debug)]
struct Part {
    name: String,
    tally: Tally,
    took: Duration,
    ok: bool,
}

impl Part {
    /// A round that failed, or had nothing to run, is not followed by another.
    fn may_repeat(&self) -> bool {
        self.ok && self.tally.ended_well > 0
    }
}

impl Soak {
    fn part(&mut self, name: &str, module: &str, seed: u64) -> Result {
        let selection = Selection::system(vec![module.to_owned()]);
        let selection = selection.env("IOMGR_BIN", &self.product);
        self.run(name, selection.env("IOMGR_SIM_SEED", seed.to_string()))
    }

    fn of_crate(&mut self, package: &[&str], filters: &[&str]) -> Result {
        let filters = filters.iter().map(|&filter| filter.to_owned()).collect();
        self.run(package[0], Selection::of(&[&["--package"], package].concat(), filters))
    }

    fn guest(&mut self) -> Result {
        let started = Instant::now();
        let tally = guest::soak(&self.product)?;
        self.sum.add(tally.clone());
        self.parts.push(Part {
            name: "guest".to_owned(),
            ok: tally.failed == 0,
            tally,
            took: started.elapsed(),
        });
        Ok(())
    }

    fn run(&mut self, name: &str, selection: Selection) -> Result {
        let started = Instant::now();
        let ended = runner::run(&selection.long().env("IOMGR_SOAK", "1"))?;
        self.sum.add(ended.tally.clone());
        self.parts.push(Part {
            name: name.to_owned(),
            tally: ended.tally,
            took: started.elapsed(),
            ok: ended.ok,
        });
        Ok(())
    }

    fn fuzz(&mut self) {
        let started = Instant::now();
        let tally = fuzz::each(None, FUZZ_SECS);
        self.sum.add(tally.clone());
        self.parts.push(Part {
            name: "fuzz".to_owned(),
            ok: tally.failed == 0,
            tally,
            took: started.elapsed(),
        });
    }

    fn summary(self, took: Duration) -> Result {
        println!("\nsoak: {} min", took.as_secs() / 60);
        for part in &self.parts {
            let verdict = if part.ok { "ok" } else { "FAILED" };
            println!(
                "  {verdict:<7} {:<28} {:>5} s  {}",
                part.name,
                part.took.as_secs(),
                part.tally
            );
        }
        self.sum.print();
        if self.parts.iter().all(|part| part.ok) {
            Ok(())
        } else {
            Err("the soak found failures".into())
        }
    }
}
