//! `cargo xtask bench --icount`: instructions per op, tqueue's beside those of fio's io_uring engine.
//!
//! Both run in a guest whose clock counts instructions, those of the kernel included: a nanosecond is an instruction, and
//! a busy machine changes nothing. One processor, so the kernel's work for an op is in the figure whichever thread does it.
//! The device is a loop device: on tmpfs itself tqueue needs no ring, and null_blk's figures spread by five percent.
//!
//! # References
//!
//! ARCHITECTURE.md, "Measuring"; QEMU's `docs/devel/tcg-icount.rst`.

use std::io::Write;

use super::merging;
use super::rivals::{self, Load};
use crate::guest::{Outcome, Setup};
use crate::scratch::Scratch;
use crate::{Result, cmd};

const ROUNDS: u32 = 3;
/// Ops of one measurement.
const OPS: u32 = 30_000;

const fn random_read(depth: u32) -> Load {
    Load {
        pattern: "random-read",
        depth,
        ratio_max: 1.05,
        is_hard: false,
    }
}

/// Batches alone would do for twice an untuned fio's throughput; merging does it for the tuned one's.
const MERGING: Load = Load {
    is_hard: true,
    ..merging::LOAD
};

const LOADS: &[Load] = &[random_read(1), random_read(32), random_read(128), MERGING];

/// Makes the device, then runs the script that its arguments name.
const COMMAND: &str =
    "dd if=/dev/urandom of=/tmp/disk bs=1M count=64 2>/dev/null && losetup /dev/loop0 /tmp/disk && \"$@\"";

/// Builds the load, boots, prints the table; a ratio above its bound is an error.
pub(super) fn run() -> Result {
    let load = rivals::build()?;
    let scratch = Scratch::new(&cmd::target().join("bench"), "icount-")?;
    let setup = Setup {
        program: vec!["fio".to_owned(), load.display().to_string()],
        ..setup(&scratch, rivals::SCRIPT)?
    };
    let words = ["/dev/loop0".to_owned(), ROUNDS.to_string(), OPS.to_string()];
    let text = in_guest(&setup, words.into_iter().chain(rivals::words(LOADS)))?;
    rivals::judge(&text, LOADS, "instructions")
}

/// A guest whose clock counts instructions, for a script that finds a disk at `/dev/loop0`.
pub(super) fn setup(scratch: &Scratch, script: &str) -> Result<Setup> {
    let path = scratch.join("script.sh");
    std::fs::write(&path, script)?;
    Ok(Setup {
        memory: 1024,
        module: vec!["loop".to_owned()],
        file: vec![format!("{}:/script.sh", path.display())],
        icount: true,
        timeout: 1800,
        ..Setup::default()
    })
}

/// What the guest's script printed, run with these words.
pub(super) fn in_guest(setup: &Setup, words: impl IntoIterator<Item = String>) -> Result<String> {
    let command = ["sh", "-ec", COMMAND, "sh", "sh", "/script.sh"].map(str::to_owned);
    let command: Vec<_> = command.into_iter().chain(words).collect();
    let (mut stdout, mut text) = (std::io::stdout(), Vec::new());
    let outcome = setup.run(&command, &mut |bytes| {
        let _ = stdout.write_all(bytes).and_then(|()| stdout.flush());
        text.extend_from_slice(bytes);
    })?;
    match outcome {
        Outcome::Exit(0) => Ok(String::from_utf8_lossy(&text).into_owned()),
        outcome => Err(format!("the guest ended by {outcome:?}").into()),
    }
}
