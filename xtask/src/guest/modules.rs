//! Kernel modules with what they depend on, in the order in which they must be loaded.

use std::path::PathBuf;
use std::process::Command;

use super::kernel::{Kernel, tool};
use crate::{Result, cmd};

/// A module to load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Module {
    file: PathBuf,
    parameters: String,
}

impl Module {
    /// Its file name, as the guest has it.
    pub(super) fn name(&self) -> String {
        let name = self.file.file_name().unwrap_or_default().to_string_lossy();
        name.trim_end_matches(".xz").to_owned()
    }

    /// What loads it in the guest, as a line of a script that the guest's own reads.
    pub(super) fn insmod(&self) -> String {
        format!("insmod /lib/modules/{} {} || return\n", self.name(), self.parameters)
    }

    /// Its contents, unpacked.
    pub(super) fn bytes(&self) -> Result<Vec<u8>> {
        if self.file.extension().is_none_or(|extension| extension != "xz") {
            return Ok(std::fs::read(&self.file)?);
        }
        let output = Command::new("xz").arg("-dc").arg(&self.file).output()?;
        if output.status.success() {
            Ok(output.stdout)
        } else {
            Err(format!("xz cannot unpack {}", self.file.display()).into())
        }
    }
}

/// The modules by name, each with parameters after it (`null_blk nr_devices=2`), after those that they need.
pub(super) fn resolve(kernel: &Kernel, wanted: &[String]) -> Result<Vec<Module>> {
    let mut modules: Vec<Module> = Vec::new();
    for wanted in wanted {
        let (name, parameters) = wanted.split_once(' ').unwrap_or((wanted, ""));
        for module in parse(&depends(kernel, name)?) {
            if modules.iter().all(|known| known.file != module.file) {
                modules.push(module);
            }
        }
        if let Some(last) = modules.last_mut().filter(|_| !parameters.is_empty()) {
            parameters.clone_into(&mut last.parameters);
        }
    }
    Ok(modules)
}

fn depends(kernel: &Kernel, name: &str) -> Result<String> {
    let mut modprobe = Command::new(tool("modprobe"));
    // The machine's own settings say nothing about the guest.
    modprobe.args([
        "--config",
        "/dev/null",
        "--show-depends",
        "--set-version",
        &kernel.version,
        "--dirname",
    ]);
    modprobe.arg(&kernel.modules).arg(name);
    cmd::capture(&mut modprobe).map_err(|_| format!("Linux {} has no module {name}", kernel.version).into())
}

/// `insmod FILE` lines; `builtin NAME` needs nothing.
fn parse(lines: &str) -> Vec<Module> {
    let files = lines.lines().filter_map(|line| line.strip_prefix("insmod "));
    let module = |file: &str| Module {
        file: file.trim().into(),
        parameters: String::new(),
    };
    files.map(module).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_taken_in_modprobes_order_and_built_in_ones_left_out() {
        let modules = parse("builtin ext4\ninsmod /m/configfs.ko.xz \ninsmod /m/null_blk.ko.xz \n");
        let names: Vec<_> = modules.iter().map(Module::name).collect();
        assert_eq!(names, ["configfs.ko", "null_blk.ko"]);
        assert_eq!(modules[0].insmod(), "insmod /lib/modules/configfs.ko  || return\n");
    }
}
