//! QEMU's command line: software emulation, two serial ports, nothing else that a guest could depend on.

use std::path::Path;
use std::process::Command;

use super::Setup;
use super::emulator::Emulator;
use super::kernel::Kernel;

/// What it is given beside the set-up.
#[derive(Debug)]
pub(super) struct Machine<'a> {
    pub(super) emulator: &'a Emulator,
    pub(super) kernel: &'a Kernel,
    pub(super) initramfs: &'a Path,
    pub(super) console: &'a Path,
    /// A raw file that takes what the guest leaves in `/out`.
    pub(super) out: Option<&'a Path>,
}

impl Machine<'_> {
    /// Its standard output is the guest's second serial port. The kernel kills it when we die.
    pub(super) fn command(&self, setup: &Setup) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).args(self.emulator.words());
        command.args([
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
            "-cpu",
            "max",
        ]);
        command.args(["-m", &setup.memory.to_string()]).args(processors(setup));
        command.arg("-kernel").arg(self.kernel.image.as_os_str());
        command.arg("-initrd").arg(self.initramfs);
        command.args(["-append", "console=ttyS0 panic=-1 quiet mitigations=off"]);
        command.args([
            "-serial",
            &format!("file:{}", self.console.display()),
            "-serial",
            "stdio",
        ]);
        if let Some(out) = self.out {
            let drive = format!("if=none,id=out,format=raw,cache=unsafe,file={}", out.display());
            command.args(["-drive", &drive, "-device", "virtio-blk-pci,drive=out,serial=out"]);
        }
        command
    }
}

/// With `--icount` the clock counts instructions: one processor, and time passes by nothing else.
fn processors(setup: &Setup) -> Vec<String> {
    let words = if setup.icount {
        vec![
            "-smp",
            "1",
            "-accel",
            "tcg,thread=single",
            "-icount",
            "shift=0,sleep=off",
        ]
    } else {
        vec!["-accel", "tcg,thread=multi", "-smp"]
    };
    let mut words: Vec<_> = words.into_iter().map(str::to_owned).collect();
    if !setup.icount {
        words.push(setup.cpus.to_string());
    }
    words
}
