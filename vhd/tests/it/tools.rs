//! Programs and data that a machine may lack: a test that needs them says so and passes.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Runs qemu-img with `args` and `path`; its output, or nothing where it is not installed.
pub(crate) fn qemu_img(args: &[&str], path: &Path) -> Option<String> {
    let Ok(output) = Command::new("qemu-img").args(args).arg(path).output() else {
        return skipped("qemu-img is not installed");
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

/// The folder of images by other programs, which lies beside the workspace where it is there at all.
pub(crate) fn shared_images() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/vhd-images");
    if folder.is_dir() {
        Some(folder)
    } else {
        skipped("../shared/vhd-images is not there")
    }
}

/// Unpacks `packed`, or copies what is not packed.
pub(crate) fn unpack(packed: &Path, to: &Path) -> Option<()> {
    if packed.extension().is_none_or(|extension| extension != "xz") {
        std::fs::copy(packed, to).unwrap();
        return Some(());
    }
    let output = std::fs::File::create(to).unwrap();
    let Ok(status) = Command::new("xz")
        .arg("-dc")
        .arg(packed)
        .stdout(Stdio::from(output))
        .status()
    else {
        return skipped("xz is not installed");
    };
    assert!(status.success(), "{}", packed.display());
    Some(())
}

/// Runs a Python program; what it prints.
pub(crate) fn python(program: &Path, argument: &Path) -> Option<String> {
    let Ok(output) = Command::new("python3").arg(program).arg(argument).output() else {
        return skipped("python3 is not installed");
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

pub(crate) fn skipped<T>(reason: &str) -> Option<T> {
    eprintln!("skipped: {reason}");
    None
}
