//! `cargo xtask bench`: our server beside nbdkit and qemu-nbd, in one run on one machine.
//!
//! Hosts are noisy: the servers take turns, and what counts is the median over the rounds, of CPU time per I/O before
//! operations per second (one client is the limit above some hundred thousand). Images are on tmpfs.
//!
//! # References
//!
//! ARCHITECTURE.md, "Measuring".

mod daemon;
mod enters;
mod icount;
mod load;
mod report;
mod scratch;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args as ClapArgs;

use crate::{Result, cmd, test};
use daemon::Daemon;
use load::{Load, Pattern, Sample};
use report::{Report, median};
use scratch::Scratch;

/// How long and what.
#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Rounds; in each, every server is measured once
    #[arg(long, default_value_t = 7)]
    pairs: usize,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 4)]
    secs: u64,
    /// Put the table into README.md
    #[arg(long)]
    readme: bool,
    /// Also count instructions per request by callgrind (slow)
    #[arg(long)]
    icount: bool,
}

const MIB: u64 = 1 << 20;
const IMAGE_BYTES: u64 = 512 * MIB;

/// Measures and prints the table for the README.
pub(crate) fn run(args: &Args) -> Result {
    need(&["fio", "nbdkit", "qemu-nbd", "qemu-img", "setpriv"])?;
    let bench = Bench {
        product: test::build()?.into(),
        scratch: Scratch::new()?,
        pairs: args.pairs,
        secs: args.secs,
    };
    let mut report = Report::default();
    bench.random_reads(&mut report)?;
    bench.first_writes(&mut report)?;
    bench.enters(&mut report)?;
    bench.start(&mut report)?;
    if args.icount {
        need(&["valgrind"])?;
        icount::run(&bench, &mut report)?;
    }
    let table = report.markdown(args.pairs, args.secs);
    println!("\n{table}");
    if args.readme { into_readme(&table) } else { Ok(()) }
}

fn into_readme(table: &str) -> Result {
    let path = cmd::root().join("README.md");
    let text = std::fs::read_to_string(&path)?;
    let text = report::between_marks(&text, table).ok_or("README.md has no marks for the table")?;
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
    scratch: Scratch,
    pairs: usize,
    secs: u64,
}

impl Bench {
    /// Random 4 KiB reads at depth 32: full dynamic VHD and raw file, ours and theirs.
    fn random_reads(&self, report: &mut Report) -> Result {
        let (raw, vhd, copy) = self.images()?;
        let servers = [
            (
                "iomgr, dynamic VHD",
                Daemon::ours(&self.product, &self.scratch, &vhd, &[])?,
            ),
            ("iomgr, raw", Daemon::ours(&self.product, &self.scratch, &raw, &[])?),
            ("nbdkit file, raw", Daemon::nbdkit(&self.scratch, &raw)?),
            ("qemu-nbd, dynamic VHD", Daemon::qemu(&self.scratch, &copy)?),
        ];
        let load = Load {
            pattern: Pattern::RandomRead,
            depth: 32,
            secs: self.secs,
            size_bytes: IMAGE_BYTES,
        };
        let mut samples = vec![Vec::new(); servers.len()];
        for round in 0..self.pairs {
            for (server, samples) in servers.iter().zip(&mut samples) {
                samples.push(load.measure(&server.1)?);
                progress("random read", round, server.0, samples);
            }
        }
        for ((name, _), samples) in servers.iter().zip(&samples) {
            report.server(name, "4 KiB random read, depth 32", samples);
        }
        let cpu = |server: usize| samples[server].iter().map(|sample| sample.cpu_us).collect::<Vec<_>>();
        let (vhd, raw, nbdkit, qemu) = (cpu(0), cpu(1), cpu(2), cpu(3));
        report.ratio("CPU per read, VHD : nbdkit's on raw (at most 0.65)", &vhd, &nbdkit);
        report.ratio("CPU per read, VHD : qemu-nbd's on VHD (at most 0.25)", &vhd, &qemu);
        report.ratio("CPU per read, VHD : raw, both ours", &vhd, &raw);
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
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for round in 0..self.pairs {
            let image = self.empty(size_bytes)?;
            ours.push(load.measure(&Daemon::ours(&self.product, &self.scratch, &image, &[])?)?);
            progress("first write", round, "iomgr", &ours);
            let image = self.empty(size_bytes)?;
            theirs.push(load.measure(&Daemon::qemu(&self.scratch, &image)?)?);
            progress("first write", round, "qemu-nbd", &theirs);
        }
        let what = "4 KiB sequential write into an empty VHD, depth 32";
        report.server("iomgr, dynamic VHD", what, &ours);
        report.server("qemu-nbd, dynamic VHD", what, &theirs);
        let iops = |samples: &[Sample]| samples.iter().map(|sample| sample.iops).collect::<Vec<_>>();
        report.ratio(
            "IOPS of first writes, ours : qemu-nbd's (at least 3)",
            &iops(&ours),
            &iops(&theirs),
        );
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

fn progress(what: &str, round: usize, server: &str, samples: &[Sample]) {
    if let Some(last) = samples.last() {
        println!(
            "{what} {:>2}  {server:<24} {:>7.2} µs CPU/I/O {:>9.0} IOPS",
            round + 1,
            last.cpu_us,
            last.iops
        );
    }
}
