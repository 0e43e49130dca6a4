//! `serve --supervise`: a server that is killed is followed by another, as long as that helps.

use std::net::{TcpListener, TcpStream};
use std::process::Command;

use crate::run::{Ended, Place};
use crate::serving::Served;

/// A server with a disk, and who supervises it.
struct Rig {
    place: Place,
    /// There until it is waited for.
    supervisor: Option<Served>,
}

impl Rig {
    fn new() -> Self {
        Self::with(Place::new().with_vhd("disk.vhd"), &[])
    }

    fn with(place: Place, words: &[&str]) -> Self {
        let (supervisor, _) = Served::json(&place, &[&["disk.vhd", "--supervise"], words].concat());
        Self {
            place,
            supervisor: Some(supervisor),
        }
    }

    /// The server, not the supervisor.
    fn pid(&self) -> u64 {
        let status = self.place.ok(&["status", "disk", "--json"]).json();
        status[0]["status"]["pid"]
            .as_u64()
            .unwrap_or_else(|| panic!("{status}"))
    }

    /// Kills the server; the pid of the next.
    fn kill(&mut self) -> u64 {
        signal(self.pid(), "KILL");
        let ready = self.supervisor.as_mut().unwrap().line();
        assert!(ready.contains(r#""event":"ready""#), "{ready}");
        self.pid()
    }

    fn ended(&mut self) -> Ended {
        self.supervisor.take().unwrap().ended()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // The supervisor first, which would start another one.
        if self.supervisor.take().is_some() {
            self.place.run(&["stop", "disk"]);
        }
    }
}

fn signal(pid: u64, name: &str) {
    let status = Command::new("kill")
        .args(["-s", name, &pid.to_string()])
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
fn one_that_is_killed_is_followed_by_another_that_serves_the_same() {
    let mut rig = Rig::new();
    let (first, second) = (rig.pid(), rig.kill());
    assert_ne!(first, second);
    rig.place.ok(&["stop", "disk"]);
    let ended = rig.ended();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(
        ended
            .stderr
            .contains("died by signal 9; it is started again (1 of 5 in a row)"),
        "{ended:?}"
    );
}

/// No lock on the image keeps the next one waiting until the kernel has let go of the sockets.
#[test]
fn one_that_only_reads_is_followed_at_once_at_the_same_addresses() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let place = Place::new().with_vhd("disk.vhd");
    let mut rig = Rig::with(place, &["--read-only", "--listen", &port.to_string()]);
    for _ in 0..3 {
        rig.kill();
    }
    TcpStream::connect(port).unwrap();
    rig.place.ok(&["stop", "disk"]);
    let ended = rig.ended();
    assert!(!ended.stderr.contains("could not start"), "{ended:?}");
}

/// Each try that does not even start counts, as those do that die.
#[test]
fn one_that_cannot_start_again_is_tried_until_it_is_given_up() {
    let mut rig = Rig::new();
    let pid = rig.pid();
    rig.place.write("disk.vhd", b"no longer an image");
    signal(pid, "KILL");
    let ended = rig.ended();
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert_eq!(
        ended.stderr.matches("could not start; it is started again").count(),
        4,
        "{ended:?}"
    );
    assert!(
        ended
            .stderr
            .contains("5 times in a row, and could not start again: given up"),
        "{ended:?}"
    );
}

#[test]
fn a_signal_to_the_supervisor_ends_both_cleanly() {
    for name in ["TERM", "INT"] {
        let mut rig = Rig::new();
        rig.supervisor.as_ref().unwrap().signal(name);
        let ended = rig.ended();
        assert_eq!(ended.code, Some(0), "{name}: {ended:?}");
        let left = std::fs::read_dir(rig.place.runtime_dir()).unwrap().count();
        assert_eq!(left, 0, "{name}");
        rig.place.ok(&["check", "disk.vhd"]);
    }
}

#[test]
fn a_signal_to_the_server_ends_both_as_well() {
    let mut rig = Rig::new();
    signal(rig.pid(), "TERM");
    assert_eq!(rig.ended().code, Some(0));
}

#[test]
fn one_that_dies_again_and_again_is_given_up() {
    let mut rig = Rig::new();
    for _ in 0..5 {
        rig.kill();
    }
    signal(rig.pid(), "KILL");
    let ended = rig.ended();
    assert_eq!(ended.code, Some(137), "{ended:?}");
    assert!(
        ended
            .stderr
            .contains("5 times in a row, and died by signal 9 again: given up"),
        "{ended:?}"
    );
}

#[test]
fn one_that_cannot_serve_at_all_is_not_started_again() {
    let place = Place::new();
    let ended = place.run(&["serve", "nothing.vhd", "--supervise"]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(
        ended.stderr.contains("nothing.vhd") && !ended.stderr.contains("started again"),
        "{ended:?}"
    );
}

#[test]
fn beside_a_service_manager_it_is_refused() {
    let place = Place::new().with_vhd("disk.vhd");
    let mut command = place.command(&["serve", "disk.vhd", "--supervise"]);
    let ended = Ended::from(command.env("NOTIFY_SOCKET", "/run/notify").output().unwrap());
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("Restart=on-abnormal"), "{ended:?}");
}
