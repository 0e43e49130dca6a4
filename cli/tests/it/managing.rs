//! `manager`: shown, set, changed and unset on a running server.

use serde_json::{Value, json};

use crate::run::Place;
use crate::serving::Served;

/// Two disks, served.
fn served() -> (Place, Served) {
    let place = Place::new().with_vhd("disk0.vhd").with_vhd("disk1.vhd");
    let (served, _) = Served::json(&place, &["disk0.vhd", "disk1.vhd"]);
    (place, served)
}

/// The parameters after a command.
fn config(place: &Place, line: &str) -> Value {
    let words: Vec<_> = ["manager"].into_iter().chain(line.split_whitespace()).collect();
    place.ok(&[&words[..], &["--json"]].concat()).json()["manager"]["config"].take()
}

#[test]
fn parameters_that_are_not_said_stay() {
    let (place, served) = served();
    config(
        &place,
        "set throttle --iops 500 --burst 2000 --burst-length 5s --device disk0",
    );
    config(&place, "set throttle --bps 1M --device disk1");
    config(
        &place,
        "set throttle --iops 900 --group g --device disk0 --device disk1",
    );
    let now = config(&place, "set throttle --iops-read 7 --limit-max 8");
    let expected = json!({
        "policy": {
            "name": "throttle",
            "default": { "iops_read": { "average": 7 } },
            "devices": {
                "disk0": { "iops": { "average": 500, "max": 2000, "max_length_ms": 5000 } },
                "disk1": { "bps": { "average": 1 << 20 } },
            },
            "groups": { "g": { "rates": { "iops": { "average": 900 } }, "members": ["disk0", "disk1"] } },
        },
        "limit": { "max": 8 },
    });
    assert_eq!(now, expected);
    assert_eq!(config(&place, "show"), expected);
    let now = config(&place, "set throttle --remove --device disk0 --limit-max none");
    assert_eq!(
        now["policy"]["devices"],
        json!({ "disk1": { "bps": { "average": 1 << 20 } } })
    );
    assert_eq!(now["limit"], Value::Null);
    let now = config(&place, "set throttle --reset --iops none --bps 5 --device disk0");
    assert_eq!(
        now["policy"],
        json!({ "name": "throttle", "default": {}, "devices": { "disk0": { "bps": { "average": 5 } } } })
    );
    served.signal("TERM");
    assert_eq!(served.ended().code, Some(0));
}

#[test]
fn policies_follow_each_other() {
    let (place, _served) = served();
    for (line, name) in [
        ("set limit --max 8 --max-total 64", "limit"),
        ("set turn --share 4", "turn"),
        ("set wfq --weight disk0=300 --weight disk1=100 --depth 4", "wfq"),
        ("set none", "none"),
        ("set wfq --depth 2", "wfq"),
    ] {
        assert_eq!(config(&place, line)["policy"]["name"], name, "{line}");
    }
    let refused = place.run(&["manager", "unset", "throttle"]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(
        refused.stderr.contains("not the current one, which is wfq"),
        "{refused:?}"
    );
    assert_eq!(place.ok(&["manager", "unset", "wfq"]).stdout, "manager: none\n");
    let status = place.ok(&["status", "disk1"]).stdout;
    assert!(status.contains("\nmanager: none\n"), "{status}");
}

#[test]
fn values_that_cannot_be_are_wrong_usage() {
    let (place, _served) = served();
    for (line, words) in [
        ("set wfq --weight disk0=10001", "weights are 1 to 10000"),
        ("set limit", "max-total"),
        ("set limit --max 0", "from 1"),
        ("set limit --max 4 --limit-max 4", "stands below another"),
        ("set throttle --iops 5 --burst 4", "not below the average"),
        ("set throttle --iops 5 --group=", "a group needs a name"),
        ("set throttle --burst 5", "goes with --iops or --bps"),
        ("set throttle --remove", "--device DISK"),
        ("set latency --target 5ms", "needs a device to protect"),
        ("set explode", "unrecognized subcommand"),
        ("unset a b", "unexpected argument"),
    ] {
        let words_said: Vec<_> = ["manager"].into_iter().chain(line.split_whitespace()).collect();
        let ended = place.run(&words_said);
        assert_eq!(ended.code, Some(2), "{line}: {ended:?}");
        assert!(ended.stderr.contains(words), "{line}: {ended:?}");
        let ended = place.run(&[&words_said[..], &["--json"]].concat());
        assert!(
            ended.json_error()["error"].as_str().unwrap().contains(words),
            "{line}: {ended:?}"
        );
    }
    assert_eq!(config(&place, "show")["policy"]["name"], "none");
}

#[test]
fn the_server_is_the_only_one_or_is_named() {
    let place = Place::new().with_vhd("a.vhd").with_vhd("b.vhd").with_vhd("c.vhd");
    let nobody = place.run(&["manager", "show"]);
    assert_eq!(nobody.code, Some(1), "{nobody:?}");
    assert!(nobody.stderr.contains("no server runs"), "{nobody:?}");
    let (_a, _) = Served::json(&place, &["a.vhd", "b.vhd"]);
    place.ok(&["manager", "set", "turn"]);
    let (_c, ready) = Served::json(&place, &["c.vhd", "--control", "c.ctl", "--socket", "c.sock"]);
    // It does not count: its socket is not in the runtime folder.
    place.ok(&["manager", "show"]);
    let control = ready["control"].as_str().unwrap();
    assert_eq!(
        place
            .ok(&["manager", "show", "--control", control])
            .stdout
            .lines()
            .next(),
        Some("manager: none")
    );
    let named = place.ok(&["manager", "show", "--server", "b"]).stdout;
    assert!(named.starts_with("manager: turn\n"), "{named}");
    let place = place.with_vhd("d.vhd");
    let (_d, _) = Served::json(&place, &["d.vhd"]);
    let which = place.run(&["manager", "show"]);
    assert_eq!(which.code, Some(1), "{which:?}");
    assert!(
        which
            .stderr
            .contains("several servers run: a, d; say which one by --server"),
        "{which:?}"
    );
}

#[test]
fn policies_are_listed_without_a_server() {
    let place = Place::new();
    let list = place.ok(&["manager", "list"]).stdout;
    let names = ["none", "limit", "turn", "throttle", "wfq", "latency", "deadline"];
    assert!(names.iter().all(|name| list.contains(&format!("{name}: "))), "{list}");
    let policies = place.ok(&["manager", "list", "--json"]).json();
    let found: Vec<_> = policies
        .as_array()
        .unwrap()
        .iter()
        .map(|policy| policy["name"].clone())
        .collect();
    assert_eq!(found, names);
}

/// A disk may come later, so it may be named now; but whoever mistyped it had better know.
#[test]
fn a_disk_that_is_not_there_is_told_of() {
    let (place, _served) = served();
    for (line, stranger) in [
        ("throttle --iops 5 --device disk0", None),
        ("throttle --iops 5 --device dsk1", Some("dsk1")),
        (
            "throttle --reset --iops 5 --group g --device disk0 --device dsk2",
            Some("dsk2"),
        ),
        ("wfq --weight disk0=3 --weight dsk3=1", Some("dsk3")),
        ("latency --protect dsk4", Some("dsk4")),
        ("none", None),
    ] {
        let words: Vec<_> = ["manager", "set"].into_iter().chain(line.split_whitespace()).collect();
        let expected = stranger.map(|name| format!("iomgr: no disk here is called {name:?}; "));
        let said = place.ok(&words).stderr;
        assert!(
            said.starts_with(expected.as_deref().unwrap_or_default()),
            "{line}: {said}"
        );
        assert_eq!(said.lines().count(), usize::from(stranger.is_some()), "{line}: {said}");
    }
    let shown = place
        .ok(&["manager", "set", "throttle", "--iops", "5", "--group", "g"])
        .stdout;
    assert!(shown.contains("group g (no disk): iops 5"), "{shown}");
}

/// Others run, whoever it was that was asked.
#[test]
fn a_server_that_is_not_there_is_not_all_of_them() {
    let (place, _served) = served();
    for line in ["list nope", "stats --server nope", "stats nope"] {
        let words: Vec<_> = line.split_whitespace().collect();
        let ended = place.run(&words);
        assert_eq!(ended.code, Some(1), "{line}: {ended:?}");
        assert!(ended.stderr.contains("nope"), "{line}: {ended:?}");
        assert!(!ended.stderr.contains("no server runs"), "{line}: {ended:?}");
    }
}
