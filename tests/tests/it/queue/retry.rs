//! Storage that goes away and comes back, below a server: its clients need not notice.

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use iomgr_tests::nbd::{EIO, FUA};
use iomgr_tests::{Client, Mount, NbdFuse, Nbdkit, Process, Server, TempDir, Tool, fuse, need, pattern, wait};
use vbd::{CreateOptions, Disk, DiskOptions, RetryOn, RetryPolicy, ServerOptions, create};

const MIB: u64 = 1 << 20;
const MIB_LEN: usize = 1 << 20;
/// How long the storage is away.
const OUTAGE: Duration = Duration::from_secs(5);

/// A server on a FUSE file that fails everything but flushes while the file `trip` exists.
struct Rig {
    server: Server,
    fuse: NbdFuse,
    _nbdkit: Nbdkit,
    dir: TempDir,
}

impl Rig {
    /// `None`, with a word about it, where that cannot be had here.
    fn new(args: &[&str]) -> Option<Self> {
        if !need::fuse() || !need::tools(&["nbdkit"]) {
            return None;
        }
        if !fuse::nbdkit_has_filter("error") {
            need::skip("nbdkit has no filter error");
            return None;
        }
        let dir = TempDir::new();
        let nbdkit = Nbdkit::failing(&dir.join("sock"), &dir.join("store"), &dir.join("trip"), 16 * MIB);
        let fuse = NbdFuse::mount(&nbdkit.uri(), &dir.join("backing"));
        let own = ["--format", "raw", "--name", "disk"];
        let server = Server::start(&dir.join("run"), fuse.path(), &[&own, args].concat());
        Some(Self {
            server,
            fuse,
            _nbdkit: nbdkit,
            dir,
        })
    }

    fn fail(&self) {
        fs::write(self.dir.join("trip"), "").unwrap();
    }

    fn come_back(&self) {
        fs::remove_file(self.dir.join("trip")).unwrap();
    }

    /// What `iomgr status --json` says of the disk.
    fn status(&self) -> serde_json::Value {
        status(&self.server)
    }

    /// Waits until requests wait to be tried again.
    fn wait_for_delayed(&self) {
        assert!(wait::until(|| self.status()["retry"]["waiting"] != 0), "nothing fails");
    }

    fn end(self) {
        self.server.stop();
        self.fuse.unmount();
    }
}

fn status(server: &Server) -> serde_json::Value {
    let all = Tool::iomgr()
        .args(["status", "--json", "--control"])
        .arg(server.control())
        .json();
    all[0]["status"]["devices"][0].clone()
}

#[test]
fn queue_retry_fio_sees_nothing_of_five_seconds_of_eio() {
    if !need::tools(&["fio"]) {
        return;
    }
    let Some(rig) = Rig::new(&["--retry-on", "EIO"]) else {
        return;
    };
    let fio = Tool::new("fio")
        .args([
            "--name=retry",
            "--ioengine=nbd",
            "--rw=randrw",
            "--bs=4k",
            "--size=8M",
            "--iodepth=16",
        ])
        .args([
            "--verify=crc32c",
            "--verify_fatal=1",
            "--verify_state_save=0",
            "--do_verify=1",
            "--rate_iops=400,400",
        ])
        .arg(format!("--uri={}", rig.server.uri()));
    let fio = Process::start(fio, Stdio::null(), Stdio::inherit());
    assert!(wait::until(|| rig.status()["stats"]["write"]["ops"].as_u64() > Some(50)));
    let away = Instant::now();
    rig.fail();
    rig.wait_for_delayed();
    assert!(wait::until(|| away.elapsed() >= OUTAGE));
    let during = rig.status();
    assert!(
        fio.ended_within(Duration::ZERO).is_none(),
        "fio has ended in the middle of the outage"
    );
    rig.come_back();
    assert_eq!(fio.exit_code(), 0, "{}", rig.server.stderr());

    let after = rig.status();
    // How many requests fio has waiting is its own affair; each of them is tried more than once in that time.
    assert!(during["retry"]["retries"].as_u64() > Some(3), "{during:#}");
    assert_eq!(
        (&after["retry"]["given_up"], &after["retry"]["waiting"]),
        (&0.into(), &0.into()),
        "{after:#}"
    );
    for op in ["read", "write"] {
        assert_eq!(after["stats"][op]["errors"], 0, "{after:#}");
    }
    // One line for all of it.
    assert_eq!(
        rig.server.stderr().matches("request_delayed").count(),
        1,
        "{}",
        rig.server.stderr()
    );
    rig.end();
}

#[test]
fn queue_retry_others_go_on_and_the_deadline_comes() {
    let Some(rig) = Rig::new(&["--retry-on", "eio", "--retry-timeout", "500ms"]) else {
        return;
    };
    let mut client = Client::connect(&rig.server).unwrap();
    client.write(0, 0, &[1; 4096]).unwrap().unwrap();
    rig.fail();
    let write = client.send_write(0, 4096, &[2; 4096]).unwrap();
    rig.wait_for_delayed();
    let mut other = Client::connect(&rig.server).unwrap();
    assert!(other.flush().unwrap().is_ok(), "a flush has nothing to wait for");
    assert_eq!(client.receive().unwrap(), (write, Err(EIO)));
    assert_eq!(rig.status()["retry"]["given_up"], 1);
    let said = rig.server.stderr();
    let line = said
        .lines()
        .find(|line| line.contains("request_given_up"))
        .expect("it is in the log");
    assert!(
        line.contains("write of 8 sectors at sector 8") && line.contains("tried_for="),
        "{line}"
    );
    rig.come_back();
    client.write(0, 4096, &[3; 4096]).unwrap().unwrap();
    pattern::assert_same(&client.bytes(4096, 4096), &[3; 4096]);
    client.disconnect().unwrap();
    other.disconnect().unwrap();
    rig.end();
}

#[test]
fn queue_retry_at_the_end_what_waits_fails_at_once() {
    let Some(rig) = Rig::new(&["--retry-on", "EIO", "--retry-timeout", "1h"]) else {
        return;
    };
    let mut client = Client::connect(&rig.server).unwrap();
    rig.fail();
    let write = client.send_write(0, 4096, &[2; 4096]).unwrap();
    rig.wait_for_delayed();
    // Ends well, and within the tests' patience: nobody has waited for an hour.
    rig.server.stop();
    assert_eq!(client.receive().unwrap(), (write, Err(EIO)));
    rig.fuse.unmount();
}

#[test]
fn queue_retry_a_full_file_system_below_a_vhd_is_waited_for() {
    if !need::root() {
        return;
    }
    let dir = TempDir::new();
    let small = Mount::tmpfs(&dir.join("small"), "8M");
    let image = small.join("disk.vhd");
    Tool::iomgr().arg("create").arg(&image).args(["--size", "64M"]).run();
    let server = Server::start(&dir.join("run"), &image, &["--retry-on", "ENOSPC"]);
    let mut client = Client::connect(&server).unwrap();
    let mut sent = std::collections::HashMap::new();
    for mib in 0..24 {
        let bytes = vec![u8::try_from(mib).unwrap() + 1; MIB_LEN];
        sent.insert(client.send_write(0, mib * MIB, &bytes).unwrap(), mib);
        if mib < 4 {
            // There is room for these, and for others while the rest waits.
            let (cookie, result) = client.receive().unwrap();
            assert!(result.is_ok() && sent.remove(&cookie).is_some());
        }
    }
    assert!(
        wait::until(|| status(&server)["retry"]["waiting"] != 0),
        "it is not full"
    );
    let mut other = Client::connect(&server).unwrap();
    other.write(0, 0, &[9; 4096]).unwrap().unwrap();
    other.flush().unwrap().unwrap();
    small.resize("100M");
    while !sent.is_empty() {
        let (cookie, result) = client.receive().unwrap();
        let mib = sent.remove(&cookie).expect("each is answered once");
        assert!(result.is_ok(), "MiB {mib}: {result:?}");
    }
    client.flush().unwrap().unwrap();
    for mib in 1..24 {
        pattern::assert_same(
            &client.bytes(mib * MIB, MIB_LEN),
            &vec![u8::try_from(mib).unwrap() + 1; MIB_LEN],
        );
    }
    assert_eq!(status(&server)["retry"]["given_up"], 0);
    client.disconnect().unwrap();
    other.disconnect().unwrap();
    server.stop();
    Tool::iomgr().arg("check").arg(&image).run();
}

#[test]
fn queue_retry_what_waits_goes_to_the_next_image() {
    if !need::root() {
        return;
    }
    let dir = TempDir::new();
    let small = Mount::tmpfs(&dir.join("small"), "1M");
    let (full, roomy) = (small.join("disk.vhd"), dir.join("next.vhd"));
    for path in [&full, &roomy] {
        create(path, &CreateOptions::new(16 * MIB)).unwrap();
    }
    let options = DiskOptions {
        retry: RetryPolicy {
            also: RetryOn::ENOSPC,
            timeout: Duration::from_secs(3600),
        },
        ..DiskOptions::default()
    };
    let server = ServerOptions {
        socket: Some(dir.join("nbd")),
        control: Some(dir.join("control")),
        threads: 2,
        ..ServerOptions::default()
    };
    let server = vbd::Server::start(Disk::open(&full, &options).unwrap(), &server).unwrap();
    let disk = &server.disks()[0];
    // The second connection is on the other thread, which has to ask the first one for space.
    let mut clients = [(); 2].map(|()| Client::connect_to(&dir.join("nbd"), "").unwrap());
    let sent: Vec<_> = (1..)
        .zip(&mut clients)
        .map(|(at, client)| {
            client
                .send_write(FUA, u64::from(at) * 4 * MIB, &vec![at; MIB_LEN])
                .unwrap()
        })
        .collect();
    // The table takes some of it already.
    assert!(wait::until(|| disk.retry_status().waiting == 2), "it is not full");
    disk.replace(&roomy, &options, wait::PATIENCE).unwrap();
    for (client, cookie) in clients.iter_mut().zip(sent) {
        assert_eq!(client.receive().unwrap(), (cookie, Ok(())));
    }
    for at in 1..=2 {
        pattern::assert_same(&clients[0].bytes(u64::from(at) * 4 * MIB, MIB_LEN), &vec![at; MIB_LEN]);
    }
    assert_eq!((disk.info().path, disk.retry_status().given_up), (roomy, 0));
    clients.into_iter().for_each(|client| client.disconnect().unwrap());
    server.stop().unwrap();
}
