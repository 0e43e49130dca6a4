//! rublk, by the author of the kernel's driver: built once from crates.io, below the target folder.

use std::path::PathBuf;

use crate::cmd;

/// What the bounds are for.
pub(super) const VERSION: &str = "0.2.15";

/// The program; or why there is none, and how to get it.
pub(super) fn provide() -> Result<PathBuf, String> {
    let root = cmd::target().join("bench").join(format!("rublk-{VERSION}"));
    let program = root.join("bin/rublk");
    if program.is_file() {
        return Ok(program);
    }
    let build = root.join("build");
    let mut cargo = cmd::cargo();
    // Without its default features, which want OpenCL.
    cargo.args(["install", "rublk", "--locked", "--no-default-features"]);
    cargo.arg(format!("--version={VERSION}")).arg("--root").arg(&root);
    cargo.env("CARGO_TARGET_DIR", &build).env_remove("RUSTFLAGS");
    let built = cmd::run(&mut cargo);
    // It is not needed again, and large.
    let _ = std::fs::remove_dir_all(build);
    built.map_err(|error| {
        format!("rublk {VERSION} cannot be built ({error}); it needs crates.io, and libclang (`apt-get install libclang-dev`)")
    })?;
    Ok(program)
}
