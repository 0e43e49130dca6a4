//! The managers' hooks under real clients: every request is counted once, on the manager that admitted it, and managers are
//! swapped while clients work.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use iomgr_core::manager::test_utils::CountingManager;
use iomgr_core::manager::{Manager, Registry};
use iomgr_tests::{TempDir, need};
use vbd::{CreateOptions, Disk, DiskOptions, Server, ServerOptions, create};

use crate::clients::{fio_verify, nbdcopy, qemu_io};

const SIZE_BYTES: u64 = 64 << 20;
const SWAPS: u32 = 1000;

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

    /// Ends the server; what it left must be whole.
    fn stop(self) -> PathBuf {
        let pending = self.registry().clone();
        self.server.stop().unwrap();
        assert_eq!(pending.pending_total(), 0, "S0-2: nothing is pending at the end");
        self.dir.path().to_path_buf()
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
