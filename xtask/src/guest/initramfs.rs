//! The guest's root file system: busybox, programs with their libraries, files, modules and the command.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::cpio::Archive;
use super::modules::Module;
use super::programs::{self, Program};
use crate::Result;

const FOLDERS: &[&str] = &[
    "bin",
    "dev",
    "etc",
    "lib",
    "lib/modules",
    "mnt",
    "out",
    "proc",
    "root",
    "run",
    "sbin",
    "sys",
    "tmp",
    "usr",
    "var",
];

/// The last file: a guest that has it has all. The kernel goes on when memory ends while it unpacks.
const LAST: &str = "complete";

/// What goes into it.
#[derive(Debug)]
pub(super) struct Contents<'a> {
    pub(super) programs: Vec<Program>,
    pub(super) files: Vec<Placed>,
    pub(super) modules: Vec<Module>,
    pub(super) command: &'a [String],
}

/// A file and its absolute path in the guest.
#[derive(Debug, Clone)]
pub(super) struct Placed {
    from: PathBuf,
    to: PathBuf,
}

impl Placed {
    /// `SRC:DST`
    pub(super) fn parse(text: &str) -> Result<Placed> {
        let (from, to) = text
            .rsplit_once(':')
            .ok_or_else(|| format!("{text}: expected SRC:DST"))?;
        let (from, to) = (PathBuf::from(from), PathBuf::from(to));
        if !to.is_absolute() {
            return Err(format!("{text}: {} is no absolute path in the guest", to.display()).into());
        }
        if !from.is_file() {
            return Err(format!("no such file: {}", from.display()).into());
        }
        Ok(Placed { from, to })
    }

    /// A library stands where it stands here.
    fn library(path: PathBuf) -> Placed {
        Placed {
            from: path.clone(),
            to: path,
        }
    }
}

impl Contents<'_> {
    /// Writes the archive that the kernel unpacks.
    pub(super) fn write(mut self, to: &Path) -> Result {
        let mut archive = Archive::new(BufWriter::new(File::create(to)?));
        let mut folders = BTreeSet::new();
        for folder in FOLDERS {
            make(&mut archive, &mut folders, Path::new(folder))?;
        }
        archive.device("dev/console", 5, 1)?;
        archive.bytes("init", 0o755, include_bytes!("init.sh"))?;
        archive.bytes("command.sh", 0o644, script(self.command).as_bytes())?;
        for program in &self.programs {
            archive.copy(&format!("bin/{}", program.name), 0o755, &program.file)?;
        }
        self.modules(&mut archive)?;
        let libraries = programs::libraries(&self.programs);
        self.files.extend(libraries.into_iter().map(Placed::library));
        for file in &self.files {
            make(&mut archive, &mut folders, file.to.parent().unwrap_or(Path::new("/")))?;
            let mode = file.from.metadata()?.permissions().mode() & 0o777;
            archive.copy(&file.to.to_string_lossy(), mode, &file.from)?;
        }
        archive.bytes(LAST, 0o644, b"")?;
        archive.finish()?;
        Ok(())
    }

    fn modules(&self, archive: &mut Archive<impl Write>) -> Result {
        for module in &self.modules {
            archive.bytes(&format!("lib/modules/{}", module.name()), 0o644, &module.bytes()?)?;
        }
        let load: Vec<_> = self.modules.iter().map(Module::insmod).collect();
        archive.bytes("modules.sh", 0o644, load.concat().as_bytes())?;
        Ok(())
    }
}

/// A folder and those above it, each once.
fn make(archive: &mut Archive<impl Write>, known: &mut BTreeSet<PathBuf>, folder: &Path) -> Result {
    let folder = folder.strip_prefix("/").unwrap_or(folder);
    let mut above: Vec<_> = folder.ancestors().filter(|path| !path.as_os_str().is_empty()).collect();
    above.reverse();
    for path in above {
        if known.insert(path.to_path_buf()) {
            archive.folder(&path.to_string_lossy())?;
        }
    }
    Ok(())
}

/// The command as the guest's shell reads it.
fn script(command: &[String]) -> String {
    let quoted = command.iter().map(|word| format!("'{}'", word.replace('\'', r"'\''")));
    quoted.collect::<Vec<_>>().join(" ") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_arrive_as_they_are() {
        let command = ["sh", "-c", "echo 'a  b' $HOME"].map(str::to_owned);
        assert_eq!(script(&command), "'sh' '-c' 'echo '\\''a  b'\\'' $HOME'\n");
    }

    #[test]
    fn a_file_needs_an_absolute_place() {
        assert!(Placed::parse("/etc/hostname:etc/x").is_err());
        assert!(Placed::parse("/etc/hostname").is_err());
        assert!(Placed::parse("/no/such/file:/x").is_err());
        assert_eq!(Placed::parse("/etc/passwd:/x").unwrap().to, PathBuf::from("/x"));
    }
}
