//! The managers' hooks under real clients: every request is counted once, on the manager that admitted it, and managers are
//! swapped while clients work.

mod detach;
mod idle;
mod policies;
mod shares;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use iomgr_core::manager::test_utils::CountingManager;
use iomgr_core::manager::{Manager, Registry};
use iomgr_tests::{TempDir, Tool, need};
use vbd::{CreateOptions, Disk, DiskOptions, Server, ServerOptions, create};

use crate::clients::{fio_verify, nbdcopy, qemu_io};

const SIZE_BYTES: u64 = 64 << 20;
const SWAPS: u32 = 1000;
const REPLACEMENTS: u32 = 50;

/// A server in this process, so that the test is a manager's author.
struct InProcess {
    server: Server,
    dir: TempDir,
}

impl InProcess {
    fn start(image: &str, fixed: bool, threads: u16) -> Self {
        let dir = TempDir::new();
        let path = dir.join(image);
        create(
            &path,
            &CreateOptions {
                fixed,
                ..CreateOptions::new(SIZE_BYTES)
            },
        )
        .unwrap();
        let disk = Disk::open(&path, &DiskOptions::default()).unwrap();
        let options = ServerOptions {
            socket: Some(dir.join("nbd")),
            control: Some(dir.join("control")),
            threads,
            ..ServerOptions::default()
        };
        Self {
            server: Server::start(disk, &options).unwrap(),
            dir,
        }
    }

    fn registry(&self) -> &Registry {
        self.server.registry()
    }

    /// Ends the server; what it left can be looked at.
    fn stop(self) -> TempDir {
        let pending = self.registry().clone();
        self.server.stop().unwrap();
        assert_eq!(pending.pending_total(), 0, "S0-2: nothing is pending at the end");
        self.dir
    }
}

#[test]
fn hooks_count_every_request_of_real_clients() {
    if !need::tools(&["nbdcopy", "qemu-io", "fio"]) {
        return;
    }
    for (image, fixed) in [("a.img", false), ("fixed.vhd", true), ("dynamic.vhd", false)] {
        let at = InProcess::start(image, fixed, 2);
        let manager = CountingManager::new("counting");
        at.registry()
            .register(Arc::clone(&manager) as Arc<dyn Manager>)
            .unwrap();
        let uri = at.server.uri();
        qemu_io(uri.as_ref());
        nbdcopy(uri.as_ref(), at.dir.join("copy").as_os_str());
        fio_verify(&uri);
        at.stop();
        manager.assert_over();
        let seen = manager.seen();
        assert!(seen.allocs > 1000 && seen.allocs == seen.frees, "{image}: {seen:?}");
    }
}

#[test]
fn hooks_are_swapped_1000_times_under_load() {
    if !need::tools(&["fio"]) {
        return;
    }
    let at = InProcess::start("a.vhd", false, 2);
    let uri = at.server.uri();
    let over = AtomicBool::new(false);
    let (rounds, managers) = std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut rounds = 0;
            while !over.load(Ordering::Relaxed) {
                fio_verify(&uri);
                rounds += 1;
            }
            rounds
        });
        let managers = swap(at.registry());
        over.store(true, Ordering::Relaxed);
        (load.join().unwrap(), managers)
    });
    at.stop();
    managers.iter().for_each(|manager| manager.assert_over());
    let allocs: u64 = managers.iter().map(|manager| manager.seen().allocs).sum();
    println!("{SWAPS} swaps during {rounds} rounds of fio, {allocs} requests under test managers");
    assert!(allocs > 1000);
}

/// Both images hold the same pattern everywhere and writers write nothing else, so that a read of anything else, and any
/// failure, is the replacement's fault.
#[test]
fn hooks_see_no_failure_while_the_image_is_replaced() {
    if !need::tools(&["fio", "qemu-io", "qemu-img"]) {
        return;
    }
    let at = InProcess::start("a.vhd", false, 2);
    let manager = CountingManager::new("counting");
    at.registry()
        .register(Arc::clone(&manager) as Arc<dyn Manager>)
        .unwrap();
    let uri = at.server.uri();
    let fill = format!("write -P 0x5a 0 {SIZE_BYTES}");
    Tool::new("qemu-io").args(["-f", "raw", "-c", &fill, &uri]).run();
    // The file must be whole before it is copied: a closed image is.
    let (first, second) = (at.dir.join("a.vhd"), at.dir.join("b.vhd"));
    let spare = at.dir.join("spare.img");
    create(&spare, &CreateOptions::new(SIZE_BYTES)).unwrap();
    let disk = at.server.disks().remove(0);
    let replace = |path: &std::path::Path| {
        disk.replace(path, &DiskOptions::default(), Duration::from_secs(10))
            .unwrap()
    };
    replace(&spare);
    std::fs::copy(&first, &second).unwrap();
    replace(&first);

    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                fio_pattern(&uri);
            }
        });
        for turn in 0..REPLACEMENTS {
            replace(if turn % 2 == 0 { &second } else { &first });
            // Not to wait for anything: replacements are to be spread over the load.
            std::thread::sleep(Duration::from_millis(20));
        }
        over.store(true, Ordering::Relaxed);
        load.join().unwrap();
    });
    let replaced_by_another_size = disk.replace(&at.dir.join("none.vhd"), &DiskOptions::default(), Duration::ZERO);
    assert!(replaced_by_another_size.is_err());
    drop(disk);
    let dir = at.stop();
    manager.assert_over();

    for image in [dir.join("a.vhd"), dir.join("b.vhd")] {
        let check = format!("read -P 0x5a 0 {SIZE_BYTES}");
        let read = Tool::new("qemu-io").args(["-f", "vpc", "-c", &check]).arg(&image).run();
        assert!(!read.contains("failed"), "{read}");
        Tool::iomgr().arg("check").arg(&image).run();
    }
}

/// Reads that must find the pattern, and writes of it, on two connections each.
fn fio_pattern(uri: &str) {
    let job = |name: &str, rw: &str| vec![format!("--name={name}"), format!("--rw={rw}")];
    Tool::new("fio")
        .args([
            "--ioengine=nbd",
            "--iodepth=32",
            "--numjobs=2",
            "--bssplit=4k/50:64k/50",
            "--size=32M",
        ])
        .args([
            &format!("--uri={uri}"),
            "--verify=pattern",
            "--verify_pattern=0x5a",
            "--verify_fatal=1",
            "--verify_state_save=0",
        ])
        .args(["--do_verify=0", "--group_reporting"])
        .args(job("reads", "randread"))
        .args(job("writes", "randwrite"))
        .run();
}

/// Swaps a thousand times between managers that say go, one that holds all but eight requests, and "none"; ends with "none".
fn swap(registry: &Registry) -> Vec<Arc<CountingManager>> {
    let mut managers = Vec::new();
    for turn in 0..SWAPS {
        let next = match turn % 3 {
            0 => CountingManager::new("all"),
            1 => CountingManager::with_limit("eight", 8),
            _ => {
                registry.unregister(&registry.current()).unwrap();
                continue;
            }
        };
        registry.replace(Arc::clone(&next) as Arc<dyn Manager>).unwrap();
        managers.push(next);
        // Not to wait for anything: swaps are to be spread over the load.
        std::thread::sleep(Duration::from_millis(2));
    }
    registry.unregister(&registry.current()).unwrap();
    managers
}
