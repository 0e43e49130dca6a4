//! `iomgr dmio` on a stalled device: what it prints, and how it ends.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;
use std::sync::mpsc;

use iomgr_tests::tool::Ended;
use iomgr_tests::{Blkio, Loop, NbdFuse, Nbdkit, Process, TempDir, Tool, fuse, need, product, wait};
use rustix::process::Signal;
use serde_json::Value;

use super::rig::{OLD, backing, sectors};

struct Devices {
    throttle: Blkio,
    good: Loop,
    bad: Loop,
    dir: TempDir,
}

impl Devices {
    /// Two, of which one is stalled.
    fn new() -> Option<Self> {
        if !need::blkio() {
            return None;
        }
        let dir = TempDir::new();
        let [good, bad] = ["good", "bad"].map(|name| Loop::attach(&backing(&dir.join(name))));
        let throttle = Blkio::new(&bad);
        throttle.stall();
        Some(Self {
            throttle,
            good,
            bad,
            dir,
        })
    }

    /// `iomgr dmio write 0xAA` to the first sectors of both, under the throttle.
    fn write(&self, options: &[&str]) -> Tool {
        write_under(&self.throttle)
            .args(options)
            .arg(self.good.path())
            .arg(self.bad.path())
    }

    fn on_disk(&self, name: &str) -> Vec<u8> {
        sectors(&self.dir.join(name), 0, 9)
    }

    /// The first 4 KiB of both are written, and no more.
    fn all_landed(&self) -> bool {
        let expected = [[0xAA; 8].as_slice(), &[OLD]].concat();
        ["good", "bad"].iter().all(|name| self.on_disk(name) == expected)
    }
}

/// `iomgr dmio write 0xAA` under a throttle.
pub(super) fn write_under(throttle: &Blkio) -> Tool {
    let script = "echo $$ > \"$1\"; shift; exec \"$@\"";
    Tool::new("sh")
        .args(["-c", script, "sh"])
        .arg(throttle.procs())
        .arg(product::path())
        .args(["dmio", "write", "--data", "0xaa"])
}

/// The states of a device's region in a table.
fn states(ended: &Ended, device: &Loop) -> Vec<String> {
    states_of(ended, &format!("{}@0+4096", device.path().display()))
}

pub(super) fn states_of(ended: &Ended, name: &str) -> Vec<String> {
    let state = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        let at = words.iter().position(|&word| word == name)?;
        Some(words[at + 1].to_owned())
    };
    ended.stdout.lines().filter_map(state).collect()
}

#[test]
fn regions_verb_cancels_at_the_timeout_and_leaves() {
    let Some(devices) = Devices::new() else { return };
    // That it ends at all, although the device is stalled, is what is to be seen.
    let ended = devices
        .write(&["--timeout", "100ms", "--cancel-on-timeout"])
        .run_for_code(3);
    assert_eq!(states(&ended, &devices.good), ["OK"], "{ended:?}");
    assert_eq!(states(&ended, &devices.bad), ["CANCELLED"], "{ended:?}");
    assert!(ended.stdout.contains("at the timeout; the device has it"), "{ended:?}");
    assert!(ended.stderr.contains("may still reach the disk"), "{ended:?}");
    assert_eq!(devices.on_disk("bad"), [OLD; 9]);

    // Until the ghost has ended, nobody else gets the device.
    let read = |patience| {
        let tool = Tool::iomgr().args(["dmio", "read", "--lock-timeout", patience]);
        tool.arg(devices.bad.path())
    };
    let locked = read("0").run_for_code(1);
    assert!(locked.stderr.contains("in use") && locked.stderr.contains("`--lock-timeout`"));
    let next = Process::start(read("60s").arg("-v"), Stdio::null(), Stdio::piped());
    let mut told = BufReader::new(next.take_stderr()).lines().map_while(Result::ok);
    assert!(told.any(|line| line.contains("image_locked")), "it does not wait");
    devices.throttle.lift();
    assert_eq!(next.exit_code(), 0);
    assert!(
        devices.all_landed(),
        "the write of a process that is gone landed in part, or after the next one had the lock"
    );
}

/// Starts it; ends the stall when it says that something is in a state.
pub(super) fn lift_when(tool: Tool, state: &str, lift: impl Fn()) -> (Process, String) {
    let process = Process::start(tool, Stdio::piped(), Stdio::piped());
    let (lines, told) = mpsc::channel();
    let stdout = BufReader::new(process.take_stdout());
    let reader = std::thread::spawn(move || {
        for line in stdout.lines().map_while(Result::ok) {
            let _ = lines.send(line);
        }
    });
    let mut all = String::new();
    for line in told {
        all += &format!("{line}\n");
        if line.contains(state) {
            lift();
        }
    }
    reader.join().unwrap();
    (process, all)
}

pub(super) fn ended(process: &Process, stdout: String) -> Ended {
    let mut stderr = String::new();
    process.take_stderr().read_to_string(&mut stderr).unwrap();
    let code = Some(process.exit_code());
    Ended { code, stdout, stderr }
}

#[test]
fn regions_verb_tells_of_a_timeout_and_goes_on() {
    let Some(devices) = Devices::new() else { return };
    let write = devices.write(&["--timeout", "100ms"]);
    let (process, stdout) = lift_when(write, "TIMEOUT", || devices.throttle.lift());
    let ended = ended(&process, stdout);
    assert_eq!(ended.code, Some(3), "{ended:?}");
    assert_eq!(states(&ended, &devices.bad), ["TIMEOUT", "OK"], "{ended:?}");
    assert_eq!(ended.stderr, "");
    assert!(devices.all_landed());
}

fn events(ended: &Ended) -> Vec<Value> {
    let lines = ended.stdout.lines();
    lines.map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What each event is, and the state in it.
fn words(events: &[Value]) -> Vec<(&str, &str)> {
    let text = |value| Value::as_str(value).unwrap_or("");
    let words = events
        .iter()
        .map(|event| (text(&event["event"]), text(&event["state"])));
    words.collect()
}

#[test]
fn regions_verb_lingers_for_late_answers() {
    let Some(devices) = Devices::new() else { return };
    let options = ["--cancel-after", "100ms", "--linger", "60s", "--json"];
    let (process, stdout) = lift_when(devices.write(&options), "cancelled", || devices.throttle.lift());
    let ended = ended(&process, stdout);
    assert_eq!((ended.code, &*ended.stderr), (Some(3), ""), "{ended:?}");
    let events = events(&ended);
    let expected = [("region", "ok"), ("region", "cancelled"), ("late", "ok"), ("end", "")];
    assert_eq!(words(&events), expected, "{ended:?}");
    assert_eq!(
        (&events[1]["reason"], &events[1]["never_started"]),
        (&"handle".into(), &false.into())
    );
    assert_eq!((&events[3]["late"], &events[3]["orphans"]), (&1.into(), &0.into()));
    assert_eq!(events[2]["image"], *devices.bad.path().display().to_string());
    assert!(devices.all_landed());
}

#[test]
fn regions_verb_is_cancelled_by_a_signal() {
    let Some(devices) = Devices::new() else { return };
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        devices.throttle.stall();
        let tool = devices.write(&["--timeout", "50ms"]);
        let process = Process::start(tool, Stdio::piped(), Stdio::piped());
        let mut stdout = BufReader::new(process.take_stdout());
        let mut all = String::new();
        while !all.contains("TIMEOUT") {
            assert_ne!(stdout.read_line(&mut all).unwrap(), 0, "{all}");
        }
        process.signal(signal);
        stdout.read_to_string(&mut all).unwrap();
        let ended = ended(&process, all);
        assert_eq!(ended.code, Some(code), "{ended:?}");
        assert_eq!(states(&ended, &devices.bad), ["TIMEOUT", "CANCELLED"], "{ended:?}");
        assert!(
            ended.stderr.contains("may still reach the disk") && ended.stderr.contains("interrupted"),
            "{ended:?}"
        );
        devices.throttle.lift();
        assert!(wait::until(|| devices.all_landed()));
    }
}

/// Can there be disks whose flush is a script?
fn has_scripted_disks() -> bool {
    if !need::fuse() || !need::tools(&["nbdkit"]) {
        return false;
    }
    let has_eval = fuse::nbdkit_has("eval");
    if !has_eval {
        need::skip("nbdkit has no plugin eval");
    }
    has_eval
}

#[test]
fn regions_verb_flushes_what_was_written_and_tells_if_that_fails() {
    if !has_scripted_disks() {
        return;
    }
    let dir = TempDir::new();
    let trip = dir.join("trip");
    let nbdkit = Nbdkit::failing_flush(&dir.join("nbdkit.sock"), &dir.join("store"), &trip, 4 << 20);
    let bad = NbdFuse::mount(&nbdkit.uri(), &dir.join("bad"));
    let good = backing(&dir.join("good"));
    let write = |option: &[&str]| {
        let tool = Tool::iomgr().args(["dmio", "write", "--cache", "writeback", "--format", "raw"]);
        tool.args(option).arg(&good).arg(bad.path())
    };
    let images = [good.as_path(), bad.path()].map(|path| path.display().to_string());
    let flushes = |ended: &Ended| images.each_ref().map(|image| states_of(ended, image));
    assert_eq!(flushes(&write(&["--flush"]).run_for_code(0)), [["OK"], ["OK"]]);
    assert_eq!(flushes(&write(&[]).run_for_code(0)), [[""; 0]; 2]);
    fs::write(&trip, "").unwrap();
    let ended = write(&["--flush"]).run_for_code(1);
    assert_eq!(flushes(&ended), [["OK"], ["ERROR"]], "{ended:?}");
    assert_eq!(states_of(&ended, &format!("{}@0+4096", images[1])), ["OK"], "{ended:?}");
    bad.unmount();
}

#[test]
fn regions_verb_gives_up_a_flush_and_tells_of_its_late_answer() {
    if !has_scripted_disks() {
        return;
    }
    let dir = TempDir::new();
    let trip = dir.join("trip");
    let nbdkit = Nbdkit::stalling_flush(&dir.join("nbdkit.sock"), &dir.join("store"), &trip, 4 << 20);
    let disk = NbdFuse::mount(&nbdkit.uri(), &dir.join("disk"));
    fs::write(&trip, "").unwrap();
    let write = Tool::iomgr()
        .args([
            "dmio",
            "write",
            "--json",
            "--flush",
            "--cache",
            "writeback",
            "--format",
            "raw",
        ])
        .args(["--timeout", "5s", "--cancel-on-timeout", "--linger", "60s"])
        .arg(disk.path());
    let (process, stdout) = lift_when(write, "\"state\":\"cancelled\"", || fs::remove_file(&trip).unwrap());
    let ended = ended(&process, stdout);
    assert_eq!((ended.code, &*ended.stderr), (Some(3), ""), "{ended:?}");
    let events = events(&ended);
    let expected = [
        ("region", "ok"),
        ("flush", "cancelled"),
        ("late_flush", "ok"),
        ("end", ""),
    ];
    assert_eq!(words(&events), expected, "{ended:?}");
    for event in &events[1..3] {
        assert_eq!(event["image"], *disk.path().display().to_string(), "{event}");
    }
    assert_eq!(events[1]["reason"], "timeout", "{ended:?}");
    disk.unmount();
}
