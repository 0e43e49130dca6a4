//! `iomgr dmio` on a VHD whose file system is stalled.

use std::fs::{self, File};
use std::path::PathBuf;

use iomgr_tests::{Blkio, Loop, Mount, TempDir, Tool, need};

use super::verb::{ended, lift_when, states_of, write_under};

const OLD: u8 = 0x55;
const NEW: u8 = 0xAA;
/// Given up at once, while the file system is stalled.
const GIVE_UP: [&str; 3] = ["--timeout", "100ms", "--cancel-on-timeout"];

/// An image whose first block is allocated, on a file system that is stalled. The order of the fields is the order of the teardown.
struct Stalled {
    throttle: Blkio,
    image: PathBuf,
    _mount: Mount,
    _device: Loop,
    dir: TempDir,
}

impl Stalled {
    fn new() -> Option<Self> {
        if !need::blkio() {
            return None;
        }
        let dir = TempDir::new();
        let backing = dir.join("backing");
        File::create_new(&backing).unwrap().set_len(64 << 20).unwrap();
        let device = Loop::attach(&backing);
        Tool::new("mkfs.ext4").args(["-q", "-F"]).arg(device.path()).run();
        let mount = Mount::device(device.path(), &dir.join("mnt"), "noatime");
        let image = mount.join("disk.vhd");
        Tool::iomgr().arg("create").arg(&image).args(["--size", "32M"]).run();
        let write = Tool::iomgr().args(["dmio", "write", "--data", &format!("{OLD:#x}")]);
        let ended = write.arg(&image).run_for_code(0);
        assert_eq!(ended.stderr, "", "direct I/O is what goes on without its process");
        Tool::new("sync").arg("-f").arg(mount.path()).run();
        let throttle = Blkio::new(&device);
        throttle.stall();
        Some(Self {
            throttle,
            image,
            _mount: mount,
            _device: device,
            dir,
        })
    }

    /// A region's name.
    fn region(&self, start: u64) -> String {
        format!("{}@{start}+4096", self.image.display())
    }

    fn write(&self, start: u64) -> Tool {
        write_under(&self.throttle).args(GIVE_UP).arg(self.region(start))
    }

    /// Reads a region as soon as nobody has the image any more.
    fn read(&self, start: u64) -> Vec<u8> {
        let output = self.dir.join("read");
        let tool = Tool::iomgr().args(["dmio", "read", "--lock-timeout", "60s", "--output"]);
        tool.arg(&output).arg(self.region(start)).run();
        fs::read(output).unwrap()
    }

    fn check(&self) {
        Tool::iomgr().arg("check").arg(&self.image).run();
    }
}

#[test]
fn regions_vhd_write_that_was_given_up_lands_before_the_next_one_gets_the_image() {
    let Some(stalled) = Stalled::new() else { return };
    // That it ends at all is what is to be seen.
    let ended = stalled.write(0).run_for_code(3);
    assert_eq!(states_of(&ended, &stalled.region(0)), ["CANCELLED"], "{ended:?}");
    assert!(
        ended.stdout.contains("the device has it") && ended.stderr.contains("may still reach the disk"),
        "{ended:?}"
    );
    let read = Tool::iomgr().args(["dmio", "read", "--lock-timeout", "0"]);
    let locked = read.arg(&stalled.image).run_for_code(1);
    assert!(locked.stderr.contains("in use"), "{locked:?}");
    stalled.throttle.lift();
    assert_eq!(stalled.read(0), [NEW; 4096]);
    stalled.check();
}

/// Of its allocation any part may have been done: the image is as a crash leaves it.
#[test]
fn regions_vhd_allocation_that_was_given_up_leaves_old_or_new() {
    let Some(stalled) = Stalled::new() else { return };
    let start = 8 << 20;
    let (process, stdout) = lift_when(stalled.write(start), "CANCELLED", || stalled.throttle.lift());
    let ended = ended(&process, stdout);
    assert_eq!(ended.code, Some(3), "{ended:?}");
    assert_eq!(states_of(&ended, &stalled.region(start)), ["CANCELLED"], "{ended:?}");
    for sector in stalled.read(start).chunks(512) {
        assert!(
            [[0; 512], [NEW; 512]].contains(sector.try_into().unwrap()),
            "{sector:x?}"
        );
    }
    assert_eq!(stalled.read(0), [OLD; 4096]);
    stalled.check();
}
