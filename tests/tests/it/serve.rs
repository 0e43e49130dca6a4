//! Group `serve`: several disks, a command that is run, service managers, TCP.

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use iomgr_tests::{Client, Process, Server, TempDir, Tool, need, pattern, product, wait};
use rustix::process::Signal;

use crate::disk::{Disk, Kind};

const MIB: u64 = 1 << 20;

#[test]
fn serve_several_disks_each_under_its_name() {
    if !need::tools(&["nbdinfo", "qemu-io"]) {
        return;
    }
    let kinds = [Kind::DynamicVhd, Kind::Raw, Kind::FixedVhd];
    let disks = kinds.map(|kind| Disk::new(kind, 8 * MIB));
    let names = ["first", "second", "third"];
    let others = disks[1..].iter().zip(&names[1..]);
    let mut args: Vec<_> = others
        .map(|(disk, name)| format!("{},name={name}", disk.image().display()))
        .collect();
    args.extend(["--name", "first", "--description", "the first of three"].map(str::to_owned));
    let server = Server::start(&disks[0].dir.join("run"), disks[0].image(), &args);

    let list = Tool::new("nbdinfo").args(["--list", "--json"]).arg(server.uri()).json();
    let exports = list["exports"].as_array().unwrap();
    let found: Vec<_> = exports
        .iter()
        .map(|export| export["export-name"].as_str().unwrap())
        .collect();
    assert_eq!(found, names, "{list}");
    assert_eq!(exports[0]["description"], "the first of three", "{list}");
    assert_eq!(exports[2]["description"], "vhd-fixed image", "{list}");

    let uris: Vec<_> = (0..3).map(|index| device_uri(&server, index)).collect();
    for (uri, value) in uris.iter().zip(1..) {
        qemu_io(uri, &format!("write -P {value} 1M 64k"));
    }
    for (uri, value) in uris.iter().zip(1..) {
        qemu_io(uri, &format!("read -P {value} 1M 64k"));
    }
    // The first is also the one for who names none.
    qemu_io(server.uri(), "read -P 1 1M 64k");
    server.stop();
    disks
        .iter()
        .filter(|disk| disk.image().extension().unwrap() == "vhd")
        .for_each(Disk::is_clean);
}

fn device_uri(server: &Server, index: usize) -> String {
    server.ready()["devices"][index]["uri"].as_str().unwrap().to_owned()
}

fn qemu_io(uri: &str, command: &str) {
    let ended = Tool::new("qemu-io")
        .args(["-f", "raw", "-c", command])
        .arg(uri)
        .run_for_code(0);
    assert!(!ended.stdout.contains("failed"), "{uri}: {command}: {ended:#?}");
}

#[test]
fn serve_names_clients_and_counts_for_each() {
    let disk = Disk::new(Kind::DynamicVhd, 8 * MIB);
    let server = disk.serve(&["--name", "disk"]);
    let mut client = Client::connect(&server).unwrap();
    client.write(0, 0, &[1; 4096]).unwrap().unwrap();
    client.bytes(0, 8192);
    let mut other = Client::connect(&server).unwrap();
    other.flush().unwrap().unwrap();
    let status = |words: &[&str]| {
        Tool::iomgr()
            .arg("status")
            .arg("--control")
            .arg(server.control())
            .args(words)
    };
    let clients = status(&["--json"]).json()[0]["status"]["connections"].clone();
    assert_eq!(clients.as_array().unwrap().len(), 2, "{clients}");
    assert_eq!(
        (&clients[0]["export"], &clients[1]["export"]),
        (&"disk".into(), &"disk".into())
    );
    let us = format!("unix pid {} uid ", std::process::id());
    assert!(clients[0]["peer"].as_str().unwrap().starts_with(&us), "{clients}");
    assert_eq!(
        (
            &clients[0]["stats"]["write"]["bytes"],
            &clients[0]["stats"]["read"]["bytes"]
        ),
        (&4096.into(), &8192.into())
    );
    assert_eq!(
        (
            &clients[1]["stats"]["flush"]["ops"],
            &clients[1]["stats"]["write"]["ops"]
        ),
        (&1.into(), &0.into())
    );
    let text = status(&[]).run();
    assert!(
        text.contains(&us) && text.contains("P99.9") && text.contains("limits: 64 connections"),
        "{text}"
    );
    server.stop();
}

/// A folder with a VHD, and what `serve --run` leaves in it.
struct Place {
    disk: Disk,
    tmp: PathBuf,
}

impl Place {
    fn new() -> Self {
        let disk = Disk::new(Kind::DynamicVhd, 16 * MIB);
        let tmp = disk.dir.join("tmp");
        fs::create_dir(&tmp).unwrap();
        Self { disk, tmp }
    }

    fn run(&self, command: &str) -> Tool {
        Tool::iomgr()
            .env("TMPDIR", &self.tmp)
            .env("IOMGR_RUNTIME_DIR", self.disk.dir.join("run"))
            .arg("serve")
            .arg(self.disk.image())
            .args(["--run", command, "--pidfile"])
            .arg(self.disk.dir.join("pid"))
    }

    /// No socket, no pid file, no lock; the image was closed.
    fn is_left_well(&self) {
        assert_eq!(fs::read_dir(&self.tmp).unwrap().count(), 0);
        let sockets = fs::read_dir(self.disk.dir.join("run")).map_or(0, Iterator::count);
        assert!(sockets == 0 && !self.disk.dir.join("pid").exists());
        self.disk.is_clean();
        self.disk.serve(&["--lock-timeout", "0"]).stop();
    }
}

#[test]
fn serve_runs_fio_and_qemu_io() {
    if !need::tools(&["fio", "qemu-io"]) {
        return;
    }
    let place = Place::new();
    let fio = "fio --name=v --ioengine=nbd --uri=\"$uri\" --rw=randwrite --bs=4k --size=8M --iodepth=32 \
               --verify=crc32c --verify_fatal=1 --verify_state_save=0 --output-format=terse";
    place.run(fio).run();
    place.is_left_well();
    place.run("qemu-io -f raw -c 'write -P 0x5a 8M 1M' \"$uri\"").run();
    place.is_left_well();
    let read = "qemu-io -r -f raw -c 'read -P 0x5a 8M 1M' \"nbd+unix:///$exportname?socket=$unixsocket\"";
    let out = place.run(read).run();
    assert!(!out.contains("failed"), "{out}");
    place.is_left_well();
}

#[test]
fn serve_ends_as_its_command_ends() {
    let place = Place::new();
    for (command, code) in [("exit 3", 3), ("kill -SEGV $$", 139), ("/nonexistent/command", 127)] {
        place.run(command).run_for_code(code);
        place.is_left_well();
    }
}

#[test]
fn serve_and_its_command_end_on_sigterm_under_load() {
    if !need::tools(&["fio"]) {
        return;
    }
    let place = Place::new();
    let control = place.disk.dir.join("ctl");
    let load = "fio --name=load --ioengine=nbd --uri=\"$uri\" --rw=randwrite --bs=64k --size=16M --iodepth=32 \
                --time_based --runtime=1000 >/dev/null; exit 9";
    let tool = place.run(load).arg("--control").arg(&control);
    let process = Process::start(tool, Stdio::null(), Stdio::null());
    let writes = || {
        let status = Tool::iomgr()
            .arg("status")
            .arg("--control")
            .arg(&control)
            .arg("--json")
            .end();
        let status: serde_json::Value = serde_json::from_str(&status.stdout).unwrap_or_default();
        status[0]["status"]["devices"][0]["stats"]["write"]["ops"]
            .as_u64()
            .unwrap_or(0)
    };
    assert!(wait::until(|| writes() > 100), "no load");
    process.signal(Signal::TERM);
    assert_eq!(process.exit_code(), 143, "the shell's, which the signal ended");
    assert!(!control.exists());
    place.is_left_well();
}

/// At a terminal the command may read, and Ctrl-C (a signal to all of the terminal's group) is the command's to understand.
#[test]
fn serve_leaves_the_terminal_to_its_command() {
    if !need::tools(&["script"]) {
        return;
    }
    let place = Place::new();
    let at_terminal = |typed: &str, command: &str| {
        let line = format!(
            "exec {} serve {} --run {command}",
            product::path().display(),
            place.disk.image().display()
        );
        let script = format!("printf '{typed}' | script -qec \"$LINE\" /dev/null");
        // The shell that `script` starts would be one more process for the signal to reach: it becomes the server.
        let tool = Tool::new("sh")
            .args(["-c", &script])
            .env("LINE", line)
            .env("SHELL", "/bin/sh");
        tool.env("TMPDIR", &place.tmp)
            .env("IOMGR_RUNTIME_DIR", place.disk.dir.join("run"))
    };
    let ended = at_terminal("words\\n", "'read x && echo got $x'").run_for_code(0);
    assert!(ended.stdout.contains("got words"), "{ended:#?}");
    let ended = at_terminal("", "'trap \"exit 4\" INT; kill -INT 0; sleep 1000'").run_for_code(4);
    assert!(!ended.stdout.contains("asked to end"), "{ended:#?}");
    place.is_left_well();
}

/// A program started with descriptors and variables of our choice; killed with its guard.
struct Launched(Child);

impl Launched {
    /// `sockets` become the descriptors from 3 on, as a service manager passes them.
    fn activated(image: &Path, run: &Path, names: &str, sockets: [OwnedFd; 2]) -> Self {
        let [first, second] = sockets;
        let script = "exec 3<&0 4<&2 </dev/null 2>/dev/null; export LISTEN_PID=$$ LISTEN_FDS=2; exec \"$@\"";
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", "sh", "-c", script, "sh"]);
        command.arg(product::path()).arg("serve").arg(image).arg("--json");
        command.env("LISTEN_FDNAMES", names).env("IOMGR_RUNTIME_DIR", run);
        Self(
            command
                .stdin(first)
                .stderr(second)
                .stdout(Stdio::piped())
                .spawn()
                .unwrap(),
        )
    }

    fn ready(&mut self) -> serde_json::Value {
        use std::io::{BufRead, BufReader};
        let mut line = String::new();
        BufReader::new(self.0.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    fn stop(mut self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, Signal::TERM).unwrap();
        assert_eq!(self.0.wait().unwrap().code(), Some(0));
    }
}

impl Drop for Launched {
    fn drop(&mut self) {
        // It has ended, as a rule.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn serve_takes_the_sockets_of_a_service_manager() {
    if !need::tools(&["setpriv"]) {
        return;
    }
    let disk = Disk::new(Kind::DynamicVhd, 8 * MIB);
    let path = disk.dir.join("passed.sock");
    let unix = UnixListener::bind(&path).unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let there = tcp.local_addr().unwrap();
    let run = disk.dir.join("run");
    // Twice: what was passed is still there for the next.
    for value in [1, 2] {
        let sockets = [unix.try_clone().unwrap().into(), tcp.try_clone().unwrap().into()];
        let mut server = Launched::activated(disk.image(), &run, "nbd:net", sockets);
        let ready = server.ready();
        assert!(ready["socket"].is_null(), "{ready}");
        let uris = ready["devices"][0]["uris"].clone();
        assert_eq!(uris[0], format!("nbd+unix:///disk?socket={}", path.display()));
        assert_eq!(uris[1], format!("nbd://{there}/disk"));
        let mut client = Client::connect_to(&path, "disk").unwrap();
        client.write(0, 0, &[value; 4096]).unwrap().unwrap();
        pattern::assert_same(&client.bytes(0, 4096), &[value; 4096]);
        TcpStream::connect(there).unwrap();
        server.stop();
        assert!(path.exists(), "a passed socket is not ours to remove");
        disk.is_clean();
    }
}

#[test]
fn serve_takes_a_control_socket_by_its_name() {
    if !need::tools(&["setpriv"]) {
        return;
    }
    let disk = Disk::new(Kind::DynamicVhd, 8 * MIB);
    let bind = |name: &str| (disk.dir.join(name), UnixListener::bind(disk.dir.join(name)).unwrap());
    let ((nbd_path, nbd), (control_path, control)) = (bind("n"), bind("c"));
    let run = disk.dir.join("run");
    let mut server = Launched::activated(disk.image(), &run, "control:nbd", [control.into(), nbd.into()]);
    let ready = server.ready();
    assert_eq!(ready["control"].as_str(), control_path.to_str(), "{ready}");
    assert_eq!(Client::connect_to(&nbd_path, "").unwrap().size_bytes(), 8 * MIB);
    Tool::iomgr().arg("stop").arg("--control").arg(&control_path).run();
    assert_eq!(server.0.wait().unwrap().code(), Some(0));
    assert!(!run.exists(), "nothing had to be made");
    disk.is_clean();
}

/// Waits for a message that begins with a line.
fn told(manager: &UnixDatagram, line: &str) -> String {
    let mut bytes = [0; 4096];
    loop {
        let len = manager
            .recv(&mut bytes)
            .unwrap_or_else(|error| panic!("no {line}: {error}"));
        let text = String::from_utf8(bytes[..len].to_vec()).unwrap();
        if text.lines().next() == Some(line) {
            return text;
        }
    }
}

/// Serves with a service manager that listens on `name`, which is `manager`.
fn is_kept_informed(name: &str, manager: &UnixDatagram) {
    manager.set_read_timeout(Some(wait::PATIENCE)).unwrap();
    let disk = Disk::new(Kind::DynamicVhd, 8 * MIB);
    let tool = Tool::iomgr()
        .env("IOMGR_RUNTIME_DIR", disk.dir.join("run"))
        .env("NOTIFY_SOCKET", name)
        .env("WATCHDOG_USEC", "20000")
        .arg("serve")
        .arg(disk.image());
    let server = Process::start(tool, Stdio::null(), Stdio::null());
    let ready = told(manager, "READY=1");
    assert!(ready.contains("\nSTATUS=serving disk at nbd+unix:"), "{ready}");
    // Clients can connect when it says so.
    Client::connect_to(&disk.dir.join("run/disk.sock"), "disk").unwrap();
    told(manager, "WATCHDOG=1");
    told(manager, "WATCHDOG=1");
    server.signal(Signal::TERM);
    told(manager, "STOPPING=1");
    assert_eq!(server.exit_code(), 0);
}

#[test]
fn serve_tells_a_service_manager_how_it_is() {
    let dir = TempDir::new();
    let path = dir.join("notify");
    is_kept_informed(path.to_str().unwrap(), &UnixDatagram::bind(&path).unwrap());
    let name = format!("iomgr-notify-{}", std::process::id());
    let hidden = SocketAddr::from_abstract_name(&name).unwrap();
    is_kept_informed(&format!("@{name}"), &UnixDatagram::bind_addr(&hidden).unwrap());
}

#[test]
fn serve_on_tcp_reaches_this_machine_only() {
    if !need::tools(&["nbdinfo", "qemu-io"]) {
        return;
    }
    let disk = Disk::new(Kind::Raw, 8 * MIB);
    let refused = Tool::iomgr()
        .env("IOMGR_RUNTIME_DIR", disk.dir.join("run"))
        .arg("serve")
        .arg(disk.image())
        .args(["--listen", "0.0.0.0"])
        .run_for_code(2);
    assert!(refused.stderr.contains("--insecure"), "{refused:#?}");
    let server = disk.serve(&["--listen", "127.0.0.1:0"]);
    let uri = server.ready()["devices"][0]["uris"][1].as_str().unwrap().to_owned();
    assert!(uri.starts_with("nbd://127.0.0.1:"), "{uri}");
    assert_eq!(
        Tool::new("nbdinfo").args(["--size", &uri]).run().trim(),
        (8 * MIB).to_string()
    );
    qemu_io(&uri, "write -P 9 0 64k");
    qemu_io(server.uri(), "read -P 9 0 64k");
    server.stop();
    let mut bytes = [0; 4096];
    std::os::unix::fs::FileExt::read_exact_at(&File::open(disk.image()).unwrap(), &mut bytes, 4096).unwrap();
    pattern::assert_same(&bytes, &[9; 4096]);
}
