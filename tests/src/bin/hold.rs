//! Sets up one of each guard and waits to be ended: what the guards' own tests interrupt and kill.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "its parent reads it")]
#![allow(clippy::unwrap_used, reason = "a helper of tests fails by panicking")]

use std::fs::File;
use std::process::Stdio;

use iomgr_tests::{Loop, Mount, Process, TempDir, Tool, wait};

fn main() {
    let dir = TempDir::new();
    let file = dir.join("disk");
    File::create(&file).unwrap().set_len(16 << 20).unwrap();
    let device = Loop::attach(&file);
    Tool::new("mkfs.ext4").args(["-q", "-F"]).arg(device.path()).run();
    let _mount = Mount::device(device.path(), &dir.join("mnt"), "noatime");
    let child = Process::start(Tool::new("sleep").arg("1000"), Stdio::null(), Stdio::null());
    // `setpriv` stands between us and the child until it has asked for its parent's death to be its own.
    let name = format!("/proc/{}/comm", child.pid());
    assert!(wait::until(
        || std::fs::read_to_string(&name).is_ok_and(|name| name.trim() == "sleep")
    ));
    println!("{} {}", child.pid(), dir.path().display());
    loop {
        std::thread::park();
    }
}
