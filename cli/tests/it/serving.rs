//! `serve`, `status`, `stop`: from ready to removed sockets.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::run::{Ended, Place, flip};

/// A running server; killed if a test ends without ending it.
pub(crate) struct Served {
    child: Child,
    stdout: BufReader<std::process::ChildStdout>,
}

impl Served {
    /// Starts `iomgr serve` and waits for a line that `is_ready`; gives all lines up to it.
    fn start(place: &Place, args: &[&str], is_ready: fn(&str) -> bool) -> (Self, String) {
        Self::spawn(place.command(&[&["serve"], args].concat()), is_ready)
    }

    /// The same with a command that comes to `iomgr serve`.
    pub(crate) fn spawn(mut command: Command, is_ready: fn(&str) -> bool) -> (Self, String) {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut said = String::new();
        while !said.lines().last().is_some_and(is_ready) {
            if stdout.read_line(&mut said).unwrap() == 0 {
                let output = child.wait_with_output().unwrap();
                panic!(
                    "ended before it was ready: {said}{}",
                    String::from_utf8_lossy(&output.stderr)
                );
            }
        }
        (Self { child, stdout }, said)
    }

    fn text(place: &Place, args: &[&str]) -> (Self, String) {
        Self::start(place, args, |line| line.starts_with("to end it: "))
    }

    pub(crate) fn json(place: &Place, args: &[&str]) -> (Self, Value) {
        let (served, line) = Self::start(place, &[args, &["--json"]].concat(), |line| line.ends_with('}'));
        (served, serde_json::from_str(&line).unwrap())
    }

    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args(["-s", name, &self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(status.success());
    }

    /// What it says next.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line
    }

    /// Waits for its end.
    pub(crate) fn ended(mut self) -> Ended {
        let mut stdout = String::new();
        self.stdout.read_to_string(&mut stdout).unwrap();
        let mut stderr = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        let code = self.child.wait().unwrap().code();
        Ended { code, stdout, stderr }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // Ended already, as a rule.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// No socket is left in the runtime folder.
fn no_sockets(place: &Place) -> bool {
    std::fs::read_dir(place.runtime_dir()).unwrap().next().is_none()
}

#[test]
fn a_runtime_folder_that_cannot_be_read_is_not_an_empty_one() {
    let place = Place::new();
    place.write("run", b"no folder");
    for args in [
        &["status"][..],
        &["stop", "--all"],
        &["stop", "a"],
        &["status", "a", "--json"],
    ] {
        let ended = place.run(args);
        assert_eq!(ended.code, Some(1), "{args:?}: {ended:?}");
        assert!(ended.stderr.contains("set IOMGR_RUNTIME_DIR"), "{args:?}: {ended:?}");
    }
}

#[test]
fn a_server_that_hangs_is_not_called_dead() {
    let place = Place::new();
    let (served, _) = Served::json(&place, &["--create", "1G", "a.vhd"]);
    served.signal("STOP");
    let cases: [(&[&str], &str); 9] = [
        (&["status", "a"], "a: is alive, but does not answer"),
        (&["status"], "a: is alive, but does not answer"),
        (&["list"], "a.ctl: the server does not answer in time"),
        (&["list", "--json"], "a.ctl: the server does not answer in time"),
        (&["stats", "a"], "the server a is alive, but does not answer"),
        (&["pause", "b"], "the server a is alive, but does not answer"),
        (&["resume", "a"], "the server a is alive, but does not answer"),
        (&["attach", "b.img"], "a.ctl: the server does not answer in time"),
        (&["manager", "show"], "a.ctl: the server does not answer in time"),
    ];
    let asked = cases.map(|(args, _)| {
        let mut command = place.command(args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    });
    let ended = asked.map(|child| Ended::from(child.wait_with_output().unwrap()));
    served.signal("CONT");
    for (ended, (args, words)) in ended.iter().zip(cases) {
        assert_eq!(ended.code, Some(1), "{args:?}: {ended:?}");
        assert!(ended.stderr.contains(words), "{args:?}: {ended:?}");
        assert!(!ended.stderr.contains("no server"), "{args:?}: {ended:?}");
        assert!(
            !ended.stderr.contains("os error"),
            "a time-out has no other cause: {args:?}: {ended:?}"
        );
    }
    assert_eq!(ended[3].json_error()["kind"], "control");
    served.signal("TERM");
    assert_eq!(served.ended().code, Some(0));
}

#[test]
fn a_server_that_ends_under_a_paused_disk_is_named() {
    let place = Place::new();
    let (served, _) = Served::json(&place, &["--create", "1G", "a.vhd"]);
    let ended = place.run(&["pause", "a", "--", "kill", "-KILL", &served.child.id().to_string()]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("the server of disk \"a\" ended"), "{ended:?}");
    assert!(ended.stderr.contains("read is whole"), "{ended:?}");
}

#[test]
fn an_image_that_json_cannot_name_is_refused_by_its_name() {
    let place = Place::new();
    let (_served, _) = Served::json(&place, &["--create", "1G", "a.vhd"]);
    let mut attach = place.command(&["attach"]);
    let ended = Ended::from(attach.arg(OsStr::from_bytes(b"\xff.img")).output().unwrap());
    assert_ne!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stderr.contains(".img: its name is not UTF-8"), "{ended:?}");
}

#[test]
fn servers_are_found_by_the_names_that_they_are_listed_by() {
    let place = Place::new();
    let run = |args: &[&str]| {
        let mut command = place.command(args);
        // A relative folder is the same for whoever works in this one.
        Ended::from(command.env("IOMGR_RUNTIME_DIR", "run").output().unwrap())
    };
    let (served, ready) = Served::json(&place, &["--create", "1G", "--name", "a b", "a.vhd"]);
    let listed = run(&["list", "--json"]).json();
    assert_eq!(listed[0]["server"], "a b");
    assert_eq!(listed[0]["control"], ready["control"]);
    let stopped = run(&["stop", "a b"]);
    assert_eq!((stopped.code, served.ended().code), (Some(0), Some(0)), "{stopped:?}");
}

#[test]
fn with_json_all_that_is_said_on_stderr_is_json() {
    let place = Place::new();
    let (_served, _) = Served::json(&place, &["--create", "1G", "a.vhd"]);
    let ended = place.run(&["serve", "--json", "--lock-timeout", "100ms", "--name", "other", "a.vhd"]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let lines: Vec<Value> = ended
        .stderr
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(
        (&lines[0]["level"], &lines[1]["kind"]),
        (&"WARN".into(), &"locked".into()),
        "{lines:?}"
    );
}

#[test]
fn what_a_dead_server_of_a_block_device_left_is_deleted() {
    let place = Place::new();
    // As `iomgr` makes it: a folder that others may write is refused.
    place.ok(&["doctor"]);
    for name in ["a", "ublkb7"] {
        drop(UnixListener::bind(place.runtime_dir().join(format!("{name}.ctl"))).unwrap());
    }
    let ended = place.ok(&["status"]);
    assert!(
        ended.stderr.contains("ublkb7: does not answer; `iomgr del -n 7`"),
        "{ended:?}"
    );
    assert!(
        ended.stderr.contains("a: does not answer; a socket of a dead"),
        "{ended:?}"
    );
}

#[test]
fn it_says_what_it_serves() {
    let place = Place::new();
    let (served, said) = Served::text(&place, &["--create", "1G", "a.vhd"]);
    let here = place.path("").to_string_lossy().into_owned();
    insta::with_settings!({filters => vec![(here.as_str(), "PLACE/")]}, {
        insta::assert_snapshot!("ready", said);
    });
    served.signal("TERM");
    assert_eq!(served.ended().code, Some(0));
}

#[test]
fn the_first_signal_ends_it_cleanly() {
    for signal in ["INT", "TERM", "HUP"] {
        let place = Place::new();
        let (served, _) = Served::json(&place, &["--create", "1G", "a.vhd"]);
        served.signal(signal);
        let ended = served.ended();
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(ended.stderr.contains("closing: "), "{ended:?}");
        assert!(no_sockets(&place));
        assert_eq!(place.run(&["check", "a.vhd"]).code, Some(0));
    }
}

#[test]
fn a_signal_that_comes_before_it_is_ready_leaves_nothing() {
    let place = Place::new().with_vhd("a.vhd");
    // A handler that came after the sockets was too late for some of these.
    for _ in 0..30 {
        let mut command = place.command(&["serve", "a.vhd", "--pidfile", "pid"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let socket = place.runtime_dir().join("a.sock");
        while !socket.exists() && child.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        let pid = child.id().to_string();
        let sent = Command::new("kill").args(["-s", "TERM", &pid]).status().unwrap();
        assert!(sent.success());
        let ended = Ended::from(child.wait_with_output().unwrap());
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(no_sockets(&place) && !place.path("pid").exists());
    }
}

#[test]
fn a_name_that_is_no_unicode_is_told_all_the_same() {
    let place = Place::new();
    let name = OsStr::from_bytes(b"a\xff.img");
    std::fs::write(place.path("").join(name), [0; 4096]).unwrap();
    let info = place.command(&["info", "--json"]).arg(name).output().unwrap();
    assert_eq!(Ended::from(info).json()["size_bytes"], 4096);
    let status = format!(
        "{} status --control \"$iomgr_control\" --json",
        env!("CARGO_BIN_EXE_iomgr")
    );
    let mut served = place.command(&["serve", "--run", &status]);
    let status = Ended::from(served.arg(name).output().unwrap()).json();
    assert!(
        status[0]["status"]["devices"][0]["path"]
            .as_str()
            .unwrap()
            .ends_with("a\u{fffd}.img")
    );
    let mut ready = place.command(&["serve", "--json"]);
    let mut child = ready.arg(name).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert!(line.contains("\"ready\""), "{line}");
    Command::new("kill").arg(child.id().to_string()).status().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn nonsense_is_answered_and_the_connection_goes_on() {
    let place = Place::new();
    let (served, _) = Served::json(&place, &["--create", "1G", "a.vhd"]);
    let mut control = UnixStream::connect(place.runtime_dir().join("a.ctl")).unwrap();
    let mut answers = BufReader::new(control.try_clone().unwrap());
    for nonsense in [&b"{}\n"[..], b"\n", b"\xff\xfe\n", b"{\"v\":1,\"verb\":\"explode\"}\n"] {
        control.write_all(nonsense).unwrap();
        let mut answer = String::new();
        answers.read_line(&mut answer).unwrap();
        assert!(answer.contains("\"kind\":\"request\""), "{nonsense:?}: {answer}");
    }
    served.signal("TERM");
    assert_eq!(served.ended().code, Some(0));
}

#[test]
fn status_and_stop_find_it_by_name() {
    let place = Place::new();
    let (served, ready) = Served::json(&place, &["--create", "8M", "a.vhd", "--name", "demo"]);
    assert_eq!(
        (&ready["event"], &ready["created"]),
        (&"ready".into(), &true.into()),
        "{ready}"
    );
    assert_eq!(
        (&ready["device"]["name"], &ready["device"]["size_bytes"]),
        (&"demo".into(), &(8 << 20).into())
    );
    let socket = ready["socket"].as_str().unwrap();
    assert_eq!(ready["uri"], format!("nbd+unix:///?socket={socket}"));
    UnixStream::connect(socket).unwrap();

    let status = place.ok(&["status", "--json"]).json();
    assert_eq!(status[0]["name"], "demo", "{status}");
    assert_eq!(status[0]["status"]["devices"][0]["format"], "vhd-dynamic", "{status}");
    assert_eq!(
        place.ok(&["status", "demo", "--json"]).json()[0]["control"],
        ready["control"]
    );
    let table = place.ok(&["status"]).stdout;
    assert!(
        table.starts_with("NAME ") && table.contains("\ndemo ") && table.contains(socket),
        "{table}"
    );

    assert_eq!(place.ok(&["stop", "demo"]).stdout, "demo: stopped\n");
    assert_eq!(served.ended().code, Some(0));
    assert!(no_sockets(&place));
}

#[test]
fn several_images_are_several_exports() {
    let place = Place::new().with_vhd("a.vhd").with_vhd("b.vhd");
    place.write("c,1.img", &[1; 4096]);
    let args = ["a.vhd", "b.vhd,name=second", "c,1.img,read-only"];
    let (served, ready) = Served::json(&place, &[&args[..], &["--description", "the first"]].concat());
    let devices = ready["devices"].as_array().unwrap();
    let names: Vec<_> = devices.iter().map(|device| device["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["a", "second", "c_1"]);
    assert_eq!(devices[2]["read_only"], true, "{ready}");
    let socket = ready["socket"].as_str().unwrap();
    assert_eq!(devices[1]["uri"], format!("nbd+unix:///second?socket={socket}"));
    assert_eq!(ready["uri"], format!("nbd+unix:///?socket={socket}"));
    assert_eq!(ready["device"]["name"], "a");

    // Any of the names leads to the server, and several to the same one.
    let status = place.ok(&["status", "c_1", "a", "--json"]).json();
    assert_eq!(status.as_array().unwrap().len(), 1, "{status}");
    assert_eq!(status[0]["status"]["devices"][1]["name"], "second", "{status}");
    assert_eq!(place.ok(&["stop", "second"]).stdout, "second: stopped\n");
    assert_eq!(served.ended().code, Some(0));
    assert!(no_sockets(&place));
}

#[test]
fn names_are_unique_and_images_are_given_once() {
    let place = Place::new().with_vhd("a.vhd");
    place.write("a.img", &[0; 4096]);
    let same_name = place.run(&["serve", "a.vhd", "a.img", "--json"]);
    assert_eq!(same_name.json_error()["kind"], "invalid-option", "{same_name:?}");
    assert!(same_name.stderr.contains("--name"), "{same_name:?}");
    let twice = place.run(&["serve", "a.vhd", "./a.vhd,name=b", "--json"]);
    assert_eq!(twice.json_error()["kind"], "locked", "{twice:?}");
    assert!(twice.stderr.contains("give it once"), "{twice:?}");
    let too_many = place.run(&["serve", "a.vhd", "--name", "a", "--name", "b"]);
    assert_eq!(too_many.code, Some(2), "{too_many:?}");
    let two_names = place.run(&["serve", "a.vhd,name=a", "--name", "b"]);
    assert_eq!(two_names.code, Some(2), "{two_names:?}");

    // Readers do not mind each other.
    let (served, _) = Served::json(&place, &["a.vhd", "a.vhd", "--read-only", "--name", "a", "--name", "b"]);
    place.ok(&["stop", "b"]);
    assert_eq!(served.ended().code, Some(0));
}

#[test]
fn sockets_may_lie_anywhere() {
    let place = Place::new().with_vhd("a.vhd");
    let control = place.path("my own.ctl").to_string_lossy().into_owned();
    let socket = place.path("my.sock").to_string_lossy().into_owned();
    let (served, said) = Served::text(&place, &["a.vhd", "--socket", &socket, "--control", &control]);
    assert!(
        said.contains(&format!("to end it: iomgr stop --control '{control}'")),
        "{said}"
    );
    assert_eq!(
        place.ok(&["status", "--control", &control, "--json"]).json()[0]["name"],
        "my_own"
    );
    let stopped = place.ok(&["stop", "--control", &control, "--json"]).json();
    assert_eq!(stopped[0]["stopped"], true, "{stopped}");
    assert_eq!(served.ended().code, Some(0));
    assert!(!place.path("my.sock").exists() && !place.path("my own.ctl").exists());
}

#[test]
fn what_exists_is_reused_and_said_so() {
    let place = Place::new().with_vhd("a.vhd");
    let (served, said) = Served::text(&place, &["--create", "64M", "a.vhd"]);
    assert!(said.contains("existed and is used as it is"), "{said}");
    assert_eq!(place.ok(&["stop", "--all"]).stdout, "a: stopped\n");
    assert_eq!(served.ended().code, Some(0));
}

#[test]
fn a_torn_footer_is_served_after_repair_or_for_reading() {
    let place = Place::new().with_vhd("a.vhd");
    let whole = place.read("a.vhd");
    flip(&place.path("a.vhd"), whole.len() - 500);
    let torn = place.read("a.vhd");

    let refused = place.run(&["serve", "a.vhd", "--json"]);
    assert_eq!(refused.json_error()["kind"], "needs-repair", "{refused:?}");

    let (served, ready) = Served::json(&place, &["a.vhd", "--read-only"]);
    assert_eq!(ready["device"]["read_only"], true, "{ready}");
    place.ok(&["stop", "a"]);
    assert_eq!(served.ended().code, Some(0));
    assert!(place.read("a.vhd") == torn, "it was written to");

    let (served, ready) = Served::json(&place, &["a.vhd", "--repair"]);
    assert_eq!(ready["device"]["read_only"], false, "{ready}");
    place.ok(&["stop", "a"]);
    assert_eq!(served.ended().code, Some(0));
    assert!(place.read("a.vhd") == whole, "it was not repaired");
}

#[test]
fn warnings_can_be_json() {
    let place = Place::new();
    place.write("a.img", &[1; 1300]);
    let (served, ready) = Served::json(&place, &["a.img", "--log-format", "json"]);
    assert!(
        ready["warnings"][0].as_str().unwrap().contains("last 276 bytes"),
        "{ready}"
    );
    place.ok(&["stop", "a"]);
    let ended = served.ended();
    let line: Value = serde_json::from_str(ended.stderr.lines().next().unwrap()).unwrap();
    assert_eq!(line["level"], "WARN", "{ended:?}");
}

#[test]
fn a_second_server_is_refused() {
    let place = Place::new().with_vhd("a.vhd");
    let (served, _) = Served::json(&place, &["a.vhd"]);
    let second = place.run(&["serve", "a.vhd", "--name", "b", "--lock-timeout", "0.1", "--json"]);
    assert_eq!(second.code, Some(1), "{second:?}");
    assert_eq!(second.json_error()["kind"], "locked", "{second:?}");
    let third = place.run(&["create", "a.vhd", "--size", "1M", "--force", "--json"]);
    assert_eq!(third.json_error()["kind"], "locked", "{third:?}");
    served.signal("TERM");
    assert_eq!(served.ended().code, Some(0));
    assert_eq!(place.run(&["check", "a.vhd"]).code, Some(0));
}

#[test]
fn a_dead_server_is_said_to_be_dead() {
    let place = Place::new().with_vhd("a.vhd");
    let (served, _) = Served::json(&place, &["a.vhd"]);
    served.signal("KILL");
    assert_eq!(served.ended().code, None);
    let status = place.ok(&["status", "--json"]).json();
    assert_eq!(status[0]["name"], "a", "{status}");
    assert!(
        status[0]["error"].as_str().unwrap().contains("no server answers"),
        "{status}"
    );
    assert_eq!(place.run(&["status", "a"]).code, Some(1));
    assert!(place.ok(&["status"]).stderr.contains("a: does not answer"));
    assert_eq!(place.run(&["stop", "a"]).code, Some(1));
    assert!(place.ok(&["stop", "--all"]).stderr.contains("no server runs"));

    // The next of that name takes its place.
    let (served, _) = Served::json(&place, &["a.vhd"]);
    place.ok(&["stop", "a"]);
    assert!(no_sockets(&place));
    assert_eq!(served.ended().code, Some(0));
}

#[test]
fn without_servers_there_is_nothing_to_show_or_stop() {
    let place = Place::new();
    assert_eq!(place.ok(&["status", "--json"]).json(), serde_json::json!([]));
    assert!(place.ok(&["status"]).stderr.contains("no server runs"));
    assert!(place.ok(&["stop", "--all"]).stderr.contains("no server runs"));
    let ended = place.run(&["stop", "nobody", "--json"]);
    assert_eq!(ended.code, Some(1));
    assert!(
        ended.json()[0]["error"]
            .as_str()
            .unwrap()
            .contains("no server answers here"),
        "{ended:?}"
    );
}

#[test]
fn a_reader_that_went_away_does_not_end_it() {
    let place = Place::new().with_vhd("a.vhd");
    let mut child = place
        .command(&["serve", "a.vhd"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut line).unwrap();
    drop(stdout);
    assert_eq!(place.ok(&["stop", "a"]).stdout, "a: stopped\n");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn tcp_is_for_this_machine_unless_said_otherwise() {
    let place = Place::new().with_vhd("a.vhd");
    let refused = place.run(&["serve", "--create", "1G", "new.vhd", "--listen", "0.0.0.0:0"]);
    assert!(!place.path("new.vhd").exists(), "made although it cannot be served");
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(
        refused.stderr.contains("--insecure") && refused.stderr.contains("0.0.0.0:0"),
        "{refused:?}"
    );
    let args = [
        "a.vhd",
        "--listen",
        "127.0.0.1:0",
        "--listen",
        "0.0.0.0:0",
        "--insecure",
    ];
    let (served, ready) = Served::json(&place, &args);
    let uris = ready["devices"][0]["uris"].as_array().unwrap();
    assert_eq!(uris.len(), 3, "{ready}");
    let address = uris[1].as_str().unwrap().strip_prefix("nbd://").unwrap();
    let address = address.strip_suffix("/a").unwrap();
    assert!(!address.ends_with(":0"), "{address}");
    std::net::TcpStream::connect(address).unwrap();
    let taken = place.run(&[
        "serve",
        "a.vhd",
        "--read-only",
        "--name",
        "b",
        "--listen",
        address,
        "--json",
    ]);
    assert_eq!(taken.code, Some(1), "{taken:?}");
    place.ok(&["stop", "a"]);
    assert_eq!(served.ended().code, Some(0));
}

#[test]
fn a_pid_file_is_there_while_it_serves() {
    let place = Place::new().with_vhd("a.vhd").with_vhd("b.vhd");
    let (served, ready) = Served::json(&place, &["a.vhd", "--pidfile", "pid"]);
    assert_eq!(place.read("pid"), format!("{}\n", ready["pid"]).as_bytes());
    let second = place.run(&["serve", "b.vhd", "--pidfile", "pid"]);
    assert_eq!(second.code, Some(1), "{second:?}");
    assert!(
        second.stderr.contains(&format!("process {}", ready["pid"])),
        "{second:?}"
    );
    served.signal("KILL");
    assert_eq!(served.ended().code, None);
    let (served, _) = Served::json(&place, &["b.vhd", "--pidfile", "pid"]);
    place.ok(&["stop", "b"]);
    assert!(
        !place.path("pid").exists(),
        "who hears of the end finds the pid file gone"
    );
    assert_eq!(served.ended().code, Some(0));
    let no_pid = place.run(&["serve", "a.vhd", "--pidfile", "b.vhd"]);
    assert!(no_pid.stderr.contains("holds no process id"), "{no_pid:?}");
}
