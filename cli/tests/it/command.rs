//! `serve --run`: a command, and a server that lasts as long as it does.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::run::{Ended, Place};

/// Runs a command with `a.vhd` served; sees that nothing is left behind.
fn run(place: &Place, command: &str) -> Ended {
    let ended = served(place, command).output().unwrap().into();
    is_left_well(place);
    ended
}

fn served(place: &Place, command: &str) -> Command {
    let mut served = place.command(&["serve", "a.vhd", "--pidfile", "pid", "--run", command]);
    std::fs::create_dir_all(place.path("tmp")).unwrap();
    served.env("TMPDIR", place.path("tmp"));
    served
}

/// The image is closed and free; no socket and no pid file are left.
fn is_left_well(place: &Place) {
    assert!(!place.path("pid").exists());
    assert!(std::fs::read_dir(place.path("tmp")).unwrap().next().is_none());
    assert!(!place.runtime_dir().exists());
    place.ok(&["check", "a.vhd"]);
}

#[test]
fn the_commands_exit_code_is_ours() {
    let place = Place::new().with_vhd("a.vhd");
    for (command, code) in [
        ("exit 0", 0),
        ("exit 7", 7),
        ("kill -9 $$", 137),
        ("no-such-command", 127),
    ] {
        assert_eq!(run(&place, command).code, Some(code), "{command}");
    }
}

#[test]
fn stdout_is_the_commands() {
    let place = Place::new().with_vhd("a.vhd");
    assert_eq!(run(&place, "echo mine").stdout, "mine\n");
}

#[test]
fn it_knows_where_the_server_is() {
    let place = Place::new().with_vhd("a.vhd");
    let ended = run(
        &place,
        "test -S \"$unixsocket\" && test -S \"$iomgr_control\" && stat -c %a \"$(dirname \"$unixsocket\")\" && \
         echo \"$uri|$uris|$port|$exportname\"",
    );
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let socket = ended.stdout.lines().nth(1).unwrap().split_once("socket=").unwrap().1;
    let socket = socket.split('|').next().unwrap();
    let expected = format!("700\nnbd+unix:///?socket={socket}|nbd+unix:///a?socket={socket}||a\n");
    assert_eq!(ended.stdout, expected);
    let ended = place.run(&["serve", "a.vhd", "--listen", "127.0.0.1:0", "--run", "echo $port"]);
    assert_ne!(ended.stdout.trim().parse::<u16>().unwrap(), 0);
}

#[test]
fn it_inherits_nothing_of_ours() {
    let place = Place::new().with_vhd("a.vhd");
    let ours = "ls /proc/$$/fd; env | grep -e ^NOTIFY_SOCKET= -e ^LISTEN_";
    // What this test's own parents left open is none of our business.
    let without = Command::new("sh")
        .args(["-c", ours])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let mut served = served(&place, ours);
    served
        .env("NOTIFY_SOCKET", "/nonexistent")
        .env("LISTEN_PID", "1")
        .env("LISTEN_FDS", "1");
    let ended: Ended = served.output().unwrap().into();
    assert_eq!(ended.stdout.as_bytes(), without.stdout, "{ended:?}");
}

/// Starts a command that says that it runs, sends us a signal, and waits for the end.
fn signalled(place: &Place, command: &str, signals: &[&str]) -> Ended {
    let mut child = served(place, command)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    for signal in signals {
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "it does not run");
        let pid = child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-s", signal, &pid])
                .status()
                .unwrap()
                .success()
        );
    }
    let ended = child.wait_with_output().unwrap().into();
    is_left_well(place);
    ended
}

#[test]
fn a_signal_reaches_all_of_the_command() {
    let place = Place::new().with_vhd("a.vhd");
    // The shell waits for a process of its own, which only a signal to the group ends.
    let ended = signalled(&place, "echo runs; sleep 1000; exit 3", &["TERM"]);
    assert_eq!(ended.code, Some(143), "{ended:?}");
    // A loop: a child between fork and exec would swallow the signal by the shell's own handler, and sleep on.
    let ended = signalled(
        &place,
        "trap 'exit 5' INT; echo runs; while :; do sleep 0.05; done",
        &["INT"],
    );
    assert_eq!(ended.code, Some(5), "{ended:?}");
}

#[test]
fn a_closed_terminal_ends_it_but_not_under_nohup() {
    let place = Place::new().with_vhd("a.vhd");
    let ended = signalled(&place, "echo runs; sleep 1000", &["HUP"]);
    assert_eq!(ended.code, Some(129), "{ended:?}");
    let mut nohup = Command::new("sh");
    let program = env!("CARGO_BIN_EXE_iomgr");
    let run = "kill -HUP $PPID; echo lives";
    nohup.args(["-c", "trap '' HUP; exec \"$0\" serve a.vhd --run \"$1\"", program, run]);
    let ended: Ended = nohup.current_dir(place.path("")).output().unwrap().into();
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "lives\n"), "{ended:?}");
}

#[test]
fn the_second_signal_kills_a_command_that_does_not_listen() {
    let place = Place::new().with_vhd("a.vhd");
    let deaf = "trap 'echo heard' TERM; echo runs; while :; do sleep 1000 & wait; done";
    let ended = signalled(&place, deaf, &["TERM", "TERM"]);
    assert_eq!(ended.code, Some(137), "{ended:?}");
    assert!(ended.stderr.contains("the command is killed"), "{ended:?}");
}

#[test]
fn a_server_that_is_stopped_ends_its_command_and_says_so() {
    let place = Place::new().with_vhd("a.vhd");
    let program = env!("CARGO_BIN_EXE_iomgr");
    let stop = format!("{program} stop --control \"$iomgr_control\" & wait; sleep 1000");
    let ended = run(&place, &stop);
    assert_eq!(ended.code, Some(143), "{ended:?}");
    assert!(ended.stderr.contains("asked to end (SIGTERM)"), "{ended:?}");
}

#[test]
fn the_sockets_may_be_said() {
    let place = Place::new().with_vhd("a.vhd");
    let ended = place.run(&["serve", "a.vhd", "--socket", "s", "--run", "test -S s && echo $uri"]);
    // For clients in any folder.
    let socket = place.path("s");
    assert!(
        ended.stdout.ends_with(&format!("socket={}\n", socket.display())),
        "{ended:?}"
    );
    assert!(!place.path("s").exists());
}
