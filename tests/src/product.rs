//! Where the binary `iomgr` is.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The path in `IOMGR_BIN` (as `cargo xtask test` sets it); without one the binary is built, so that a test that is
/// run by hand never meets a stale one.
pub fn path() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| std::env::var_os("IOMGR_BIN").map_or_else(build, PathBuf::from))
}

fn build() -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--release", "--package", "iomgr", "--message-format", "json"]);
    let output = command.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let messages = String::from_utf8_lossy(&output.stdout);
    let values = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let binary = values
        .filter(|value| value["target"]["name"] == "iomgr")
        .find_map(|value| {
            let executable = value["executable"].as_str()?;
            Some(PathBuf::from(executable))
        });
    binary.expect("cargo names the executable that it built")
}
