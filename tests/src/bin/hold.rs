//! Sets up one of each guard and waits to be ended: what the guards' own tests interrupt and kill.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "its parent reads it")]
#![allow(clippy::unwrap_used, reason = "a helper of tests fails by panicking")]

use std::fs::File;
use std::process::Stdio;

use iomgr_tests::{Loop, Mount, Process, TempDir, Tool};

fn main() {
    let dir = TempDir::new();
    let file = dir.join("disk");
    File::create(&file).unwrap().set_len(16 << 20).unwrap();
    let device = Loop::attach(&file);
    Tool::new("mkfs.ext4").args(["-q", "-F"]).arg(device.path()).run();
    let _mount = Mount::device(device.path(), &dir.join("mnt"), "noatime");
    let child = Process::start(Tool::new("sleep").arg("1000"), Stdio::null(), Stdio::null());
    println!("{} {}", child.pid(), dir.path().display());
    loop {
        std::thread::park();
    }
}
