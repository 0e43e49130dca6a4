//! The control socket: its documentation against a server, what makes no sense, and leases.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use iomgr_core::manager::Manager;
use vbd::{
    AttachRequest, ControlAnswer, ControlClient, ControlRequest, CreateOptions, DetachRequest, Disk, DiskOptions,
    ErrorKind, PauseRequest, ResumeRequest, Server, ServerOptions, Status, create,
};

const PATIENCE: Duration = Duration::from_secs(30);

/// A folder with two images, of which one is served.
struct Rig {
    dir: tempfile::TempDir,
    server: Option<Server>,
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["demo.vhd", "data.vhd"] {
            create(&dir.path().join(name), &CreateOptions::new(64 << 20)).unwrap();
        }
        let options = ServerOptions {
            socket: Some(dir.path().join("demo.sock")),
            control: Some(dir.path().join("demo.ctl")),
            ..ServerOptions::default()
        };
        let disk = Disk::open(&dir.path().join("demo.vhd"), &DiskOptions::default()).unwrap();
        let server = Some(Server::start(disk, &options).unwrap());
        Self { dir, server }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }

    fn client(&self) -> ControlClient {
        ControlClient::connect(&self.path("demo.ctl"), PATIENCE).unwrap()
    }

    fn lines(&self) -> Lines {
        let stream = UnixStream::connect(self.path("demo.ctl")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Lines(BufReader::new(stream))
    }

    fn is_paused(&self) -> bool {
        self.server().disk("demo").unwrap().info().paused.is_some()
    }
}

/// A client that says what it likes.
struct Lines(BufReader<UnixStream>);

impl Lines {
    fn say(&mut self, line: &str) {
        self.0.get_mut().write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn ask(&mut self, line: &str) -> ControlAnswer {
        self.say(line);
        serde_json::from_str(&self.answer()).unwrap()
    }
}

/// Waits until a condition holds.
fn becomes(what: &str, holds: impl Fn() -> bool) {
    let since = Instant::now();
    while !holds() {
        assert!(since.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn document() -> String {
    std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/control.md")).unwrap()
}

/// Is it `pattern`, in which an ellipsis stands for anything?
fn is_like(line: &str, pattern: &str) -> bool {
    let Some((first, later)) = pattern.split_once('…') else {
        return line == pattern;
    };
    let Some(mut rest) = line.strip_prefix(first) else {
        return false;
    };
    let (middle, last) = later.rsplit_once('…').unwrap_or(("", later));
    for part in middle.split('…') {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[test]
fn the_document_s_transcripts_are_what_a_server_says() {
    let rig = Rig::new();
    let mut client = rig.lines();
    let home = rig.dir.path().to_str().unwrap().to_owned();
    let document = document().replace("/home/me", &home);
    let (server, mut asked) = (rig.server().stopper(), 0);
    // Ends with the transcript of `stop`.
    let ending = std::thread::spawn(move || {
        let mut rig = rig;
        rig.server().wait().unwrap();
        rig.server.take().unwrap().stop().unwrap();
        rig
    });
    for line in document.lines() {
        if let Some(request) = line.strip_prefix("→ ") {
            client.say(request);
            asked += 1;
        } else if let Some(answer) = line.strip_prefix("← ") {
            let said = client.answer();
            assert!(
                is_like(&said, answer),
                "the document says\n{answer}\nthe server\n{said}"
            );
        }
    }
    assert!(asked > 20, "{asked} requests in the document");
    server.stop();
    ending.join().unwrap();
}

#[test]
fn the_document_names_every_verb_and_every_field_of_the_status() {
    let document = document();
    for verb in vbd::Verb::NAMES {
        assert!(document.contains(&format!("| [`{verb}`](")), "{verb}");
    }
    let json = document.split("```json\n").nth(1).unwrap().split("```").next().unwrap();
    let status: Status = serde_json::from_str(json).unwrap();
    let said: serde_json::Value = serde_json::from_str(json).unwrap();
    assert_eq!(serde_json::to_value(&status).unwrap(), said);
}

#[test]
fn whatever_a_client_says_is_answered() {
    let rig = Rig::new();
    let mut client = rig.lines();
    let deep = format!(
        r#"{{"v":1,"verb":"manager-set","manager":{}{}}}"#,
        "[".repeat(20_000),
        "]".repeat(20_000)
    );
    let wide = format!(r#"{{"v":1,"verb":"pause","disk":"{}"}}"#, "d".repeat(60_000));
    for line in [
        "",
        " ",
        "null",
        "7",
        "\"status\"",
        "[]",
        "{}",
        "\u{0}",
        "{\"v\":1,\"verb\":\"status\"",
        &deep,
        r#"{"v":1,"verb":"status","verb":7}"#,
        r#"{"v":1e999,"verb":"status"}"#,
        r#"{"v":1,"verb":null}"#,
        r#"{"v":1,"verb":"stats","disk":{}}"#,
        r#"{"v":1,"verb":"manager-set","manager":null}"#,
        r#"{"v":1,"verb":"manager-set","merge":true,"manager":[]}"#,
        r#"{"v":1,"verb":"manager-set","manager":{"policy":{"name":"wfq","weights":7}}}"#,
        r#"{"v":1,"verb":"manager-set","manager":{"policy":{"name":"turn","share":99999999999999999999}}}"#,
        r#"{"v":1,"verb":"pause","disk":"demo","timeout_s":1e308}"#,
        r#"{"v":1,"verb":"detach","disk":"demo","timeout_s":-0.5}"#,
        r#"{"v":1,"verb":"attach","image":7}"#,
    ] {
        let answer = client.ask(line);
        let shown = &line[..line.len().min(100)];
        assert_eq!(
            (answer.ok, answer.kind),
            (false, Some(ErrorKind::Request)),
            "{shown}: {:?}",
            answer.error
        );
    }
    for (line, kind) in [
        (wide.as_str(), ErrorKind::NotFound),
        (
            r#"{"v":1,"verb":"attach","image":"demo.vhd"}"#,
            ErrorKind::InvalidOption,
        ),
        (
            r#"{"v":1,"verb":"attach","image":"/dev/null","name":""}"#,
            ErrorKind::InvalidOption,
        ),
        (
            r#"{"v":1,"verb":"attach","image":"/dev/null","name":"a\u001b[2J"}"#,
            ErrorKind::InvalidOption,
        ),
        (
            r#"{"v":1,"verb":"attach","image":"/dev/null","retry_on":["EPERM"]}"#,
            ErrorKind::InvalidOption,
        ),
        (
            r#"{"v":1,"verb":"attach","image":"/dev/null","lock_timeout_s":61}"#,
            ErrorKind::InvalidOption,
        ),
        (r#"{"v":1,"verb":"resume","disk":"demo"}"#, ErrorKind::State),
        (
            r#"{"v":1,"verb":"resume","disk":"demo","image":"b.vhd"}"#,
            ErrorKind::InvalidOption,
        ),
        (r#"{"v":1,"verb":"detach","disk":""}"#, ErrorKind::NotFound),
        (r#"{"v":1,"verb":"manager-unset","name":"turn"}"#, ErrorKind::NotCurrent),
    ] {
        let answer = client.ask(line);
        let shown = &line[..line.len().min(100)];
        assert_eq!(
            (answer.ok, answer.kind),
            (false, Some(kind)),
            "{shown}: {:?}",
            answer.error
        );
    }
    assert!(client.ask(r#"{"v":1,"verb":"list"}"#).ok);
}

#[test]
fn what_two_clients_change_at_once_is_all_changed() {
    let rig = Rig::new();
    rig.client()
        .set_manager(serde_json::from_str(r#"{"manager":{"policy":{"name":"turn"}}}"#).unwrap())
        .unwrap();
    let set = |field: &str, value: u32| vbd::ManagerSet {
        manager: serde_json::json!({ "policy": { field: value } }),
        merge: true,
    };
    for round in 1..=50 {
        std::thread::scope(|scope| {
            for field in ["share", "turn_ms"] {
                let mut client = rig.client();
                let wish = set(field, round);
                scope.spawn(move || client.set_manager(wish).unwrap());
            }
        });
        let config = serde_json::to_value(rig.client().manager().unwrap().config).unwrap();
        let expected = serde_json::json!({ "policy": { "name": "turn", "share": round, "turn_ms": round } });
        assert_eq!(config, expected);
    }
}

fn pause(disk: &str) -> PauseRequest {
    PauseRequest {
        disk: disk.to_owned(),
        ..PauseRequest::default()
    }
}

fn leased() -> PauseRequest {
    PauseRequest {
        lease: true,
        ..pause("demo")
    }
}

fn resume(disk: &str) -> ResumeRequest {
    ResumeRequest {
        disk: disk.to_owned(),
        ..ResumeRequest::default()
    }
}

fn attach(image: &Path, name: Option<&str>) -> AttachRequest {
    AttachRequest {
        image: image.to_owned(),
        name: name.map(str::to_owned),
        ..AttachRequest::default()
    }
}

fn detach(disk: &str) -> DetachRequest {
    DetachRequest {
        disk: disk.to_owned(),
        ..DetachRequest::default()
    }
}

#[test]
fn a_lease_ends_with_its_connection_and_no_other() {
    let rig = Rig::new();
    let (mut owner, mut other) = (rig.client(), rig.client());
    assert!(owner.pause(leased()).unwrap().info.paused.unwrap().leased);
    assert_eq!(other.pause(leased()).unwrap_err().kind(), ErrorKind::State);
    drop(other);
    rig.client().disks().unwrap();
    assert!(rig.is_paused());
    drop(owner);
    becomes("the lease is over, and the disk paused", || !rig.is_paused());
}

#[test]
fn a_lease_that_is_over_resumes_nothing() {
    let rig = Rig::new();
    let mut owner = rig.client();
    owner.pause(leased()).unwrap();
    rig.client().resume(resume("demo")).unwrap();
    rig.client().pause(pause("demo")).unwrap();
    drop(owner);
    // Whoever asks now is let in after the owner has gone.
    for _ in 0..10 {
        rig.client().disks().unwrap();
    }
    assert!(rig.is_paused());
}

#[test]
fn a_lease_that_is_over_is_in_nobody_s_way() {
    let rig = Rig::new();
    let mut owner = rig.client();
    owner.pause(leased()).unwrap();
    rig.client().resume(resume("demo")).unwrap();
    owner.pause(pause("demo")).unwrap();
    owner.resume(resume("demo")).unwrap();
    assert!(!rig.is_paused());
}

#[test]
fn a_server_that_ends_leaves_nothing_to_those_who_hold_leases() {
    let mut rig = Rig::new();
    let mut owner = rig.client();
    owner.pause(leased()).unwrap();
    rig.server.take().unwrap().stop().unwrap();
    let at_once = DiskOptions {
        lock_timeout: Duration::ZERO,
        ..DiskOptions::default()
    };
    Disk::open(&rig.path("demo.vhd"), &at_once).unwrap();
    assert!(owner.disks().is_err());
}

#[test]
fn each_connection_has_its_own_intervals() {
    let rig = Rig::new();
    let (mut early, mut late) = (rig.client(), rig.client());
    let first = early.sample(Some("demo")).unwrap().disks[0].interval_s;
    let second = early.sample(None).unwrap().disks[0].interval_s;
    let other = late.sample(None).unwrap().disks[0].interval_s;
    // All from one clock: two intervals in a row make at most the one that lasted as long as both.
    assert!(
        second >= 0.0 && first + second <= other + 1e-6,
        "{first} and {second}, {other}"
    );
    assert_eq!(early.sample(Some("nothing")).unwrap_err().kind(), ErrorKind::NotFound);
}

/// Devices' numbers are used again.
#[test]
fn a_disk_in_another_s_place_has_an_interval_of_its_own() {
    let rig = Rig::new();
    let mut client = rig.client();
    let image = rig.path("data.vhd");
    client.attach(attach(&image, Some("one"))).unwrap();
    client.sample(None).unwrap();
    client.detach(detach("one")).unwrap();
    let before = Instant::now();
    client.attach(attach(&image, Some("two"))).unwrap();
    let interval = client.sample(Some("two")).unwrap().disks[0].interval_s;
    // From one clock: it was not there before.
    assert!(interval <= before.elapsed().as_secs_f64(), "{interval} s");
}

#[test]
fn a_disk_that_came_later_is_like_any_other() {
    let rig = Rig::new();
    let mut client = rig.client();
    let image = rig.path("data.vhd");
    let entry = client.attach(attach(&image, None)).unwrap();
    assert_eq!((entry.info.name.as_str(), entry.uris.len()), ("data", 1));
    assert_eq!(
        client.attach(attach(&image, Some("twin"))).unwrap_err().kind(),
        ErrorKind::Locked
    );
    let third = rig.path("third.vhd");
    create(&third, &CreateOptions::new(64 << 20)).unwrap();
    assert_eq!(
        client.attach(attach(&third, Some("data"))).unwrap_err().kind(),
        ErrorKind::Exists
    );
    client.pause(pause("data")).unwrap();
    let demo = ResumeRequest {
        image: Some(rig.path("demo.vhd")),
        ..resume("data")
    };
    let twin = client.resume(demo).unwrap_err();
    assert_eq!(twin.kind(), ErrorKind::Locked);
    assert!(twin.to_string().contains("of disk \"demo\" of this server"), "{twin}");
    client.resume(resume("data")).unwrap();
    let names = |client: &mut ControlClient| -> Vec<String> {
        client.disks().unwrap().into_iter().map(|disk| disk.info.name).collect()
    };
    assert_eq!(names(&mut client), ["demo", "data"]);
    assert!(client.status().unwrap().devices.iter().all(|disk| disk.hooks.is_some()));
    client.detach(detach("data")).unwrap();
    assert_eq!(names(&mut client), ["demo"]);
    assert_eq!(client.sample(None).unwrap().disks.len(), 1);
}

#[test]
fn requests_may_be_written_by_programs() {
    let line = serde_json::to_string(&ControlRequest::new(vbd::Verb::Pause(leased()))).unwrap();
    assert_eq!(line, r#"{"v":1,"verb":"pause","disk":"demo","lease":true}"#);
}

#[derive(Debug)]
struct Mine;

impl Manager for Mine {
    fn name(&self) -> &str {
        "mine"
    }
}

#[test]
fn somebody_s_own_manager_is_shown_by_its_name_and_gives_way() {
    let rig = Rig::new();
    rig.server().registry().replace(Arc::new(Mine)).unwrap();
    let mut client = rig.client();
    let now = client.manager().unwrap();
    assert_eq!((now.name.as_str(), now.config), ("mine", None));
    assert_eq!(client.status().unwrap().manager, "mine");
    let wish = vbd::ManagerSet {
        manager: serde_json::json!({ "policy": { "name": "turn", "share": 3 } }),
        merge: true,
    };
    let now = client.set_manager(wish).unwrap();
    assert_eq!(
        serde_json::to_value(now.config).unwrap(),
        serde_json::json!({ "policy": { "name": "turn", "share": 3, "turn_ms": 100 } })
    );
    rig.server().registry().replace(Arc::new(Mine)).unwrap();
    assert_eq!(client.unset_manager(Some("mine")).unwrap().name, "none");
}

#[test]
fn a_client_too_many_is_told_so() {
    let rig = Rig::new();
    let mut clients: Vec<_> = (0..32).map(|_| rig.client()).collect();
    for client in &mut clients {
        client.disks().unwrap();
    }
    let mut late = rig.lines();
    let answer: ControlAnswer = serde_json::from_str(&late.answer()).unwrap();
    assert_eq!((answer.ok, answer.kind), (false, Some(ErrorKind::Control)));
    assert!(answer.error.unwrap().contains("32 clients are connected already"));
    drop(clients);
    becomes("nobody is let in", || rig.client().disks().is_ok());
}
