//! ublk devices where there is no driver: each verb says so at once, and names the way out.

use std::fs::Permissions;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;

use serde_json::{Value, json};

use crate::run::{Ended, Place};

/// Is there none? On a machine that has one, its devices are left alone.
#[allow(clippy::print_stdout, reason = "why a test is skipped is said where tests say it")]
fn is_there_no_driver() -> bool {
    if Path::new("/dev/ublk-control").exists() {
        println!("skipped: there is a ublk driver here; the tests in the guest use it");
        return false;
    }
    true
}

/// Runs it; `None` on a machine that has the driver.
fn without_driver(args: &[&str]) -> Option<Ended> {
    if !is_there_no_driver() {
        return None;
    }
    let place = Place::new();
    place.write("disk.img", &[0; 4096]);
    place.write("null", &[0; 4096]);
    Some(place.run(args))
}

#[test]
fn every_verb_names_the_driver_and_the_way_without() {
    let verbs: [&[&str]; 10] = [
        &["add", "null"],
        &["add", "-n", "3", "null", "--foreground"],
        &["add", "disk.img", "-q", "2"],
        &["add", "raw", "disk.img"],
        &["add", "./null", "--format", "raw"],
        &["list", "--ublk"],
        &["list", "-n", "0"],
        &["features"],
        &["del", "-n", "0"],
        &["del", "-a"],
    ];
    for args in verbs {
        let Some(ended) = without_driver(args) else { return };
        assert_eq!(ended.code, Some(1), "{args:?}: {ended:?}");
        assert_eq!(ended.stdout, "", "{args:?}");
        for words in ["no /dev/ublk-control", "modprobe ublk_drv", "iomgr serve IMAGE"] {
            assert!(ended.stderr.contains(words), "{args:?}: {ended:?}");
        }
    }
}

/// The child in the background speaks for its parent, in its parent's way.
#[test]
fn errors_of_the_background_are_json_as_well() {
    let Some(ended) = without_driver(&["add", "null", "--json"]) else {
        return;
    };
    let error: serde_json::Value = serde_json::from_str(&ended.stderr).unwrap();
    assert_eq!((ended.code, error["kind"].as_str()), (Some(1), Some("server")));
    assert!(error["hint"].as_str().unwrap().contains("NBD"), "{error}");
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_tried() {
    let place = Place::new();
    for (args, code, words) in [
        (["add", "null", "-d", "0"].as_slice(), 2, "depth"),
        (&["add", "null", "-q", "0"], 2, "1 to 64 queues"),
        (&["add", "null", "-q", "64", "-d", "65"], 2, "2 GiB"),
        (&["add", "null", "-b", "5000"], 2, "power of two"),
        (&["add", "null", "-d", "4096", "-b", "1M"], 2, "2 GiB"),
        (&["add", "null", "--size", "1000"], 2, "multiple of 512"),
        (&["add", "null", "--size", "0"], 2, "multiple of 512"),
        (&["add", "null", "-n", "1048576"], 2, "0..=1048575"),
        (&["add", "null", "--read-only"], 2, "./null"),
        (&["add", "null", "--filter", "trace"], 2, "./null"),
        (&["add", "raw"], 2, "./raw"),
        (&["add", "raw", "disk.img", "--format", "vhd"], 2, "--format"),
        (&["add", "disk.img", "--size", "1M"], 2, "null alone"),
        (&["add", "disk.img", "other.img"], 2, "one image"),
        (&["add", "./null"], 2, "--format raw"),
        (&["add", "nothing.img", "--foreground"], 1, "nothing.img"),
        (&["add", "raw", "nothing", "--foreground"], 1, "nothing"),
    ] {
        let ended = place.run(args);
        assert_eq!(ended.code, Some(code), "{args:?}: {ended:?}");
        assert!(ended.stderr.contains(words), "{args:?}: {ended:?}");
    }
    for args in [
        &["add"][..],
        &["del"],
        &["del", "-a", "-n", "0"],
        &["add", "null", "--size", "x"],
    ] {
        assert_eq!(place.run(args).code, Some(2), "{args:?}");
    }
}

/// A server of device 7, as far as its control socket shows: it ends when it is asked to, and tells by what verb.
fn play_server(control: &Path) -> thread::JoinHandle<String> {
    let listener = UnixListener::bind(control).unwrap();
    thread::spawn(move || {
        loop {
            if let Some(verb) = answer(listener.accept().unwrap().0) {
                return verb;
            }
        }
    })
}

/// Answers a client to its end; the verb that ended the server.
fn answer(client: UnixStream) -> Option<String> {
    let status = json!({
        "pid": 1, "version": "0", "uri": "/dev/ublkb7", "uptime_s": 1.0, "manager": "none", "pending": 0, "devices": [],
        "nbd": {"connections": 0, "connections_total": 0, "in_flight": 0, "requests_total": 0},
        "ublk": {"id": 7, "path": "/dev/ublkb7", "queues": 1, "depth": 1, "buffer_bytes": 4096, "in_flight": 0,
            "requests_total": 0, "enters_total": 0, "sqes_total": 0},
    });
    for line in BufReader::new(&client).lines() {
        let request: Value = serde_json::from_str(&line.unwrap()).unwrap();
        let verb = request["verb"].as_str().unwrap();
        let is_end = verb != "status";
        let answer = match is_end {
            true => json!({"v": 1, "ok": true, "stopped": true}),
            false => json!({"v": 1, "ok": true, "status": status}),
        };
        writeln!(&client, "{answer}").unwrap();
        if is_end {
            return Some(verb.to_owned());
        }
    }
    None
}

/// Also one that was told its control socket: the driver alone would lose what the page cache holds.
#[test]
fn the_server_of_a_device_is_found_by_its_record() {
    if !is_there_no_driver() {
        return;
    }
    for (args, verb, words) in [
        (["del", "-n", "7"].as_slice(), "stop-idle", "/dev/ublkb7: deleted"),
        (&["del", "-n", "7", "--force"], "stop", "/dev/ublkb7: deleted"),
        (
            &["upgrade", "7", "--foreground"],
            "hand-over",
            "the old server has ended",
        ),
    ] {
        let place = Place::new();
        // As `iomgr` makes it: a folder that others may write is refused.
        place.ok(&["doctor"]);
        let control = place.path("told.ctl");
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        let record = json!({
            "v": 1, "boot_id": boot_id.trim(), "id": 7, "mark": 1, "control": control, "filters": [],
            "target": {"null": {"name": "null", "size_bytes": 4096}},
        });
        place.write("run/ublkb7.state", record.to_string().as_bytes());
        let private = Permissions::from_mode(0o600);
        std::fs::set_permissions(place.path("run/ublkb7.state"), private).unwrap();
        assert_reaches(&place, args, &control, verb, words);
    }
}

/// The command asks the server with this control socket for the verb, and says these words.
fn assert_reaches(place: &Place, args: &[&str], control: &Path, verb: &str, words: &str) {
    let server = play_server(control);
    let ended = place.run(args);
    assert!(
        (ended.stdout.clone() + &ended.stderr).contains(words),
        "{args:?}: {ended:?}"
    );
    assert_eq!(server.join().unwrap(), verb);
}

/// One that does not outlive its server has no record.
#[test]
fn a_server_without_a_record_is_found_where_servers_are() {
    if !is_there_no_driver() {
        return;
    }
    for (args, verb, words) in [
        (["del", "-n", "7"].as_slice(), "stop-idle", "/dev/ublkb7: deleted"),
        (
            &["upgrade", "7", "--foreground"],
            "hand-over",
            "the old server has ended",
        ),
    ] {
        let place = Place::new();
        place.ok(&["doctor"]);
        assert_reaches(&place, args, &place.runtime_dir().join("ublkb7.ctl"), verb, words);
    }
}

#[test]
fn a_server_that_nobody_is_is_said_to_be() {
    let place = Place::new();
    let ended = place.run(&["upgrade", "7", "--foreground"]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(
        ended
            .stderr
            .contains("no server of this program answers for ublk device 7"),
        "{ended:?}"
    );
}
