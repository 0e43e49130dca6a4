//! Scripts in one guest.

use std::io::Write;
use std::time::Instant;

use super::script::Script;
use super::verdict::{failure, judge};
use crate::guest::Setup;
use crate::tally::Tally;

/// What runs the scripts, in the guest.
const RUNNER: &str = "/lib/all.sh";
/// What a long form may take of a short one's time.
const TIMES_LONGER: u64 = 10;

/// Runs the scripts, all of which ask for one kernel, and shows what they print as it comes.
pub(super) fn run(scripts: &[Script], is_long: bool) -> Tally {
    let Some(setup) = together(scripts, is_long) else {
        return Tally::default();
    };
    let (mut stdout, mut text) = (std::io::stdout().lock(), Vec::new());
    let started = Instant::now();
    let outcome = setup.run(&command(scripts, is_long), &mut |bytes| {
        let _ = stdout.write_all(bytes).and_then(|()| stdout.flush());
        text.extend_from_slice(bytes);
    });
    drop(stdout);
    println!("\nthe guest took {:.0} s", started.elapsed().as_secs_f64());
    let names: Vec<_> = scripts.iter().map(|script| script.name.as_str()).collect();
    match outcome {
        Ok(outcome) => judge(&names, &String::from_utf8_lossy(&text), &outcome),
        Err(error) => failure(&names.join(", "), &error.to_string()),
    }
}

/// What all of them need.
fn together(scripts: &[Script], is_long: bool) -> Option<Setup> {
    let setups = || scripts.iter().map(|script| &script.setup);
    Some(Setup {
        kernel: setups().next()?.kernel,
        memory: setups().map(|setup| setup.memory).max()?,
        cpus: setups().map(|setup| setup.cpus).max()?,
        program: union(setups().map(|setup| &setup.program)),
        file: union(setups().map(|setup| &setup.file)),
        module: union(setups().map(|setup| &setup.module)),
        timeout: scripts.iter().map(|script| seconds(script, is_long)).sum(),
        ..Setup::default()
    })
}

/// Each word once, in the order in which they come.
fn union<'a>(lists: impl Iterator<Item = &'a Vec<String>>) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for word in lists.flatten() {
        if !all.contains(word) {
            all.push(word.clone());
        }
    }
    all
}

/// The runner takes a script's name and its seconds for each.
fn command(scripts: &[Script], is_long: bool) -> Vec<String> {
    let form = if is_long { "soak" } else { "" };
    let mut command = ["sh", RUNNER, form].map(str::to_owned).to_vec();
    for script in scripts {
        command.extend([script.name.clone(), seconds(script, is_long).to_string()]);
    }
    command
}

/// How long it may take.
fn seconds(script: &Script, is_long: bool) -> u64 {
    script.setup.timeout * if is_long { TIMES_LONGER } else { 1 }
}
