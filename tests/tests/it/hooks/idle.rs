//! S0-6: a server that nobody asks for anything makes no wake-ups, whoever is connected.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use iomgr_tests::{Client, Server, Tool};

use crate::disk::{Disk, Kind};

/// How long nothing may happen.
const WINDOW: Duration = Duration::from_secs(3);

/// What each thread of a process is called, and how often it was switched away from: whoever sleeps all the time never is. The
/// kernel's own workers (`iou-wrk`) are not ours; they go by themselves some time after the I/O.
fn switches(pid: u32) -> BTreeMap<String, (String, u64)> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let tasks = tasks.map(|task| {
        let path = task.unwrap().path();
        let read = |file| fs::read_to_string(path.join(file)).unwrap_or_default();
        let number = |line: &str| line.rsplit('\t').next().unwrap().parse::<u64>().unwrap();
        let status = read("status");
        let count = status
            .lines()
            .filter(|line| line.contains("ctxt_switches"))
            .map(number)
            .sum();
        (
            path.file_name().unwrap().to_string_lossy().into_owned(),
            (read("comm"), count),
        )
    });
    tasks.filter(|(_, (name, _))| !name.starts_with("iou-wrk")).collect()
}

/// An idle server, with idle clients that were busy before.
struct Idle {
    what: String,
    server: Server,
    clients: Vec<Client>,
    is_paused: bool,
    _disk: Disk,
}

impl Idle {
    fn new(kind: Kind, args: &[&str], policy: &[&str]) -> Self {
        let disk = Disk::new(kind, 64 << 20);
        let server = disk.serve(args);
        if !policy.is_empty() {
            let set = Tool::iomgr().args(["manager", "set"]).args(policy);
            set.arg("--control").arg(server.control()).run();
        }
        let mut clients: Vec<_> = (0..4).map(|_| Client::connect(&server).unwrap()).collect();
        for (client, at) in clients.iter_mut().zip(0..) {
            client.write(0, at << 21, &[1; 64 << 10]).unwrap().unwrap();
            client.flush().unwrap().unwrap();
        }
        Self {
            what: format!("{kind:?} {args:?} {policy:?}"),
            server,
            clients,
            is_paused: false,
            _disk: disk,
        }
    }

    fn iomgr(&self, verb: &str) -> Tool {
        Tool::iomgr()
            .args([verb, "disk", "--control"])
            .arg(self.server.control())
    }

    /// Its disk is paused for an hour, and all clients wait.
    fn paused(mut self) -> Self {
        self.iomgr("pause").args(["--resume-after", "1h"]).run();
        for (client, at) in self.clients.iter_mut().zip(0..) {
            client.send_write(0, at << 21, &[1; 64 << 10]).unwrap();
        }
        self.is_paused = true;
        self
    }

    /// Everybody is still there.
    fn end(mut self) {
        if self.is_paused {
            self.iomgr("resume").run();
            let mut clients = self.clients.iter_mut();
            assert!(clients.all(|client| client.receive().unwrap().1 == Ok(())));
        }
        for mut client in self.clients.drain(..) {
            assert_eq!(client.bytes(0, 512), [1; 512]);
            client.disconnect().unwrap();
        }
        self.server.stop();
    }
}

#[test]
fn hooks_an_idle_server_makes_no_wake_ups() {
    let two = ["--queues", "2"];
    let servers = [
        Idle::new(Kind::DynamicVhd, &["--queues", "2", "--idle-timeout", "1h"], &[]),
        Idle::new(Kind::Raw, &["--listen", "127.0.0.1:0"], &[]),
        Idle::new(Kind::Raw, &two, &["throttle", "--iops", "100", "--burst", "200"]),
        Idle::new(Kind::Raw, &two, &["limit", "--max", "4"]),
        Idle::new(Kind::Raw, &two, &["turn", "--share", "4"]),
        Idle::new(Kind::Raw, &two, &["wfq", "--depth", "4"]),
        Idle::new(Kind::Raw, &two, &["latency", "--protect", "disk", "--target", "1ms"]),
        Idle::new(Kind::Raw, &two, &["deadline", "--limit-max", "4"]),
        Idle::new(Kind::DynamicVhd, &two, &[]).paused(),
    ];
    let look = || servers.each_ref().map(|idle| switches(idle.server.pid()));
    let mut before = look();
    // What came just before may have something to come after it: a look at who is still in the handshake, say.
    let quiet = (0..3).any(|_| {
        // Not to wait for anything: this is how long nothing may happen.
        std::thread::sleep(WINDOW);
        let earlier = std::mem::replace(&mut before, look());
        for ((earlier, now), idle) in earlier.iter().zip(&before).zip(&servers) {
            if earlier != now {
                println!("{}: {earlier:?}, then {now:?}", idle.what);
            }
        }
        earlier == before
    });
    assert!(quiet, "somebody is woken, though nobody asks for anything");
    servers.into_iter().for_each(Idle::end);
}
