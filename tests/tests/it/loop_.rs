//! Group `loop`: loop devices below the product, and real block devices on top of it.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use iomgr_core::{BlockStatus, Device, RequestFlags, Sector, SectorCount, SectorRange};
use iomgr_tests::{Client, Loop, Mount, NbdFuse, Process, Server, TempDir, Tool, need, wait};
use rustix::process::Signal;
use tqueue::EngineKind;
use vbd::{BlockingDisk, DiskOptions, Format, PauseOptions, ResumeOptions, ServerOptions};

use crate::clients;
use crate::disk::{Disk, Kind, soak};

const MIB: u64 = 1 << 20;

#[test]
fn loop_clients_agree_on_a_loop_device() {
    if need::loop_devices() {
        clients::agree_on(Kind::LoopDevice);
    }
}

/// Direct I/O on a real block device, and on a VHD whose slots are aligned for it.
#[test]
fn loop_direct_io_keeps_its_bytes() {
    if !need::loop_devices() || !need::tools(&["qemu-io"]) {
        return;
    }
    for kind in [Kind::LoopDevice, Kind::DynamicVhd] {
        let disk = Disk::new(kind, 16 * MIB);
        let server = disk.serve(&["--cache", "none"]);
        let commands = [
            "write -P 0x5a 512 1024",
            "write -P 0xa5 4M 64k",
            "flush",
            "read -P 0x5a 512 1024",
            "read -P 0xa5 4M 64k",
            "read -P 0 0 512",
        ];
        let commands = commands.iter().flat_map(|command| ["-c", command]);
        Tool::new("qemu-io")
            .args(["-f", "raw"])
            .args(commands)
            .arg(server.uri())
            .run();
        server.stop();
        let at = if kind == Kind::LoopDevice {
            Some(disk.image())
        } else {
            None
        };
        if let Some(device) = at {
            let read = [
                "-r",
                "-f",
                "raw",
                "-c",
                "read -P 0x5a 512 1024",
                "-c",
                "read -P 0xa5 4M 64k",
            ];
            Tool::new("qemu-io").args(read).arg(device).run();
        }
    }
}

/// The kernel may fill a block device with zeros for want of something better, but not where it is asked for a hole.
#[test]
fn loop_zeros_are_fast_or_refused() {
    if !need::loop_devices() {
        return;
    }
    let disk = Disk::new(Kind::LoopDevice, 16 * MIB);
    let options = DiskOptions {
        format: Some(Format::Raw),
        ..DiskOptions::default()
    };
    let opened = vbd::Disk::open(disk.image(), &options).unwrap();
    let mut queue = BlockingDisk::open(&opened, EngineKind::Auto).unwrap();
    let range = SectorRange::new(Sector(8), SectorCount(16)).unwrap();
    let mut read = vec![0; 16 * 512];
    queue.write(&[7; 16 * 512], range.start(), RequestFlags::FUA).unwrap();
    let kept = queue.write_zeroes(range, RequestFlags::FAST_ZERO | RequestFlags::NO_UNMAP);
    assert_eq!(kept.unwrap_err().kind(), ErrorKind::Unsupported);
    queue.read(&mut read, range.start()).unwrap();
    assert!(read.iter().all(|&byte| byte == 7), "nothing was changed");
    if queue.write_zeroes(range, RequestFlags::FAST_ZERO).is_ok() {
        queue.read(&mut read, range.start()).unwrap();
        assert!(read.iter().all(|&byte| byte == 0));
    }
    // A device does not tell where its holes are.
    assert_eq!(queue.block_status(range), BlockStatus::data(range.count()));
    queue.prefetch(range).unwrap();
}

/// Writes would fail one by one otherwise, each with EPERM.
#[test]
fn loop_a_write_protected_device_is_opened_for_reading_alone() {
    if !need::loop_devices() {
        return;
    }
    let dir = TempDir::new();
    let file = dir.join("disk.raw");
    fs::File::create_new(&file).unwrap().set_len(16 * MIB).unwrap();
    // Not by `blockdev --setro`, which the device's next user would find.
    let device = Loop::attach_with(&file, &["--read-only"]);
    let open = |read_only| {
        let options = DiskOptions {
            read_only,
            format: Some(Format::Raw),
            ..DiskOptions::default()
        };
        vbd::Disk::open(device.path(), &options)
    };
    let refused = open(false).unwrap_err();
    assert_eq!(refused.kind(), vbd::ErrorKind::Open);
    assert!(
        refused.to_string().contains("is a read-only block device; --read-only"),
        "{refused}"
    );
    assert!(open(true).unwrap().limits().read_only);
    let open = |read_only| {
        let options = dmio::FileOptions {
            read_only,
            buffered: false,
        };
        dmio::FileDevice::open(device.path(), options)
    };
    let refused = open(false).unwrap_err();
    assert!(refused.to_string().contains("read-only block device"), "{refused}");
    assert!(open(true).unwrap().limits().read_only);
}

/// Clients order what they send to a disk whose seeks cost.
#[test]
fn loop_a_spinning_disk_is_announced_as_one() {
    if !need::loop_devices() || !need::tools(&["nbdinfo"]) {
        return;
    }
    let disk = Disk::new(Kind::LoopDevice, 16 * MIB);
    let device = disk.image().file_name().unwrap().to_str().unwrap().to_owned();
    let attribute = format!("/sys/block/{device}/queue/rotational");
    let before = fs::read_to_string(&attribute).unwrap();
    for (rotational, code) in [("1", 0), ("0", 2)] {
        fs::write(&attribute, rotational).unwrap();
        let server = disk.serve(&[]);
        let question = Tool::new("nbdinfo").args(["--is", "rotational"]).arg(server.uri());
        question.run_for_code(code);
        server.stop();
    }
    fs::write(&attribute, before).unwrap();
}

/// The device grows with its file once it is told to look.
#[test]
fn loop_an_enlarged_device_is_served_to_its_new_end() {
    if !need::loop_devices() {
        return;
    }
    let disk = Disk::new(Kind::LoopDevice, 16 * MIB);
    let options = DiskOptions {
        format: Some(Format::Raw),
        ..DiskOptions::default()
    };
    let opened = vbd::Disk::open(disk.image(), &options).unwrap();
    let mut queue = BlockingDisk::open(&opened, EngineKind::Auto).unwrap();
    let file = OpenOptions::new().write(true).open(disk.dir.join("disk.raw")).unwrap();
    file.set_len(32 * MIB).unwrap();
    Tool::new("losetup").arg("--set-capacity").arg(disk.image()).run();
    assert_eq!(opened.limits().size, SectorCount(32 * MIB / 512));
    let last = Sector(32 * MIB / 512 - 1);
    queue.write(&[9; 512], last, RequestFlags::FUA).unwrap();
    let mut read = [0; 512];
    queue.read(&mut read, last).unwrap();
    assert_eq!(read, [9; 512]);
}

/// A device has no name to wait for: who interrupts the copy must know that half of it is there.
/// Nobody else may have a device that is served; one whose disk is paused is anybody's.
#[test]
fn loop_a_paused_disk_leaves_its_device_to_others() {
    if !need::loop_devices() {
        return;
    }
    let image = Disk::new(Kind::LoopDevice, 16 * MIB);
    let options = DiskOptions {
        lock_timeout: Duration::ZERO,
        ..DiskOptions::default()
    };
    let disk = vbd::Disk::open(image.image(), &options).unwrap();
    let sockets = ServerOptions {
        socket: Some(image.dir.join("nbd")),
        control: Some(image.dir.join("control")),
        threads: 2,
        ..ServerOptions::default()
    };
    let server = vbd::Server::start(disk.clone(), &sockets).unwrap();
    let mut client = Client::connect_to(&image.dir.join("nbd"), "").unwrap();
    let alone = || {
        let exclusively = rustix::fs::OFlags::EXCL.bits().cast_signed();
        OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(exclusively)
            .open(image.image())
    };
    for round in 1..=20 {
        assert_eq!(client.write(0, 0, &[round; 4096]).unwrap(), Ok(()));
        assert!(alone().is_err());
        disk.pause(PauseOptions::default()).unwrap();
        // The kernel lets go of a file that a ring had in its own time.
        let mut other = None;
        wait::until(|| {
            other = alone().ok();
            other.is_some()
        });
        let mut other = other.expect("the device is free");
        let mut bytes = [0; 4096];
        other.read_exact(&mut bytes).unwrap();
        assert_eq!(bytes, [round; 4096]);
        assert_eq!(
            disk.resume(&ResumeOptions::default()).unwrap_err().kind(),
            vbd::ErrorKind::Locked
        );
        drop(other);
        disk.resume(&ResumeOptions::default()).unwrap();
    }
    drop(disk);
    server.stop().unwrap();
}

#[test]
fn loop_an_interrupted_conversion_says_what_the_device_holds() {
    if !need::loop_devices() {
        return;
    }
    let disk = Disk::new(Kind::LoopDevice, 256 * MIB);
    let source = disk.dir.join("source.img");
    fs::write(&source, vec![1; 256 << 20]).unwrap();
    let stderr = (0..20).find_map(|_| interrupted_conversion(&source, &disk));
    let stderr = stderr.expect("256 MiB are not written before a signal arrives, 20 times over");
    assert!(stderr.contains("interrupted; the device holds half a copy"), "{stderr}");
}

/// What it says when it is interrupted after its first write; nothing if it is faster.
fn interrupted_conversion(source: &Path, disk: &Disk) -> Option<String> {
    OpenOptions::new()
        .write(true)
        .open(disk.image())
        .unwrap()
        .write_all(&[0; 4096])
        .unwrap();
    let convert = Tool::iomgr().args(["convert", "--force", "--from", "raw"]);
    let convert = Process::start(convert.arg(source).arg(disk.image()), Stdio::null(), Stdio::piped());
    let mut stderr = convert.take_stderr();
    wait::until(|| first_byte(disk) == 1);
    for signal in [Signal::STOP, Signal::INT, Signal::CONT] {
        convert.signal(signal);
    }
    let mut said = String::new();
    stderr.read_to_string(&mut said).unwrap();
    (convert.exit_code() == 130).then_some(said)
}

fn first_byte(disk: &Disk) -> u8 {
    let mut byte = [0];
    fs::File::open(disk.image()).unwrap().read_exact(&mut byte).unwrap();
    byte[0]
}

/// `--force` is about files that exist, not about devices that somebody has mounted.
#[test]
fn loop_a_device_in_use_is_not_made_an_image() {
    if !need::loop_devices() {
        return;
    }
    let disk = Disk::new(Kind::LoopDevice, 16 * MIB);
    let exclusively = rustix::fs::OFlags::EXCL.bits().cast_signed();
    let mounted = OpenOptions::new()
        .read(true)
        .custom_flags(exclusively)
        .open(disk.image());
    let mounted = mounted.unwrap();
    let create = || {
        Tool::iomgr()
            .args(["create", "--force", "--format", "vhd", "--size", "1M"])
            .arg(disk.image())
    };
    create().run_for_code(1);
    drop(mounted);
    create().run();
}

#[test]
fn loop_ext4_survives_reopening() {
    file_system_survives(&["mkfs.ext4", "-q", "-F"], &["fsck.ext4", "-f", "-n"], "noatime");
}

#[test]
fn loop_xfs_survives_reopening() {
    file_system_survives(&["mkfs.xfs", "-q", "-f"], &["xfs_repair", "-n"], "noatime");
}

/// Server → nbdfuse → loop device → file system → a tree; unmounted, checked, reopened, compared.
fn file_system_survives(make: &[&str], check: &[&str], options: &str) {
    if !need::fuse() || !need::loop_devices() || !need::tools(&[make[0], check[0]]) {
        return;
    }
    let disk = Disk::new(Kind::DynamicVhd, if soak() { 2048 * MIB } else { 512 * MIB });
    let tree = disk.dir.join("tree");
    plant(&tree);

    let server = disk.serve(&[]);
    on_device(&server, &disk, |device| {
        run(make, device);
        let mount = Mount::device(device, &disk.dir.join("mnt"), options);
        Tool::new("cp").arg("-a").arg(&tree).arg(mount.path()).run();
        mount.unmount();
        run(check, device);
    });
    server.stop();
    disk.is_clean();

    let server = disk.serve(&["--read-only"]);
    on_device(&server, &disk, |device| {
        run(check, device);
        let mount = Mount::device(
            device,
            &disk.dir.join("mnt"),
            &format!("{options},ro,{}", no_replay(make[0])),
        );
        Tool::new("diff").arg("-r").arg(&tree).arg(mount.join("tree")).run();
    });
    server.stop();
}

/// A read-only device cannot replay a journal; after a clean unmount there is none to replay.
fn no_replay(make: &str) -> &'static str {
    if make == "mkfs.xfs" { "norecovery" } else { "noload" }
}

/// Sets the devices up over a server and takes them down in the right order.
fn on_device(server: &Server, disk: &Disk, work: impl FnOnce(&Path)) {
    let fuse = NbdFuse::mount(server.uri(), &disk.dir.join("nbd-disk"));
    let device = Loop::attach(fuse.path());
    work(device.path());
    drop(device);
    fuse.unmount();
}

fn run(words: &[&str], device: &Path) {
    Tool::new(words[0]).args(&words[1..]).arg(device).run();
}

/// A tree of many small files and some large ones, deep folders and links.
fn plant(root: &Path) {
    let mut random = fastrand::Rng::with_seed(3);
    for folder in 0..20 {
        let path = root.join(format!("{folder}/a/b"));
        fs::create_dir_all(&path).unwrap();
        for file in 0..20 {
            let mut bytes = vec![0; random.usize(0..20_000)];
            random.fill(&mut bytes);
            fs::write(path.join(format!("file {file}")), bytes).unwrap();
        }
        std::os::unix::fs::symlink("file 0", path.join("link")).unwrap();
    }
    let mut large = vec![0; 20 << 20];
    random.fill(&mut large);
    fs::write(root.join("large"), large).unwrap();
}
