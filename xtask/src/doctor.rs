//! `cargo xtask doctor`: what this machine can run, and what is lacking for the rest.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::Result;
use crate::cmd;
use crate::tools::{self, TOOLS};

/// What was found: there, there with words, or lacking with the reason.
type Finding = std::result::Result<String, String>;

/// Prints one line per thing; lacking things are no failure.
pub(crate) fn run() -> Result {
    section("machine");
    show("kernel", &read("/proc/sys/kernel/osrelease"));
    show(
        "root",
        &yes_no(
            tools::is_root(),
            "not root: loop devices, mounts and FUSE tests are skipped",
        ),
    );
    show("processors", &Ok(std::thread::available_parallelism()?.to_string()));
    show("memlock", &memlock());
    section("kernel interfaces");
    show("io_uring", &io_uring());
    show("loop devices", &node("/dev/loop-control"));
    show("FUSE", &node("/dev/fuse"));
    show("blkio throttling", &blkio());
    show("ublk", &node("/dev/ublk-control"));
    show("/dev/shm", &node("/dev/shm"));
    section("tools");
    show(
        "cargo-nextest",
        &version("cargo-nextest", "nextest is faster, plain `cargo test` works as well"),
    );
    show(
        "cargo-fuzz",
        &version("cargo-fuzz", "cargo install cargo-fuzz --locked"),
    );
    for tool in TOOLS {
        show(
            tool.program,
            &version(tool.program, &format!("package {}: {}", tool.package, tool.why)),
        );
    }
    section("test data");
    show(
        "../shared/vhd-images",
        &node(&cmd::root().join("../shared/vhd-images").to_string_lossy()),
    );
    Ok(())
}

fn section(name: &str) {
    println!("\n{name}");
}

fn show(name: &str, finding: &Finding) {
    match finding {
        Ok(words) => println!("  yes  {name:<22} {words}"),
        Err(words) => println!("  no   {name:<22} {words}"),
    }
}

fn yes_no(yes: bool, otherwise: &str) -> Finding {
    if yes {
        Ok(String::new())
    } else {
        Err(otherwise.to_owned())
    }
}

fn read(path: &str) -> Finding {
    fs::read_to_string(path)
        .map(|text| text.trim().to_owned())
        .map_err(|error| error.to_string())
}

fn node(path: &str) -> Finding {
    if Path::new(path).exists() {
        Ok(String::new())
    } else {
        Err(format!("{path} does not exist"))
    }
}

/// The locked-memory limit; registered buffers count against it without CAP_IPC_LOCK.
fn memlock() -> Finding {
    let limits = read("/proc/self/limits")?;
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max locked memory"))
        .ok_or("not in /proc/self/limits")?;
    let soft = line.split_whitespace().nth(3).ok_or("not in /proc/self/limits")?;
    let note = if tools::is_root() {
        " (root is not bound by it)"
    } else {
        ""
    };
    Ok(format!("{soft} bytes{note}"))
}

fn io_uring() -> Finding {
    match read("/proc/sys/kernel/io_uring_disabled").as_deref() {
        Ok("2") => Err("kernel.io_uring_disabled=2".into()),
        Ok("1") if !tools::is_root() => Err("kernel.io_uring_disabled=1 forbids it to this user".into()),
        _ => io_uring_by_fio(),
    }
}

/// A real operation through io_uring: seccomp filters cannot be seen otherwise.
fn io_uring_by_fio() -> Finding {
    if cmd::which("fio").is_none() {
        return Ok("not disabled by sysctl; not tried, fio is lacking".into());
    }
    let mut fio = Command::new("fio");
    fio.args([
        "--name=probe",
        "--ioengine=io_uring",
        "--rw=read",
        "--bs=4k",
        "--size=4k",
        "--filename=/proc/self/exe",
    ]);
    fio.args(["--readonly", "--minimal"]);
    cmd::capture(&mut fio)
        .map(|_| "an operation went through".into())
        .map_err(|error| error.to_string())
}

/// cgroup v1's throttle, by which tests stall a loop device.
fn blkio() -> Finding {
    let there = Path::new("/sys/fs/cgroup/blkio/blkio.throttle.io_serviced").exists();
    yes_no(
        there,
        "no cgroup v1 blkio controller: tests of stalled devices are skipped",
    )
}

/// The first line that `--version` prints; where it is, if it does not know that option.
fn version(program: &str, otherwise: &str) -> Finding {
    let path = cmd::which(program).ok_or_else(|| format!("not found; {otherwise}"))?;
    let output = Command::new(&path)
        .arg("--version")
        .output()
        .map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Ok(path.display().to_string());
    }
    let text = if output.stdout.is_empty() {
        output.stderr
    } else {
        output.stdout
    };
    Ok(String::from_utf8_lossy(&text)
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned())
}
