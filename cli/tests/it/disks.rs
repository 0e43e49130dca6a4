//! `list`, `stats`, `attach`, `detach`, `pause`, `resume`: the disks of servers that run.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::run::{Ended, Place};
use crate::serving::Served;

fn served() -> (Place, Served) {
    let place = Place::new().with_vhd("disk0.vhd").with_vhd("data.vhd");
    let (served, _) = Served::json(&place, &["disk0.vhd"]);
    (place, served)
}

fn listed(place: &Place) -> Vec<Value> {
    place.ok(&["list", "--json"]).json().as_array().unwrap().clone()
}

fn is_paused(place: &Place, disk: &str) -> bool {
    let disks = listed(place);
    let found = disks.iter().find(|entry| entry["name"] == disk);
    !found.unwrap()["paused"].is_null()
}

#[test]
fn disks_come_and_go() {
    let (place, served) = served();
    let uri = place
        .ok(&["attach", "data.vhd", "--read-only", "--description", "mine"])
        .stdout;
    assert!(
        uri.starts_with("nbd+unix:///data?socket=/") && uri.ends_with("/disk0.sock\n"),
        "{uri}"
    );
    let disks = listed(&place);
    assert_eq!(
        disks
            .iter()
            .map(|disk| [&disk["name"], &disk["server"], &disk["manager"]])
            .collect::<Vec<_>>(),
        [["disk0", "disk0", "none"], ["data", "disk0", "none"]]
    );
    assert_eq!(disks[1]["path"], place.path("data.vhd").to_str().unwrap());
    let text = place.ok(&["list"]).stdout;
    assert!(
        text.lines()
            .nth(2)
            .unwrap()
            .starts_with("data   disk0   64.00 MiB  vhd-dynamic  ro "),
        "{text}"
    );
    assert_eq!(place.ok(&["detach", "data"]).stdout, "data: detached\n");
    place.ok(&["check", "data.vhd"]);
    let entry = place.ok(&["attach", "data.vhd", "--name", "other", "--json"]).json();
    assert_eq!((&entry["name"], &entry["read_only"]), (&"other".into(), &false.into()));
    assert_eq!(place.ok(&["detach", "other", "--json"]).json()["detached"], true);
    served.signal("TERM");
    assert_eq!(served.ended().code, Some(0));
    assert!(place.ok(&["list"]).stderr.contains("no server runs"));
}

#[test]
fn what_cannot_be_attached_or_detached_is_named() {
    let (place, _served) = served();
    let (_other, _) = Served::json(
        &place,
        &["data.vhd", "--control", "other.ctl", "--socket", "other.sock"],
    );
    for (args, code, kind, words) in [
        (&["attach", "nothing.vhd"][..], 1, "open", "nothing.vhd: does not exist"),
        (
            &["attach", "disk0.vhd"],
            1,
            "locked",
            "of disk \"disk0\" of this server",
        ),
        (
            &["attach", "data.vhd", "--lock-timeout", "0"],
            1,
            "locked",
            "data.vhd: is in use by",
        ),
        (
            &["attach", "data.vhd", "--server", "nobody"],
            1,
            "control",
            "no server answers here",
        ),
        (
            &["attach", "data.vhd", "--name", "a/b"],
            2,
            "usage",
            "is no name for a file",
        ),
        (
            &["detach", "nothing"],
            1,
            "not-found",
            "no server here has a disk called \"nothing\"",
        ),
        (
            &["detach", "nothing", "--server", "disk0"],
            1,
            "not-found",
            "no disk here is called \"nothing\"",
        ),
        (&["pause", "nothing"], 1, "not-found", "`iomgr list` shows"),
        (&["resume", "disk0"], 1, "state", "is not paused"),
        (&["stats", "nothing"], 1, "not-found", "\"nothing\""),
        (
            &["stats", "nothing", "--server", "disk0"],
            1,
            "not-found",
            "\"nothing\"",
        ),
        (
            &["pause", "disk0", "--timeout", "31d"],
            2,
            "usage",
            "is too long; say 30days at most",
        ),
        (
            &["attach", "data.vhd", "--name", "a\nb"],
            2,
            "usage",
            "holds a control character",
        ),
    ] {
        let ended = place.run(&[args, &["--json"]].concat());
        assert_eq!(ended.code, Some(code), "{args:?}: {ended:?}");
        let error = ended.json_error();
        assert_eq!(error["kind"], kind, "{args:?}: {ended:?}");
        let text = format!("{}", error["error"]).replace("\\\"", "\"");
        assert!(text.contains(words), "{args:?}: {ended:?}");
    }
    let (_third, _) = Served::json(&place, &["--create", "1M", "third.vhd"]);
    let twice = place.run(&["attach", "third.vhd"]);
    assert!(twice.stderr.contains("say which one by --server NAME"), "{twice:?}");
}

#[test]
fn a_disk_is_paused_and_resumed_on_another_image() {
    let (place, _served) = served();
    let said = place.ok(&["pause", "disk0"]).stdout;
    assert_eq!(
        said,
        format!("disk0: paused; {} is closed\n", place.path("disk0.vhd").display())
    );
    assert!(is_paused(&place, "disk0"));
    assert!(place.ok(&["status"]).stdout.contains("  paused for 0s\n"));
    let twice = place.run(&["pause", "disk0"]);
    assert!(twice.code == Some(1) && twice.stderr.contains("is paused"), "{twice:?}");
    // Nobody has it locked.
    place.ok(&["check", "disk0.vhd"]);
    place.ok(&["create", "small.vhd", "--size", "32M"]);
    let small = place.run(&["resume", "disk0", "--image", "small.vhd"]);
    assert_eq!(small.code, Some(1), "{small:?}");
    assert!(
        small.stderr.contains("small.vhd: has 65536 sectors") && small.stderr.contains("stays paused"),
        "{small:?}"
    );
    let resumed = place.ok(&["resume", "disk0", "--image", "data.vhd"]).stdout;
    assert_eq!(
        resumed,
        format!("disk0: resumed on {}\n", place.path("data.vhd").display())
    );
    assert!(!is_paused(&place, "disk0"));
    let entry = place.ok(&["pause", "disk0", "--resume-after", "1h", "--json"]).json();
    assert!(entry["paused"]["resumes_in_s"].as_f64().unwrap() > 3500.0, "{entry}");
    place.ok(&["resume", "disk0"]);
}

#[test]
fn a_disk_is_paused_as_long_as_a_command_runs() {
    let (place, _served) = served();
    let look = format!(
        "{} list --json && echo \"$image\" && exit 7",
        env!("CARGO_BIN_EXE_iomgr")
    );
    let ended = place.run(&["pause", "disk0", "--", "sh", "-c", &look]);
    assert_eq!(ended.code, Some(7), "{ended:?}");
    assert!(ended.stdout.contains("\"leased\": true"), "{ended:?}");
    assert!(
        ended
            .stdout
            .ends_with(&format!("{}\n", place.path("disk0.vhd").display())),
        "{ended:?}"
    );
    assert!(!is_paused(&place, "disk0"));
    let none = place.run(&["pause", "disk0", "--", "no-such-command"]);
    assert_eq!(none.code, Some(127), "{none:?}");
    assert!(
        none.stderr.contains("no-such-command: the command cannot be started"),
        "{none:?}"
    );
    assert!(!is_paused(&place, "disk0"));
    let resume = format!("{} resume disk0", env!("CARGO_BIN_EXE_iomgr"));
    let early = place.run(&["pause", "disk0", "--", "sh", "-c", &resume]);
    assert_eq!(early.code, Some(1), "{early:?}");
    assert!(
        early.stderr.contains("was resumed before the command had ended"),
        "{early:?}"
    );
    assert!(!early.stderr.contains("--resume-after"), "nobody said that: {early:?}");
}

/// A command in a pause, which has said that it runs.
fn pausing(place: &Place, script: &str) -> Child {
    let mut command = place.command(&["pause", "disk0", "--", "sh", "-c", script]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "runs\n");
    child
}

fn signal(child: &Child, name: &str) {
    let status = Command::new("kill")
        .args(["-s", name, &child.id().to_string()])
        .status();
    assert!(status.unwrap().success());
}

#[test]
fn signals_are_the_commands_and_the_disk_resumes() {
    let (place, _served) = served();
    let child = pausing(&place, "echo runs; sleep 1000; exit 3");
    signal(&child, "TERM");
    let ended: Ended = child.wait_with_output().unwrap().into();
    assert_eq!(ended.code, Some(143), "{ended:?}");
    assert!(ended.stderr.contains("the disk resumes after it"), "{ended:?}");
    assert!(!is_paused(&place, "disk0"));
}

#[test]
fn who_is_killed_while_it_pauses_a_disk_leaves_it_running() {
    let (place, _served) = served();
    // The command ends with the process that pauses; nobody else would end it.
    let mut child = pausing(&place, "echo runs; exec setpriv --pdeathsig KILL sleep 1000");
    assert!(is_paused(&place, "disk0"));
    child.kill().unwrap();
    child.wait().unwrap();
    for _ in 0..1000 {
        if !is_paused(&place, "disk0") {
            return;
        }
    }
    panic!("the disk is still paused");
}

#[test]
fn stats_are_of_intervals() {
    let (place, served) = served();
    let all = place.ok(&["stats"]).stdout;
    assert!(all.starts_with("DISK   READS/S ") && all.lines().count() == 2, "{all}");
    assert_eq!(
        place.ok(&["stats", "disk0", "--json"]).json()[0]["disks"][0]["name"],
        "disk0"
    );
    let mut watch = place.command(&["stats", "--watch", "10ms", "--json"]);
    let mut watch = watch.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines().map(Result::unwrap);
    for _ in 0..3 {
        let line: Value = serde_json::from_str(&lines.next().unwrap()).unwrap();
        let disk = &line["servers"][0]["disks"][0];
        assert!(disk["interval_s"].as_f64().unwrap() >= 0.01, "{line}");
        assert_eq!(disk["read"]["ops"], 0, "{line}");
    }
    signal(&watch, "INT");
    assert!(lines.all(|line| line.ends_with('}')), "a line was cut short");
    assert_eq!(watch.wait().unwrap().code(), Some(0));
    // Whoever reads no more ends it, too.
    let head = format!("{} stats --watch 10ms | head -2", env!("CARGO_BIN_EXE_iomgr"));
    let mut shell = Command::new("sh");
    shell.args(["-c", &head]).env("IOMGR_RUNTIME_DIR", place.runtime_dir());
    let ended: Ended = shell.output().unwrap().into();
    assert_eq!(ended.stdout.lines().count(), 2, "{ended:?}");
    // So does the end of the last server.
    let mut watch = place.command(&["stats", "--watch", "10ms"]);
    let mut watch = watch.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    lines.next().unwrap().unwrap();
    served.signal("TERM");
    assert_eq!(served.ended().code, Some(0));
    lines.for_each(|line| drop(line.unwrap()));
    assert_eq!(watch.wait().unwrap().code(), Some(1));
}
