//! `cargo xtask bench`: our server beside tapdisk, nbdkit and qemu-nbd, in one run on one machine.
//!
//! Hosts are noisy: the servers take turns, and what counts is the median over the rounds, of CPU time per I/O before
//! operations per second (one client is the limit above some hundred thousand). Images are on tmpfs.
//!
//! # References
//!
//! ARCHITECTURE.md, "Measuring".

mod callgrind;
mod daemon;
mod enters;
mod hooks;
mod icount;
mod load;
mod merging;
mod regions;
mod report;
mod rivals;
mod tapdisk;
mod turns;
mod ublk;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args as ClapArgs;

use crate::scratch::Scratch;
use crate::{Result, cmd, test};
use daemon::Daemon;
use load::{Load, Pattern};
use report::{Report, median};
use tapdisk::Tapdisk;
use turns::Turns;

/// How long and what.
#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Rounds; in each, every server is measured once
    #[arg(long, default_value_t = 7)]
    pairs: usize,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 4)]
    secs: u64,
    /// tapdisk, if it is not in PATH; its tap-ctl lies beside it
    #[arg(long, value_name = "PATH")]
    tapdisk: Option<PathBuf>,
    /// Put the table into README.md
    #[arg(long)]
    readme: bool,
    /// Also count our server's instructions per request by callgrind (slow)
    #[arg(long)]
    callgrind: bool,
    /// Only count instructions, kernel included, in a guest (some minutes): tqueue's per op beside fio's, and those that
    /// managers' hooks take
    #[arg(long, conflicts_with_all = ["callgrind", "readme", "tapdisk", "pairs", "secs", "merging"])]
    icount: bool,
    /// Only count the instructions that managers' hooks take, likewise
    #[arg(long, conflicts_with_all = ["callgrind", "readme", "tapdisk", "pairs", "secs", "merging", "icount"])]
    hooks: bool,
    /// Only count what requests take of ublk devices, likewise, beside rublk's and the kernel's loop devices (some minutes);
    /// with --readme the figures go there
    #[arg(long, conflicts_with_all = ["callgrind", "tapdisk", "pairs", "secs", "merging", "icount", "hooks"])]
    ublk: bool,
    /// Only count the instructions that dmio takes beside tqueue alone, likewise
    #[arg(long, conflicts_with_all = ["callgrind", "readme", "tapdisk", "pairs", "secs", "merging", "icount", "hooks", "ublk"])]
    regions: bool,
    /// Only time sequential writes through tqueue beside fio's
    #[arg(long, conflicts_with_all = ["callgrind", "readme", "tapdisk", "secs"])]
    merging: bool,
}

const MIB: u64 = 1 << 20;
/// Not packaged for most machines: its rows may be empty.
const TAPDISK: &str = "tapdisk, dynamic VHD";
const IMAGE_BYTES: u64 = 512 * MIB;

/// Measures and prints the table for the README.
pub(crate) fn run(args: &Args) -> Result {
    if args.icount {
        need(&["fio"])?;
        // Both say what they found.
        let (rivals, hooks) = (icount::run(), hooks::run());
        return rivals.and(hooks);
    }
    if args.hooks {
        return hooks::run();
    }
    if args.regions {
        return regions::run();
    }
    if args.ublk {
        return ublk::run(args.readme);
    }
    if args.merging {
        need(&["fio", "losetup"])?;
        return merging::run(args.pairs);
    }
    need(&["fio", "nbdkit", "qemu-nbd", "qemu-img", "setpriv"])?;
    let bench = Bench {
        product: test::build()?.into(),
        tapdisk: Tapdisk::find(args.tapdisk.as_deref())?,
        scratch: Scratch::new(Path::new("/dev/shm"), "iomgr-bench-")?,
        pairs: args.pairs,
        secs: args.secs,
    };
    let mut report = Report::default();
    bench.random_reads(&mut report)?;
    bench.first_writes(&mut report)?;
    bench.enters(&mut report)?;
    bench.start(&mut report)?;
    if args.callgrind {
        need(&["valgrind"])?;
        callgrind::run(&bench, &mut report)?;
    }
    let table = report.markdown(args.pairs, args.secs);
    println!("\n{table}");
    if args.readme {
        into_readme("bench", &table)
    } else {
        Ok(())
    }
}

/// Puts a table between the marks of its name.
fn into_readme(name: &str, table: &str) -> Result {
    let path = cmd::root().join("README.md");
    let text = std::fs::read_to_string(&path)?;
    let text = report::between_marks(&text, name, table).ok_or("README.md has no marks for the table")?;
    Ok(std::fs::write(&path, text)?)
}

fn need(programs: &[&str]) -> Result {
    match programs.iter().find(|program| cmd::which(program).is_none()) {
        Some(missing) => Err(format!("{missing} is not installed; `cargo xtask doctor` says the package").into()),
        None => Ok(()),
    }
}

/// The set-up that all measurements share.
#[derive(Debug)]
struct Bench {
    product: PathBuf,
    tapdisk: Option<Tapdisk>,
    scratch: Scratch,
    pairs: usize,
    secs: u64,
}

impl Bench {
    /// Random 4 KiB reads at depth 32: full dynamic VHD and raw file, ours and theirs.
    fn random_reads(&self, report: &mut Report) -> Result {
        let (raw, vhd, copy) = self.images()?;
        let ours = |image| Daemon::ours(&self.product, &self.scratch, image, &[]);
        let mut servers = vec![
            ("iomgr, dynamic VHD", ours(&vhd)?),
            ("iomgr, raw", ours(&raw)?),
            ("nbdkit file, raw", Daemon::nbdkit(&self.scratch, &raw)?),
            ("qemu-nbd, dynamic VHD", Daemon::qemu(&self.scratch, &copy)?),
        ];
        if let Some(tapdisk) = &self.tapdisk {
            let another = self.scratch.join("another.vhd");
            std::fs::copy(&vhd, &another)?;
            servers.push((TAPDISK, tapdisk.serve(&another)?));
        }
        let load = Load {
            pattern: Pattern::RandomRead,
            depth: 32,
            secs: self.secs,
            size_bytes: IMAGE_BYTES,
        };
        let mut turns = Turns::new("4 KiB random read, depth 32");
        for _ in 0..self.pairs {
            for (name, server) in &servers {
                turns.add(name, load.measure(server)?);
            }
        }
        turns.report(report, self.tapdisk.is_none());
        let cpu = |name| turns.each(name, |sample| sample.cpu_us);
        let vhd = cpu("iomgr, dynamic VHD");
        report.ratio(
            "CPU per read, VHD : nbdkit's on raw (at most 0.65)",
            &vhd,
            &cpu("nbdkit file, raw"),
        );
        report.ratio(
            "CPU per read, VHD : qemu-nbd's on VHD (at most 0.25)",
            &vhd,
            &cpu("qemu-nbd, dynamic VHD"),
        );
        if self.tapdisk.is_some() {
            report.ratio("CPU per read, VHD : tapdisk's on VHD", &vhd, &cpu(TAPDISK));
        }
        report.ratio("CPU per read, VHD : raw, both ours", &vhd, &cpu("iomgr, raw"));
        Ok(())
    }

    /// A raw image of random bytes, the same as a dynamic VHD, and a copy of that for a server with other locks.
    fn images(&self) -> Result<(PathBuf, PathBuf, PathBuf)> {
        let [raw, vhd, copy] = ["full.raw", "full.vhd", "copy.vhd"].map(|name| self.scratch.join(name));
        self.scratch.random_file(&raw, IMAGE_BYTES)?;
        cmd::run(
            std::process::Command::new(&self.product)
                .arg("convert")
                .arg(&raw)
                .arg(&vhd),
        )?;
        std::fs::copy(&vhd, &copy)?;
        Ok((raw, vhd, copy))
    }

    /// Sequential 4 KiB writes into an empty dynamic VHD, a fresh one each time.
    fn first_writes(&self, report: &mut Report) -> Result {
        let size_bytes = 4096 * MIB;
        let load = Load {
            pattern: Pattern::FirstWrite,
            depth: 32,
            secs: self.secs,
            size_bytes,
        };
        let mut turns = Turns::new("4 KiB sequential write into an empty VHD, depth 32");
        for _ in 0..self.pairs {
            let image = self.empty(size_bytes)?;
            let server = Daemon::ours(&self.product, &self.scratch, &image, &[])?;
            turns.add("iomgr, dynamic VHD", load.measure(&server)?);
            drop(server);
            let server = Daemon::qemu(&self.scratch, &self.empty(size_bytes)?)?;
            turns.add("qemu-nbd, dynamic VHD", load.measure(&server)?);
            drop(server);
            if let Some(tapdisk) = &self.tapdisk {
                let server = tapdisk.serve(&self.empty(size_bytes)?)?;
                turns.add(TAPDISK, load.measure(&server)?);
            }
        }
        turns.report(report, self.tapdisk.is_none());
        let iops = |name| turns.each(name, |sample| sample.iops);
        let ours = iops("iomgr, dynamic VHD");
        report.ratio(
            "IOPS of first writes, ours : qemu-nbd's (at least 3)",
            &ours,
            &iops("qemu-nbd, dynamic VHD"),
        );
        if self.tapdisk.is_some() {
            report.ratio("IOPS of first writes, ours : tapdisk's", &ours, &iops(TAPDISK));
        }
        Ok(())
    }

    /// A fresh image; the one before goes.
    fn empty(&self, size_bytes: u64) -> Result<PathBuf> {
        let image = self.scratch.join("empty.vhd");
        let _ = std::fs::remove_file(&image);
        let mut create = std::process::Command::new(&self.product);
        create
            .arg("create")
            .arg(&image)
            .args(["--size", &size_bytes.to_string()]);
        cmd::capture(&mut create)?;
        Ok(image)
    }

    /// `io_uring_enter` calls per request, and allocations where the server counts them.
    fn enters(&self, report: &mut Report) -> Result {
        let vhd = self.scratch.join("full.vhd");
        for depth in [1, 32] {
            let server = Daemon::ours(&self.product, &self.scratch, &vhd, &[])?;
            let load = Load {
                pattern: Pattern::RandomRead,
                depth,
                secs: self.secs,
                size_bytes: IMAGE_BYTES,
            };
            match load.enters(&server)? {
                Some(per_request) => {
                    report.figure(&format!("io_uring_enter per request, depth {depth}"), per_request, "")
                }
                None => println!("no count of io_uring_enter: neither tracefs nor strace can be used"),
            }
            server.stop()?;
        }
        Ok(())
    }

    /// From start to the ready line, for an image of the largest size.
    fn start(&self, report: &mut Report) -> Result {
        let image = self.empty(2040 * 1024 * MIB)?;
        let mut times = Vec::new();
        for _ in 0..self.pairs.max(5) {
            let server = Daemon::ours(&self.product, &self.scratch, &image, &[])?;
            times.push(milliseconds(server.took()));
            // In order, so that the next one does not wait for the lock of a killed one.
            server.stop()?;
        }
        report.figure(
            "start to serving, 2040 GiB dynamic VHD (below 50 ms)",
            median(&times),
            "ms",
        );
        Ok(())
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
