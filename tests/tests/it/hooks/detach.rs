//! S0-4 and S0-5: a device that is throttled to next to nothing is detached; its waiters end, and nobody else notices.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use iomgr_core::manager::test_utils::CountingManager;
use iomgr_core::manager::{DeviceId, Manager, Verdict, Wait};
use iomgr_core::{Class, Timestamp};
use iomgr_tests::nbd::{Command, Span};
use iomgr_tests::{Client, Tool, need, wait};
use vbd::{ControlClient, CreateOptions, DiskOptions, PauseOptions, create};

use super::{InProcess, SIZE_BYTES};
use crate::clients::fio_verify;
use crate::disk::{Disk, Kind};

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
        let disk = vbd::Disk::open(&self.dir.join("slow.vhd"), &DiskOptions::default()).unwrap();
        self.server.attach(disk.into()).unwrap();
    }

    fn slow_client(&self) -> Client {
        Client::connect_to(self.server.socket().unwrap(), "slow").unwrap()
    }
}

/// Commands of a disk that were taken and not answered.
fn unanswered(control: &Path, disk: &str) -> u32 {
    let mut control = ControlClient::connect(control, PATIENCE).unwrap();
    let connections = control.status().unwrap().connections;
    let on_disk = connections
        .iter()
        .filter(|connection| connection.export.as_deref() == Some(disk));
    on_disk.map(|connection| connection.in_flight).sum()
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
            wait::until(|| unanswered(at.server.control(), "slow") >= 64 - 4);
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

/// What a pause holds is nobody's to end but its own, except at the disk's end: that waits for no resume.
#[test]
fn hooks_a_paused_device_is_detached_at_once() {
    let (at, manager) = InProcess::throttled();
    at.attach_slow();
    let mut client = at.slow_client();
    let disk = at.server.disk("slow").unwrap();
    let lease = disk.pause_leased(PauseOptions::default()).unwrap();
    let span = Span { offset: 0, len: 4096 };
    client.send(Command::Read, 0, span, &[]).unwrap();
    wait::until(|| unanswered(at.server.control(), "slow") == 1);
    at.server.detach("slow", PATIENCE).unwrap();
    assert_eq!(client.receive().unwrap().1, Err(SHUTDOWN));
    // Nor does anybody open the image again whose lease ends now.
    drop((lease, disk));
    at.attach_slow();
    assert_eq!(at.slow_client().bytes(0, 512), [0; 512]);
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
    wait::until(|| unanswered(at.server.control(), "slow") >= 60 - 4);
    at.stop();
    let ends: Vec<_> = std::iter::from_fn(|| client.receive().ok()).collect();
    assert_eq!(ends.len(), 60);
    assert!(ends.iter().all(|(_, result)| *result == Ok(())), "{ends:?}");
    manager.assert_over();
}

/// The same by the command line, with the policy that people have: `throttle`, at one write a second.
#[test]
fn hooks_others_go_on_while_a_throttled_device_is_detached() {
    if !need::tools(&["fio", "qemu-io", "nbdinfo"]) {
        return;
    }
    let [fast, slow] = [(); 2].map(|()| Disk::new(Kind::DynamicVhd, SIZE_BYTES));
    let server = fast.serve(&["--queues", "2", "--name", "fast"]);
    let iomgr = |args: &[&str]| {
        let tool = Tool::iomgr().args(args).arg("--control").arg(server.control());
        tool.run()
    };
    iomgr(&["attach", slow.image().to_str().unwrap(), "--name", "slow"]);
    iomgr(&["manager", "set", "throttle", "--iops-write", "1", "--device", "slow"]);
    let socket = server.socket();
    let uri = |name: &str| format!("nbd+unix:///{name}?socket={}", socket.display());
    std::thread::scope(|scope| {
        let load = scope.spawn(|| fio_verify(&uri("fast")));
        let writer = scope.spawn(|| {
            let fio = Tool::new("fio").args(["--name=slow", "--ioengine=nbd", "--rw=randwrite", "--bs=4k"]);
            let fio = fio.args(["--iodepth=32", "--size=1M"]);
            fio.arg(format!("--uri={}", uri("slow"))).end()
        });
        let mut client = Client::connect_to(&server.socket(), "slow").unwrap();
        wait::until(|| unanswered(&server.control(), "slow") >= 30);
        // What is held is writes of this disk; not its reads, nor its flushes, nor anything of another.
        assert_eq!(client.bytes(0, 512).len(), 512);
        assert_eq!(client.flush().unwrap(), Ok(()));
        let flushed = Tool::new("qemu-io").args(["-f", "raw", "-c", "flush"]).arg(uri("fast"));
        assert!(!flushed.run().contains("failed"));
        assert!(unanswered(&server.control(), "slow") >= 28, "they are held still");
        iomgr(&["detach", "slow"]);
        let writer = writer.join().unwrap();
        assert_ne!(writer.code, Some(0), "its writes ended, and not well: {writer:?}");
        let list = Tool::new("nbdinfo").args(["--list", "--json"]).arg(uri("")).json();
        assert_eq!(list["exports"].as_array().unwrap().len(), 1, "{list}");
        // Somebody else may have it at once.
        slow.is_clean();
        load.join().unwrap();
    });
    server.stop();
    fast.is_clean();
}
