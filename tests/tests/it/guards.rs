//! The guards themselves, on real devices.

use std::fs;
use std::io::{BufRead, BufReader};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use iomgr_tests::{Blkio, Loop, Mount, NbdFuse, Nbdkit, Process, TempDir, Tool, need, wait};
use rustix::process::Signal;

#[test]
fn guards_loop_device_and_mount_leave_nothing() {
    if !need::loop_devices() {
        return;
    }
    let dir = TempDir::new();
    let file = dir.join("disk");
    fs::File::create(&file).unwrap().set_len(16 << 20).unwrap();
    let device = Loop::attach(&file);
    Tool::new("mkfs.ext4").args(["-q", "-F"]).arg(device.path()).run();
    let mount = Mount::device(device.path(), &dir.join("mnt"), "noatime");
    fs::write(mount.join("hello"), "world").unwrap();
    let name = device.path().file_name().unwrap().to_owned();
    let panic = catch_unwind(AssertUnwindSafe(move || {
        let _owned = (mount, device);
        panic!("on purpose");
    }));
    assert!(panic.is_err());
    let backing = Path::new("/sys/block").join(name).join("loop/backing_file");
    assert!(!fs::read_to_string(backing).is_ok_and(|text| text.trim() == file.to_str().unwrap()));
}

/// A process that holds one of each guard, its child, and its folder.
fn holder() -> (Process, String, PathBuf) {
    let tool = Tool::new(env!("CARGO_BIN_EXE_hold"));
    let process = Process::start(tool, Stdio::piped(), Stdio::inherit());
    let mut line = String::new();
    BufReader::new(process.take_stdout()).read_line(&mut line).unwrap();
    let (child, folder) = line.trim().split_once(' ').unwrap();
    (process, format!("/proc/{child}"), PathBuf::from(folder))
}

/// Nothing of the folder is mounted or backs a loop device, and it is gone itself.
fn is_undone(folder: &Path) -> bool {
    let text = folder.to_str().unwrap();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    !folder.exists() && !mounts.contains(text) && !Tool::new("losetup").arg("--list").run().contains(text)
}

#[test]
fn guards_are_undone_on_ctrl_c_and_sigterm() {
    if !need::loop_devices() {
        return;
    }
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let (process, child, folder) = holder();
        assert!(folder.join("mnt/lost+found").exists());
        process.signal(signal);
        assert_eq!(process.exit_code(), code);
        assert!(is_undone(&folder));
        assert!(!Path::new(&child).exists());
    }
}

#[test]
fn guards_of_a_killed_process_are_undone_by_the_next() {
    if !need::loop_devices() {
        return;
    }
    let (process, child, folder) = holder();
    process.signal(Signal::KILL);
    assert!(process.ended_within(wait::PATIENCE).is_some());
    assert!(
        wait::until(|| !Path::new(&child).exists()),
        "a child outlived its parent"
    );
    // The next of any test's processes: others may run beside this one.
    let (_next, ..) = holder();
    // A loop device is let go lazily.
    assert!(wait::until(|| is_undone(&folder)));
}

#[test]
fn guards_failing_flush_reaches_the_file() {
    if !need::fuse() || !need::tools(&["nbdkit"]) {
        return;
    }
    let dir = TempDir::new();
    let trip = dir.join("trip");
    let nbdkit = Nbdkit::failing_flush(&dir.join("sock"), &dir.join("store"), &trip, 1 << 20);
    let fuse = NbdFuse::mount(&nbdkit.uri(), &dir.join("disk"));
    let file = fs::OpenOptions::new().write(true).open(fuse.path()).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[7; 4096], 8192).unwrap();
    file.sync_data().unwrap();
    assert_eq!(fs::read(dir.join("store")).unwrap()[8192..8192 + 4096], [7; 4096]);
    fs::write(&trip, "").unwrap();
    assert!(file.sync_data().is_err());
    drop(file);
    fuse.unmount();
}

#[test]
fn guards_throttle_is_lifted() {
    if !need::blkio() {
        return;
    }
    let dir = TempDir::new();
    let file = dir.join("disk");
    fs::File::create(&file).unwrap().set_len(1 << 20).unwrap();
    let device = Loop::attach(&file);
    let throttle = Blkio::new(&device);
    throttle.stall();
    let script = r#"echo $$ >"$1"; exec dd if=/dev/zero of="$2" oflag=direct bs=4k count=1 status=none"#;
    let tool = Tool::new("sh")
        .args(["-c", script, "sh"])
        .arg(throttle.procs())
        .arg(device.path());
    let writer = Process::start(tool, Stdio::null(), Stdio::inherit());
    assert!(
        writer.ended_within(Duration::from_millis(300)).is_none(),
        "the write is not stalled"
    );
    throttle.lift();
    assert_eq!(writer.exit_code(), 0);
}
