//! The guards themselves, on real devices.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use iomgr_tests::{Blkio, Loop, Mount, NbdFuse, Nbdkit, Process, TempDir, Tool, need};

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
