//! Programs of this machine with the libraries that they need.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Result, cmd};

/// A program for the guest's `/bin`.
#[derive(Debug, Clone)]
pub(super) struct Program {
    pub(super) name: String,
    pub(super) file: PathBuf,
}

impl Program {
    /// `PATH`, `NAME` (found in `PATH`) or `PATH:NAME`, the name being the guest's.
    pub(super) fn parse(text: &str) -> Result<Program> {
        let (source, name) = text.rsplit_once(':').unwrap_or((text, ""));
        let file = if source.contains('/') {
            Some(PathBuf::from(source)).filter(|file| file.is_file())
        } else {
            cmd::which(source)
        };
        let file = file.ok_or_else(|| format!("no such program: {source}"))?;
        let base = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let name = if name.is_empty() { base } else { name.to_owned() };
        Ok(Program { name, file })
    }
}

/// All libraries that these programs need, by the paths at which the loader looks for them.
pub(super) fn libraries(programs: &[Program]) -> BTreeSet<PathBuf> {
    programs.iter().flat_map(|program| of(&program.file)).collect()
}

/// A program without libraries makes `ldd` fail.
fn of(file: &Path) -> Vec<PathBuf> {
    let listed = cmd::capture(Command::new("ldd").arg(file).env("LC_ALL", "C"));
    listed.map(|text| parse(&text)).unwrap_or_default()
}

/// `libc.so.6 => /lib/libc.so.6 (0x…)`, or the loader alone: `/lib64/ld-linux-x86-64.so.2 (0x…)`
fn parse(text: &str) -> Vec<PathBuf> {
    let path = |line: &str| {
        line.split_whitespace()
            .find(|word| word.starts_with('/'))
            .map(PathBuf::from)
    };
    text.lines().filter_map(path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_the_loader_are_found_and_the_vdso_is_not() {
        let text = "\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /lib/libc.so.6 (0x2)\n\t/lib64/ld-linux.so.2 (0x3)\n";
        assert_eq!(
            parse(text),
            [PathBuf::from("/lib/libc.so.6"), "/lib64/ld-linux.so.2".into()]
        );
    }

    #[test]
    fn a_program_can_have_another_name_in_the_guest() {
        let program = Program::parse("/bin/sh:shell").unwrap();
        assert_eq!(
            (program.name.as_str(), program.file),
            ("shell", PathBuf::from("/bin/sh"))
        );
        assert_eq!(Program::parse("sh").unwrap().name, "sh");
        assert!(Program::parse("/no/such/program").is_err());
    }
}
