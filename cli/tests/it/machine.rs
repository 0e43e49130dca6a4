//! `doctor`: it differs from machine to machine, so its shape is tested, and what a test can bring about.

use serde_json::Value;

use crate::run::Place;

fn verdict(report: &Value, name: &str) -> String {
    let checks = report["checks"].as_array().expect("a list");
    let check = checks
        .iter()
        .find(|check| check["name"] == name)
        .unwrap_or_else(|| panic!("no {name} in {report}"));
    check["verdict"].as_str().expect("a word").to_owned()
}

#[test]
fn it_looks_at_everything() {
    let report = Place::new().ok(&["doctor", "--json"]).json();
    assert_eq!(report["can_serve"], true);
    for name in [
        "kernel",
        "io_uring",
        "memlock",
        "runtime folder",
        "NBD",
        "ublk",
        "nbdinfo",
        "nbdcopy",
        "qemu-nbd",
        "fio",
    ] {
        assert!(
            ["ok", "limited", "missing"].contains(&verdict(&report, name).as_str()),
            "{report}"
        );
    }
}

#[test]
fn clients_that_lack_come_with_advice() {
    let place = Place::new();
    let output = place.command(&["doctor"]).env("PATH", "").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("fio: Debian and Ubuntu: apt-get install fio"), "{text}");
    assert!(text.ends_with("this machine can serve disks\n"), "{text}");
}

#[test]
fn without_a_folder_for_sockets_nothing_can_be_served() {
    let place = Place::new();
    place.write("run", b"in the way");
    let ended = place.run(&["doctor", "--json"]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert_eq!(ended.json()["can_serve"], false);
    assert_eq!(verdict(&ended.json(), "runtime folder"), "fatal");
}
