//! What the control socket and the command line change on a server that has work: parameters for requests that wait, disks
//! that come and go, a pause whose owner is killed.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use iomgr_tests::{Client, Process, Server, TempDir, Tool, need, wait};
use rustix::process::Signal;
use serde_json::Value;

use crate::clients::fio_verify;
use crate::disk::{Disk, Kind};

const MIB: u64 = 1 << 20;

/// Another run of the program, which finds the servers of this folder.
fn iomgr(run: &Path, args: &[&str]) -> Tool {
    Tool::iomgr().args(args).env("IOMGR_RUNTIME_DIR", run)
}

fn serve(disk: &Disk, args: &[&str]) -> (PathBuf, Server) {
    let run = disk.dir.join("run");
    let server = Server::start(&run, disk.image(), args);
    (run, server)
}

fn status(run: &Path) -> Value {
    iomgr(run, &["status", "--json"]).json()[0]["status"].take()
}

/// At one request a second the last of those that wait would wait longer than any test does.
#[test]
fn changed_parameters_hold_for_requests_that_wait() {
    const WRITES: u64 = 100;
    let disk = Disk::new(Kind::Raw, 8 * MIB);
    let (run, server) = serve(&disk, &["--name", "disk0"]);
    let mut client = Client::connect(&server).unwrap();
    let changes: [&[&str]; 3] = [
        &["manager", "set", "throttle", "--iops", "1000000", "--device", "disk0"],
        &["manager", "set", "limit", "--max", "4"],
        &["manager", "unset"],
    ];
    for change in changes {
        iomgr(
            &run,
            &[
                "manager", "set", "throttle", "--reset", "--iops", "1", "--device", "disk0",
            ],
        )
        .run();
        for index in 0..WRITES {
            client.send_write(0, index * 4096, &[7; 4096]).unwrap();
        }
        let hooks = || {
            status(&run)["managing"]["generations"]
                .as_array()
                .unwrap()
                .last()
                .unwrap()["hooks"]
                .clone()
        };
        assert!(
            wait::until(|| hooks()["ngs"]["class_until"].as_u64().unwrap() > 0),
            "nothing waits: {}",
            hooks()
        );
        iomgr(&run, change).run();
        for _ in 0..WRITES {
            client.receive().unwrap().1.unwrap();
        }
    }
    let now = status(&run);
    assert_eq!(
        (&now["pending"], &now["manager"]),
        (&Value::from(0), &Value::from("none"))
    );
    let waits = now["devices"][0]["hooks"]["waits"].as_u64().unwrap();
    assert!(waits >= 3 * (WRITES - 10), "{waits} requests waited");
    client.disconnect().unwrap();
    server.stop();
}

#[test]
fn a_disk_that_was_attached_is_as_good_as_any() {
    if !need::tools(&["fio", "nbdinfo"]) {
        return;
    }
    let (first, second) = (Disk::new(Kind::Raw, 8 * MIB), Disk::new(Kind::DynamicVhd, 64 * MIB));
    let (run, server) = serve(&first, &["--name", "first"]);
    let image = second.image().to_str().unwrap();
    for _ in 0..2 {
        let uri = iomgr(&run, &["attach", image, "--name", "second"]).run();
        let uri = uri.trim_end();
        fio_verify(uri);
        let list = Tool::new("nbdinfo").args(["--list", "--json"]).arg(server.uri()).json();
        assert_eq!(list["exports"].as_array().unwrap().len(), 2, "{list}");
        iomgr(&run, &["detach", "second"]).run();
        // Free, and whole.
        second.is_clean();
        assert!(!Tool::new("nbdinfo").arg(uri).end().stderr.is_empty());
    }
    server.stop();
}

#[test]
fn an_image_is_copied_whole_while_its_disk_is_written() {
    if !need::tools(&["fio"]) {
        return;
    }
    let disk = Disk::new(Kind::DynamicVhd, 64 * MIB);
    let (run, server) = serve(&disk, &["--name", "disk0"]);
    let copies = TempDir::new();
    let uri = server.uri().to_owned();
    let writer = std::thread::spawn(move || fio_verify(&uri));
    for index in 0..5 {
        let copy = copies.join(format!("{index}.vhd"));
        let copy = copy.to_str().unwrap();
        iomgr(
            &run,
            &["pause", "disk0", "--", "sh", "-c", "cp \"$image\" \"$0\"", copy],
        )
        .run();
        // A pause has flushed and closed it.
        Tool::iomgr().args(["check", copy]).run();
    }
    writer.join().unwrap();
    server.stop();
    disk.is_clean();
}

#[test]
fn a_disk_whose_pauser_is_killed_goes_on() {
    let disk = Disk::new(Kind::Raw, 8 * MIB);
    let (run, server) = serve(&disk, &["--name", "disk0"]);
    let mut client = Client::connect(&server).unwrap();
    // The command ends with the process that pauses.
    let command = [
        "pause",
        "disk0",
        "--",
        "setpriv",
        "--pdeathsig",
        "KILL",
        "sleep",
        "1000",
    ];
    let pauser = Process::start(iomgr(&run, &command), Stdio::null(), Stdio::null());
    let paused = || status(&run)["devices"][0]["paused"].clone();
    assert!(
        wait::until(|| paused()["leased"] == true),
        "it is not paused: {}",
        paused()
    );
    client.send_write(0, 0, &[7; 4096]).unwrap();
    pauser.signal(Signal::KILL);
    // It waited, and nobody has resumed the disk but the server.
    client.receive().unwrap().1.unwrap();
    assert!(paused().is_null(), "{}", paused());
    assert_eq!(client.bytes(0, 4096), [7; 4096]);
    client.disconnect().unwrap();
    server.stop();
}
