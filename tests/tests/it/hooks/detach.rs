//! S0-4 and S0-5: a device that is throttled to next to nothing is detached; its waiters end, and nobody else notices.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use iomgr_core::manager::test_utils::CountingManager;
use iomgr_core::manager::{DeviceId, Manager, Verdict, Wait};
use iomgr_core::{Class, Timestamp};
use iomgr_tests::{Client, Tool, need, wait};
use vbd::{ControlClient, CreateOptions, Disk, DiskOptions, create};

use super::{InProcess, SIZE_BYTES};
use crate::clients::fio_verify;

const PATIENCE: Duration = Duration::from_secs(60);
const ROUNDS: usize = 20;
/// NBD's number of `ESHUTDOWN`.
const SHUTDOWN: u32 = 108;

/// A manager that lets one write a second go to all devices but the first.
fn one_write_a_second() -> Arc<CountingManager> {
    let next = Mutex::new(Timestamp::ZERO);
    CountingManager::with_policy("one-a-second", move |ask| {
        let mut next = next.lock().unwrap();
        if ask.device == DeviceId(0) || ask.head.class != Class::Write {
            return Verdict::Go;
        }
        if ask.now < *next {
            return Verdict::No(Wait::Until(*next));
        }
        *next = ask.now + Duration::from_secs(1);
        Verdict::Go
    })
}

impl InProcess {
    /// A server of `a.vhd`, which is not throttled, and of `slow`, which is.
    fn throttled() -> (Self, Arc<CountingManager>) {
        let (at, manager) = (Self::start("a.vhd", false, 2), one_write_a_second());
        at.registry()
            .register(Arc::clone(&manager) as Arc<dyn Manager>)
            .unwrap();
        create(&at.dir.join("slow.vhd"), &CreateOptions::new(SIZE_BYTES)).unwrap();
        (at, manager)
    }

    fn attach_slow(&self) {
        let disk = Disk::open(&self.dir.join("slow.vhd"), &DiskOptions::default()).unwrap();
        self.server.attach(disk.into()).unwrap();
    }

    /// Commands that were taken and not answered.
    fn unanswered(&self) -> u32 {
        let mut control = ControlClient::connect(self.server.control(), PATIENCE).unwrap();
        let connections = control.status().unwrap().connections;
        connections.iter().map(|connection| connection.in_flight).sum()
    }

    fn slow_client(&self) -> Client {
        Client::connect_to(self.server.socket().unwrap(), "slow").unwrap()
    }
}

#[test]
fn hooks_a_throttled_device_is_detached_at_once() {
    let (at, manager) = InProcess::throttled();
    let mut took: Vec<_> = (0..ROUNDS)
        .map(|_| {
            at.attach_slow();
            let mut clients = [(); 2].map(|()| at.slow_client());
            for client in &mut clients {
                for n in 0..32 {
                    client.send_write(0, n << 20, &[1; 4096]).unwrap();
                }
            }
            // One or the other may have been let go meanwhile.
            wait::until(|| at.unanswered() >= 64 - 4);
            let begin = Instant::now();
            at.server.detach("slow", PATIENCE).unwrap();
            let took = begin.elapsed();
            let ends = clients
                .iter_mut()
                .flat_map(|client| std::iter::from_fn(|| client.receive().ok()));
            let refused = ends.filter(|(_, result)| *result == Err(SHUTDOWN)).count();
            assert!(refused >= 64 - 4, "{refused} of 64 are waiters that end");
            took
        })
        .collect();
    took.sort();
    println!(
        "S0-4: a device throttled to one write a second, with 64 of them waiting, is detached within {:?} (median), {:?} (worst)",
        took[ROUNDS / 2],
        took[ROUNDS - 1]
    );
    at.stop();
    manager.assert_over();
}

/// Nobody waits a minute for sixty writes when the server ends: they are let go, and none fails.
#[test]
fn hooks_a_stop_lets_go_what_a_policy_holds() {
    let (at, manager) = InProcess::throttled();
    at.attach_slow();
    let mut client = at.slow_client();
    for n in 0..60 {
        client.send_write(0, n << 20, &[1; 4096]).unwrap();
    }
    wait::until(|| at.unanswered() >= 60 - 4);
    at.stop();
    let ends: Vec<_> = std::iter::from_fn(|| client.receive().ok()).collect();
    assert_eq!(ends.len(), 60);
    assert!(ends.iter().all(|(_, result)| *result == Ok(())), "{ends:?}");
    manager.assert_over();
}

#[test]
fn hooks_others_go_on_while_a_throttled_device_is_detached() {
    if !need::tools(&["fio", "qemu-io", "nbdinfo"]) {
        return;
    }
    let (at, manager) = InProcess::throttled();
    let uri = |name: &str| at.server.addresses()[0].uri(name);
    std::thread::scope(|scope| {
        let load = scope.spawn(|| fio_verify(&uri("a")));
        at.attach_slow();
        let mut seen = at.slow_client();
        let writer = scope.spawn(|| {
            let fio = Tool::new("fio").args(["--name=slow", "--ioengine=nbd", "--rw=randwrite", "--bs=4k"]);
            fio.args(["--iodepth=32", "--size=1M"])
                .arg(format!("--uri={}", uri("slow")))
                .end()
        });
        while at.registry().pending_total() == 0 || manager.seen().ngs == 0 {
            assert_eq!(seen.bytes(0, 512).len(), 512, "reads are not held");
        }
        // A flush of the other device is not held behind what is held here.
        let flushed = Tool::new("qemu-io").args(["-f", "raw", "-c", "flush"]).arg(uri("a"));
        assert!(!flushed.run().contains("failed"));
        at.server.detach("slow", PATIENCE).unwrap();
        let writer = writer.join().unwrap();
        assert_ne!(writer.code, Some(0), "its writes ended, and not well: {writer:?}");
        let list = Tool::new("nbdinfo").args(["--list", "--json"]).arg(uri("")).json();
        assert_eq!(list["exports"].as_array().unwrap().len(), 1, "{list}");
        load.join().unwrap();
    });
    let dir = at.stop();
    manager.assert_over();
    for image in ["a.vhd", "slow.vhd"] {
        Tool::iomgr().arg("check").arg(dir.join(image)).run();
    }
}
