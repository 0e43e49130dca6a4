//! Rules about source files: unsafe code is forbidden where it must be, files stay small, texts name no machine.

use std::fs;
use std::path::{Path, PathBuf};

use cargo_metadata::{Metadata, Package};

use crate::Result;
use crate::cmd;

/// Crates that hold unsafe islands, so that they deny instead of forbid.
const ISLANDS: &[&str] = &["tqueue", "blkdev-ublk"];

/// A file longer than this holds more than one idea.
const LINES_MAX: usize = 700;

/// Findings about the sources of all crates.
pub(super) fn check(metadata: &Metadata) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    for package in metadata.workspace_packages() {
        if !ISLANDS.contains(&package.name.as_str()) {
            findings.extend(without_forbid(package)?);
        }
    }
    for file in sources()? {
        let text = fs::read_to_string(cmd::root().join(&file))?;
        findings.extend(in_file(&file, &text));
    }
    Ok(findings)
}

/// Libraries and binaries whose root does not forbid unsafe code.
fn without_forbid(package: &Package) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    for target in package
        .targets
        .iter()
        .filter(|target| target.is_lib() || target.is_bin())
    {
        let text = fs::read_to_string(&target.src_path)?;
        if !text.contains("#![forbid(unsafe_code)]") {
            findings.push(format!(
                "{} lacks #![forbid(unsafe_code)]",
                relative(target.src_path.as_std_path()).display()
            ));
        }
    }
    Ok(findings)
}

fn relative(path: &Path) -> &Path {
    path.strip_prefix(cmd::root()).unwrap_or(path)
}

/// Rust files that git knows, so that build folders are left out.
fn sources() -> Result<Vec<PathBuf>> {
    let mut git = std::process::Command::new("git");
    git.current_dir(cmd::root())
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "*.rs"]);
    let files = cmd::capture(&mut git)?;
    Ok(files
        .lines()
        .map(PathBuf::from)
        .filter(|file| cmd::root().join(file).exists())
        .collect())
}

/// What is left in a file that must not be.
fn in_file(file: &Path, text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    let lines = text.lines().count();
    if lines > LINES_MAX {
        findings.push(format!("{}: {lines} lines", file.display()));
    }
    for (number, line) in text.lines().enumerate() {
        for word in leftovers() {
            if line.contains(&word) {
                findings.push(format!("{}:{}: {word}", file.display(), number + 1));
            }
        }
    }
    findings
}

/// Put together from halves: this file must not find itself.
fn leftovers() -> Vec<String> {
    let halves = [
        ("todo", "!("),
        ("unimplemented", "!("),
        ("dbg", "!("),
        ("#[ign", "ore"),
        ("should_", "panic"),
    ];
    halves.iter().map(|(left, right)| format!("{left}{right}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_files_and_leftovers_are_found() {
        let text = format!("{}fn f() {{ {}{}) }}\n", "\n".repeat(LINES_MAX), "todo", "!(");
        let findings = in_file(Path::new("a.rs"), &text);
        assert_eq!(
            findings,
            ["a.rs: 701 lines".to_owned(), format!("a.rs:701: {}{}", "todo", "!(")]
        );
    }
}
