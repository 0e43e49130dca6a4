//! `cargo xtask test --ublk`: the scripts in `tests/guest`, each in a guest of its own.
//!
//! A script prints a line for each of its tests: `ok NAME`, `not ok NAME`, or `ok NAME # SKIP reason`. Its first comment
//! lines say what it needs:
//!
//! ```text
//! # needs: fio mkfs.ext4      programs of this machine; the product is always there
//! # helpers: shadow            programs of the package `iomgr-tests`
//! # modules: ublk_drv, loop   instead of ublk_drv alone; parameters may follow a name
//! # memory: 1536              MiB, instead of 512
//! # timeout: 900              seconds, instead of 600
//! # kernel: 7                 instead of 6
//! ```
//!
//! With `IOMGR_SOAK` set, the script's first argument is `soak`: it takes its long form.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::ValueEnum;

use super::emulator::Emulator;
use super::kernel::{Kernel, Series};
use super::programs::Program;
use super::{Outcome, Setup, missing};
use crate::tally::{Skip, Tally};
use crate::{Result, cmd, test};

/// Functions for the scripts: a folder beside them, and in the guest.
const LIBRARY: &str = "lib";

/// Against scripts that hang, also on a machine with ten times as much to do as it can.
const TIMEOUT_SECONDS: u64 = 600;

/// Where the guest has the script.
const SCRIPT: &str = "/test.sh";

/// Runs the scripts of whose names, `guest::NAME`, one of the filters is a part; without filters, all.
pub(crate) fn run(product: &str, filters: &[String]) -> Result<Tally> {
    let folder = cmd::root().join("tests/guest");
    let mut tally = Tally::default();
    for file in scripts(&folder)? {
        let name = format!("guest::{}", file.file_stem().unwrap_or_default().to_string_lossy());
        if filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str())) {
            println!("\n== {name}");
            tally.add(script(&name, &file, product));
        }
    }
    Ok(tally)
}

/// The scripts in a folder, by name.
fn scripts(folder: &Path) -> Result<Vec<PathBuf>> {
    let files = fs::read_dir(folder)?.map(|entry| Ok(entry?.path()));
    let mut files = files.collect::<std::io::Result<Vec<_>>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "sh"));
    files.sort();
    Ok(files)
}

/// Runs one script, or says why it cannot be run here; what is wrong with the script itself is a failure.
fn script(name: &str, file: &Path, product: &str) -> Tally {
    match setup(file, product) {
        Err(error) => failure(name, &error.to_string()),
        Ok(setup) => match lacking(&setup) {
            Some(reason) => skipped(name, reason),
            None => boot(name, &setup),
        },
    }
}

/// The guest that a script asks for.
fn setup(file: &Path, product: &str) -> Result<Setup> {
    let mut setup = Setup {
        timeout: TIMEOUT_SECONDS,
        ..Setup::default()
    };
    let text = fs::read_to_string(file)?;
    header(&mut setup, &text)?;
    for helper in values(&text, "helpers") {
        setup.program.push(test::binary("iomgr-tests", helper)?);
    }
    setup.program.push(format!("{product}:iomgr"));
    for part in scripts(&file.with_file_name(LIBRARY))? {
        let name = part.file_name().unwrap_or_default().to_string_lossy();
        setup.file.push(format!("{}:/{LIBRARY}/{name}", part.display()));
    }
    setup.file.push(format!("{}:{SCRIPT}", file.display()));
    Ok(setup)
}

/// Reads the `# key: value` lines before the first other line.
fn header(setup: &mut Setup, text: &str) -> Result {
    for (key, value) in keys(text) {
        match key {
            "needs" => setup.program = value.split_whitespace().map(str::to_owned).collect(),
            "modules" => setup.module = value.split(',').map(|module| module.trim().to_owned()).collect(),
            "memory" => setup.memory = value.parse()?,
            "timeout" => setup.timeout = value.parse()?,
            "cpus" => setup.cpus = value.parse()?,
            "kernel" => setup.kernel = Series::from_str(value, false)?,
            _ => {}
        }
    }
    Ok(())
}

/// The words of a key.
fn values<'a>(text: &'a str, wanted: &str) -> impl Iterator<Item = &'a str> {
    keys(text)
        .filter(move |(key, _)| *key == wanted)
        .flat_map(|(_, value)| value.split_whitespace())
}

fn keys(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let comments = text.lines().map_while(|line| line.strip_prefix('#'));
    comments.filter_map(|line| line.trim().split_once(": "))
}

/// What this machine would need for it.
fn lacking(setup: &Setup) -> Option<String> {
    let programs = setup.program.iter().find_map(|program| Program::parse(program).err());
    let kernel = || Kernel::provide(setup.kernel, &super::folder(), false).err();
    missing()
        .map(|program| format!("not installed: {program}"))
        .or_else(|| programs.map(|error| error.to_string()))
        .or_else(|| Emulator::provide(&super::folder()).err().map(|error| error.to_string()))
        .or_else(|| kernel().map(|error| error.to_string()))
}

/// Runs the script and shows what it prints as it comes.
fn boot(name: &str, setup: &Setup) -> Tally {
    let (mut stdout, mut text) = (std::io::stdout().lock(), Vec::new());
    let mut command = vec!["sh".to_owned(), SCRIPT.to_owned()];
    command.extend(std::env::var_os("IOMGR_SOAK").map(|_| "soak".to_owned()));
    let outcome = setup.run(&command, &mut |bytes| {
        let _ = stdout.write_all(bytes).and_then(|()| stdout.flush());
        text.extend_from_slice(bytes);
    });
    drop(stdout);
    match outcome {
        Ok(outcome) => judge(name, &String::from_utf8_lossy(&text), &outcome),
        Err(error) => failure(name, &error.to_string()),
    }
}

/// Counts the script's lines; one that ended otherwise than they say has failed as well.
fn judge(name: &str, text: &str, outcome: &Outcome) -> Tally {
    let mut tally = Tally::default();
    for line in text.lines().map(str::trim_end) {
        if let Some(test) = line.strip_prefix("ok ") {
            tally.ended_well += 1;
            if let Some((test, reason)) = test.split_once(" # SKIP ") {
                tally.skips.insert(skip(&format!("{name} {test}"), reason));
            }
        } else if line.starts_with("not ok ") {
            tally.failed += 1;
        }
    }
    let expected = Outcome::Exit(u8::from(tally.failed > 0));
    if *outcome != expected {
        tally.add(failure(name, &format!("ended by {outcome:?}, not by {expected:?}")));
    } else if tally == Tally::default() {
        tally.add(failure(name, "tested nothing"));
    }
    tally
}

fn failure(name: &str, reason: &str) -> Tally {
    println!("not ok {name}: {reason}");
    Tally {
        failed: 1,
        ..Tally::default()
    }
}

fn skipped(name: &str, reason: String) -> Tally {
    println!("skipped: {reason}");
    Tally {
        ended_well: 1,
        skips: [skip(name, &reason)].into(),
        ..Tally::default()
    }
}

fn skip(test: &str, reason: &str) -> Skip {
    Skip {
        test: test.to_owned(),
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_says_what_it_needs_in_its_first_lines() {
        let mut setup = Setup::default();
        let text = "# A test: of things.\n# needs: fio mkfs.ext4\n# modules: ublk_drv, null_blk nr_devices=1\n\
                    # memory: 1536\n# kernel: 7\n\n# memory: 1\n";
        header(&mut setup, text).unwrap();
        assert_eq!(setup.program, ["fio", "mkfs.ext4"]);
        assert_eq!(setup.module, ["ublk_drv", "null_blk nr_devices=1"]);
        assert_eq!((setup.memory, setup.kernel), (1536, Series::Seven));
        assert!(header(&mut setup, "# memory: much\n").is_err());
        let helpers: Vec<_> = values("# helpers: shadow other\n# needs: fio\n", "helpers").collect();
        assert_eq!(helpers, ["shadow", "other"]);
    }

    #[test]
    fn lines_are_counted_and_the_end_must_agree_with_them() {
        let sum = |text, outcome| judge("guest::x", text, &outcome).to_string();
        let lines = "ok a\nok b # SKIP no such thing\n  why\nok then c\r\n";
        assert_eq!(sum(lines, Outcome::Exit(0)), "2 passed, 0 failed, 1 skipped");
        assert_eq!(
            sum("ok a\nnot ok b\n", Outcome::Exit(1)),
            "1 passed, 1 failed, 0 skipped"
        );
        assert_eq!(sum("ok a\n", Outcome::Exit(1)), "1 passed, 1 failed, 0 skipped");
        assert_eq!(sum("ok a\n", Outcome::OutOfTime), "1 passed, 1 failed, 0 skipped");
        assert_eq!(sum("", Outcome::Exit(0)), "0 passed, 1 failed, 0 skipped");
    }

    #[test]
    fn every_script_can_be_read() {
        let folder = cmd::root().join("tests/guest");
        let scripts = scripts(&folder).unwrap();
        assert!(!scripts.is_empty());
        for script in scripts {
            setup(&script, "iomgr").unwrap();
        }
    }
}
