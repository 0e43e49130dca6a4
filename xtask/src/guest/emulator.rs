//! QEMU: the installed one, else Debian's, unpacked below the target folder.
//!
//! It is never installed: Debian's QEMU of one release asks to remove the qemu-utils of another (backports have newer ones),
//! and a guest should need no privilege.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::apt::{self, Apt};
use crate::{Result, cmd};

const PROGRAM: &str = "qemu-system-x86_64";
const PACKAGES: &[&str] = &["qemu-system-x86", "seabios"];
/// The source packages that these, and what they conflict with, are built from.
const SOURCES: &[&str] = &["qemu", "seabios"];

/// A QEMU that can be started.
#[derive(Debug)]
pub(super) enum Emulator {
    Installed(PathBuf),
    /// The folder that stands for `/`; QEMU finds its own files by its place.
    Unpacked(PathBuf),
}

impl Emulator {
    /// The best there is.
    pub(super) fn provide(folder: &Path) -> Result<Emulator> {
        if let Some(program) = cmd::which(PROGRAM) {
            return Ok(Emulator::Installed(program));
        }
        let tree = folder.join("qemu");
        // Held until it is dropped: two runs at once unpack nothing twice.
        fs::create_dir_all(folder)?;
        let lock = File::create(folder.join("qemu.lock"))?;
        lock.lock()?;
        if !tree.exists() {
            fetch(folder, &tree).map_err(|error| format!("no QEMU ({PROGRAM}) for the guest: {error}"))?;
        }
        Ok(Emulator::Unpacked(tree))
    }

    /// The words that start it, for a program that starts programs.
    pub(super) fn words(&self) -> Vec<String> {
        match self {
            Emulator::Installed(program) => vec![program.display().to_string()],
            Emulator::Unpacked(tree) => vec![
                "env".to_owned(),
                format!("LD_LIBRARY_PATH={}", tree.join("usr/lib/x86_64-linux-gnu").display()),
                tree.join("usr/bin").join(PROGRAM).display().to_string(),
            ],
        }
    }
}

/// Loads QEMU and those of its libraries that this machine lacks.
fn fetch(folder: &Path, tree: &Path) -> Result {
    let new = folder.join("qemu.new");
    let _ = fs::remove_dir_all(&new);
    let apt = Apt::as_if_without(SOURCES, &folder.join("apt"))?;
    for package in apt.download_with_dependencies(PACKAGES)? {
        apt::unpack(&package, &new)?;
    }
    let emulator = Emulator::Unpacked(new.clone());
    let words = emulator.words();
    cmd::capture(Command::new(&words[0]).args(&words[1..]).arg("--version"))?;
    Ok(fs::rename(new, tree)?)
}
