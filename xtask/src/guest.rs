//! `cargo xtask guest`: a command under a stock Debian kernel, for what this machine's own kernel lacks (ublk).
//!
//! The kernel comes by apt, the root file system is made of programs of this machine, and QEMU emulates the processor in
//! software, so that neither privilege nor KVM is needed. A boot takes some seconds.
//!
//! ```text
//!  kernel.rs ── apt.rs          QEMU ── ttyS0: console log, shown when the guest fails
//!  modules.rs, programs.rs ┐      └──── ttyS1: the command's output, between two marks (output.rs)
//!  initramfs.rs ── cpio.rs ┘
//! ```
//!
//! # Errors
//!
//! The exit status is the command's own; 124 when the time was over, as `timeout` has it, and 125 when the guest
//! died or could not be made.

mod apt;
mod cpio;
mod emulator;
mod initramfs;
mod kernel;
mod modules;
mod out;
mod output;
mod programs;
mod qemu;
mod running;
mod suite;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args as ClapArgs;

use crate::scratch::Scratch;
use crate::{Result, cmd, tools};
use emulator::Emulator;
use initramfs::{Contents, Placed};
use kernel::{Kernel, Series};
use programs::Program;
use qemu::Machine;
use running::Ended;
pub(crate) use suite::{run as test, soak};

/// The guest, and what runs in it.
#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    #[command(flatten)]
    setup: Setup,
    /// Never install missing tools; say the command that would
    #[arg(long)]
    no_install: bool,
    /// The command and its words; its program is taken along if busybox has none of that name
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// What a guest is made of.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct Setup {
    /// The kernel's series
    #[arg(long, value_enum, default_value = "6")]
    pub(crate) kernel: Series,
    /// Ask Debian for a newer kernel than the one that was used before
    #[arg(long)]
    pub(crate) update: bool,
    /// Memory in MiB; the root file system lives in it too
    #[arg(long, value_name = "MIB", default_value_t = 512)]
    pub(crate) memory: u32,
    /// Processors
    #[arg(long, default_value_t = 2)]
    pub(crate) cpus: u32,
    /// A program of this machine for the guest's /bin, with its libraries; NAME there instead of its own
    #[arg(long, value_name = "PATH[:NAME]")]
    pub(crate) program: Vec<String>,
    /// A file of this machine and where the guest has it
    #[arg(long, value_name = "SRC:DST")]
    pub(crate) file: Vec<String>,
    /// A kernel module, loaded with what it needs; parameters may follow its name
    #[arg(long, value_name = "MODULE", default_value = "ublk_drv")]
    pub(crate) module: Vec<String>,
    /// Seconds after which the guest is killed and the run has failed
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub(crate) timeout: u64,
    /// Let the guest's clock count instructions: one processor, the same figures on a busy machine
    #[arg(long)]
    pub(crate) icount: bool,
    /// Where to put what the command leaves in /out
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            kernel: Series::default(),
            update: false,
            memory: 512,
            cpus: 2,
            program: Vec::new(),
            file: Vec::new(),
            module: vec!["ublk_drv".to_owned()],
            timeout: 300,
            icount: false,
            out: None,
        }
    }
}

/// How a guest ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The command ended by itself.
    Exit(u8),
    /// The guest was killed when its time was over.
    OutOfTime,
    /// No exit status came: the kernel panicked, or QEMU could not go on, or start.
    Died,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> ExitCode {
        match outcome {
            Outcome::Exit(status) => status.into(),
            Outcome::OutOfTime => 124.into(),
            Outcome::Died => 125.into(),
        }
    }
}

/// Runs the command with the terminal's own output.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    tools::provide_these(PROGRAMS, !args.no_install)?;
    let mut stdout = std::io::stdout().lock();
    let ended = args.setup.run(&args.command, &mut |bytes| {
        // Who closed our output wants no more of it; the command goes on.
        let _ = stdout.write_all(bytes).and_then(|()| stdout.flush());
    });
    let outcome = ended.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        Outcome::Died
    });
    Ok(outcome.into())
}

/// Programs of this machine that a guest cannot do without.
const PROGRAMS: &[&str] = &["busybox", "modprobe", "xz", "setpriv", "tar"];

/// What the kernel needs beside its root file system.
const KERNEL_MIB: u64 = 96;

/// The first of them that is not installed.
pub(crate) fn missing() -> Option<&'static str> {
    PROGRAMS.iter().copied().find(|program| cmd::which(program).is_none())
}

impl Setup {
    /// Boots, runs the command, passes its output on as it comes. Why a guest failed is on standard error.
    pub(crate) fn run(&self, command: &[String], pass: &mut dyn FnMut(&[u8])) -> Result<Outcome> {
        if let Some(missing) = missing() {
            return Err(format!("{missing} is not installed; `cargo xtask doctor` says the package").into());
        }
        let folder = folder();
        let emulator = Emulator::provide(&folder)?;
        let kernel = Kernel::provide(self.kernel, &folder, self.update)?;
        let scratch = Scratch::new(&folder, "run-")?;
        let (initramfs, console) = (scratch.join("initramfs"), scratch.join("console.log"));
        self.contents(&kernel, command)?.write(&initramfs)?;
        self.check_memory(initramfs.metadata()?.len())?;
        let out = self.out.as_ref().map(|_| out::disk(scratch.join("out"))).transpose()?;
        let machine = Machine {
            emulator: &emulator,
            kernel: &kernel,
            initramfs: &initramfs,
            console: &console,
            out: out.as_deref(),
        };
        let limit = Duration::from_secs(self.timeout);
        let ended = running::run(machine.command(self), limit, scratch.path().to_path_buf(), pass)?;
        if let (Some(disk), Some(folder)) = (&out, &self.out) {
            out::unpack(disk, folder)?;
        }
        Ok(self.judge(&ended, &console))
    }

    fn contents<'a>(&self, kernel: &Kernel, command: &'a [String]) -> Result<Contents<'a>> {
        let mut programs = vec![Program::parse("busybox")?];
        for program in &self.program {
            programs.push(Program::parse(program)?);
        }
        programs.extend(command.first().and_then(|name| of_command(name, &programs)));
        let files = self
            .file
            .iter()
            .map(|file| Placed::parse(file))
            .collect::<Result<_>>()?;
        let mut wanted = self.module.clone();
        wanted.extend(self.out.iter().map(|_| "virtio_blk".to_owned()));
        Ok(Contents {
            programs,
            files,
            modules: modules::resolve(kernel, &wanted)?,
            command,
        })
    }

    /// The archive is in memory while it is unpacked into a root file system that gets half of the rest.
    fn check_memory(&self, initramfs_bytes: u64) -> Result {
        let mib = initramfs_bytes.div_ceil(1 << 20);
        let needed = 3 * mib + KERNEL_MIB;
        if u64::from(self.memory) < needed {
            let memory = self.memory;
            return Err(
                format!("{memory} MiB are too little for {mib} MiB of programs; give at least {needed}").into(),
            );
        }
        Ok(())
    }

    fn judge(&self, ended: &Ended, console: &Path) -> Outcome {
        if let (Some(status), false) = (ended.seen.status, ended.out_of_time) {
            return Outcome::Exit(status);
        }
        let (reason, outcome) = if ended.out_of_time {
            (
                format!("ended by its time limit of {} s", self.timeout),
                Outcome::OutOfTime,
            )
        } else if let Some(reason) = &ended.seen.failure {
            (reason.clone(), Outcome::Died)
        } else {
            ("died without an exit status".to_owned(), Outcome::Died)
        };
        let when = if ended.seen.up { "" } else { " before the command began" };
        eprintln!(
            "\nguest: {reason}{when}; the end of its console:\n{}{}",
            tail(console),
            ended.complaint
        );
        outcome
    }
}

/// Where kernels are kept, and the files of the guests that run.
fn folder() -> PathBuf {
    cmd::target().join("guest")
}

/// The command's program, if neither busybox nor a named program has it.
fn of_command(name: &str, programs: &[Program]) -> Option<Program> {
    let named = programs.iter().any(|program| program.name == name);
    let applets = cmd::capture(std::process::Command::new("busybox").arg("--list")).unwrap_or_default();
    let known = named || applets.lines().any(|applet| applet == name);
    if known { None } else { Program::parse(name).ok() }
}

/// Enough for a panic with its cause.
const CONSOLE_LINES: usize = 60;

/// The last lines of the console.
fn tail(console: &Path) -> String {
    let text = std::fs::read(console).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().map(str::trim_end).collect();
    let last = &lines[lines.len().saturating_sub(CONSOLE_LINES)..];
    last.iter().map(|line| format!("  {line}\n")).collect()
}
