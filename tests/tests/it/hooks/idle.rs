//! S0-6: a server that nobody asks for anything makes no wake-ups, whoever is connected.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use iomgr_tests::Client;

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

#[test]
fn hooks_an_idle_server_makes_no_wake_ups() {
    for (kind, args) in [
        (Kind::DynamicVhd, &["--queues", "2", "--idle-timeout", "1h"][..]),
        (Kind::Raw, &["--listen", "127.0.0.1:0"][..]),
    ] {
        let disk = Disk::new(kind, 64 << 20);
        let server = disk.serve(args);
        let mut clients: Vec<_> = (0..4).map(|_| Client::connect(&server).unwrap()).collect();
        for (client, at) in clients.iter_mut().zip(0..) {
            client.write(0, at << 21, &[1; 64 << 10]).unwrap().unwrap();
            client.flush().unwrap().unwrap();
        }
        // What came just before may have something to come after it: a look at who is still in the handshake, say.
        let quiet = (0..3).any(|_| {
            let before = switches(server.pid());
            // Not to wait for anything: this is how long nothing may happen.
            std::thread::sleep(WINDOW);
            let after = switches(server.pid());
            if before != after {
                println!("before {before:?}\nafter  {after:?}");
            }
            before == after
        });
        assert!(quiet, "{kind:?}: somebody is woken, though nobody asks for anything");
        for mut client in clients {
            assert_eq!(client.bytes(0, 512), [1; 512]);
            client.disconnect().unwrap();
        }
        server.stop();
    }
}
