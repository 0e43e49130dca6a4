//! The programs that the tests drive, the Debian packages they come in, and how to get what lacks.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use crate::Result;
use crate::cmd;

/// A program and the Debian package that has it.
#[derive(Debug)]
pub(crate) struct Tool {
    pub(crate) program: &'static str,
    pub(crate) package: &'static str,
    pub(crate) why: &'static str,
}

const fn tool(program: &'static str, package: &'static str, why: &'static str) -> Tool {
    Tool { program, package, why }
}

/// Everything that a test or the benchmark starts.
pub(crate) const TOOLS: &[Tool] = &[
    tool("fio", "fio", "random I/O with verification"),
    tool("nbdcopy", "libnbd-bin", "copies over NBD"),
    tool("nbdinfo", "libnbd-bin", "an export as a client sees it"),
    tool("nbdfuse", "libnbd-bin", "an NBD export as a file"),
    tool("nbdsh", "python3-libnbd", "libnbd, scripted"),
    tool(
        "nbdkit",
        "nbdkit",
        "disks that fail on demand, a peer to measure against",
    ),
    tool("qemu-img", "qemu-utils", "an independent reader of VHD"),
    tool("qemu-io", "qemu-utils", "patterns over NBD"),
    tool("qemu-nbd", "qemu-utils", "a peer to measure against"),
    tool("mkfs.ext4", "e2fsprogs", "a file system on our disk"),
    tool("mkfs.xfs", "xfsprogs", "a file system on our disk"),
    tool("losetup", "mount", "loop devices"),
    tool("setpriv", "util-linux", "servers that end with their test"),
    tool("busybox", "busybox-static", "the guest's shell"),
    tool("nbd-client", "nbd-client", "the kernel's own NBD client"),
    tool("modprobe", "kmod", "the guest's modules in their order"),
    tool("tar", "tar", "what a guest gives back"),
    tool("nm", "binutils", "functions whose calls a benchmark counts"),
    tool("xz", "xz-utils", "packed images"),
    tool("groff", "groff-base", "a reader of manual pages"),
    tool("python3", "python3", "the generator of hostile images"),
];

/// Installs what lacks where that is possible and wanted; otherwise says the one command that would.
pub(crate) fn provide(may_install: bool) -> Result {
    provide_where(|_| true, may_install)
}

/// The same for some programs only.
pub(crate) fn provide_these(programs: &[&str], may_install: bool) -> Result {
    provide_where(|tool| programs.contains(&tool.program), may_install)
}

fn provide_where(wanted: impl Fn(&Tool) -> bool, may_install: bool) -> Result {
    let lacking = |tool: &&Tool| wanted(tool) && cmd::which(tool.program).is_none();
    let missing: Vec<_> = TOOLS.iter().filter(lacking).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let programs: Vec<_> = missing.iter().map(|tool| tool.program).collect();
    let packages: BTreeSet<_> = missing.iter().map(|tool| tool.package).collect();
    println!("missing: {}", programs.join(" "));
    if may_install && is_debian() && is_root() {
        return install(&packages);
    }
    println!("their tests will be skipped; to get them: {}", command_line(&packages));
    Ok(())
}

/// A failing installation is no reason to run nothing: the tests say themselves what they miss.
fn install(packages: &BTreeSet<&str>) -> Result {
    println!("installing: {}", packages.iter().copied().collect::<Vec<_>>().join(" "));
    let apt = || {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command
    };
    let update = cmd::run(apt().args(["update", "-q"]));
    let installed =
        update.and_then(|()| cmd::run(apt().args(["install", "-q", "-y"]).args(APT_OPTIONS).args(packages)));
    if let Err(error) = installed {
        println!("could not install: {error}");
    }
    Ok(())
}

/// Nothing may be removed for a test's sake: mixtures with backports can ask for that.
const APT_OPTIONS: &[&str] = &["--no-install-recommends", "--no-remove"];

fn command_line(packages: &BTreeSet<&str>) -> String {
    let packages = packages.iter().copied().collect::<Vec<_>>().join(" ");
    let sudo = if is_root() { "" } else { "sudo " };
    format!("{sudo}apt-get install -y {} {packages}", APT_OPTIONS.join(" "))
}

fn is_debian() -> bool {
    Path::new("/etc/debian_version").exists() && cmd::which("apt-get").is_some()
}

/// Whether we run as root, by the owner of our own entry in /proc.
pub(crate) fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|entry| entry.uid() == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_command_names_each_package_once() {
        let line = command_line(&BTreeSet::from(["fio", "libnbd-bin"]));
        assert!(
            line.ends_with("apt-get install -y --no-install-recommends --no-remove fio libnbd-bin"),
            "{line}"
        );
    }
}
