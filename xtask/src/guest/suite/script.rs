//! A script, and the guest that it asks for.

use std::fs;
use std::path::Path;

use clap::ValueEnum;

use super::scripts;
use crate::guest::emulator::Emulator;
use crate::guest::kernel::{Kernel, Series};
use crate::guest::programs::Program;
use crate::guest::{Setup, folder, missing};
use crate::{Result, test};

/// Functions for the scripts, and what runs them: a folder beside them, and in the guest.
const LIBRARY: &str = "lib";
/// Where the guest has the scripts.
pub(super) const FOLDER: &str = "/tests";

/// Against scripts that hang, also on a machine with ten times as much to do as it can.
const TIMEOUT_SECONDS: u64 = 600;

/// See the module.
#[derive(Debug)]
pub(super) struct Script {
    /// `guest::NAME`.
    pub(super) name: String,
    pub(super) setup: Setup,
}

/// What a script is called.
pub(super) fn name(file: &Path) -> String {
    format!("guest::{}", file.file_stem().unwrap_or_default().to_string_lossy())
}

impl Script {
    /// Reads what it needs; builds the helpers.
    pub(super) fn read(name: String, file: &Path, product: &str) -> Result<Self> {
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
            setup.file.push(placed(&part, &format!("/{LIBRARY}")));
        }
        setup.file.push(placed(file, FOLDER));
        Ok(Self { name, setup })
    }

    /// What this machine would need for it.
    pub(super) fn lacking(&self) -> Option<String> {
        let programs = self
            .setup
            .program
            .iter()
            .find_map(|program| Program::parse(program).err());
        let kernel = || Kernel::provide(self.setup.kernel, &folder(), false).err();
        missing()
            .map(|program| format!("not installed: {program}"))
            .or_else(|| programs.map(|error| error.to_string()))
            .or_else(|| Emulator::provide(&folder()).err().map(|error| error.to_string()))
            .or_else(|| kernel().map(|error| error.to_string()))
    }
}

/// The file in a folder of the guest.
fn placed(file: &Path, folder: &str) -> String {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    format!("{}:{folder}/{name}", file.display())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd;

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
    fn every_script_can_be_read() {
        let scripts = scripts(&cmd::root().join("tests/guest")).unwrap();
        assert!(!scripts.is_empty());
        for script in scripts {
            Script::read(name(&script), &script, "iomgr").unwrap();
        }
    }
}
