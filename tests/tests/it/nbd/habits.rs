//! What clients do to a server: proxies and chains in front of it, clients that stand still, clients that are killed.

use std::process::Stdio;
use std::time::{Duration, Instant};

use iomgr_tests::nbd::FUA;
use iomgr_tests::{Client, Nbdkit, Process, Server, Tool, need, pattern, wait};
use rustix::process::Signal;

use crate::clients::{self, SIZE_BYTES, exercise, nbdcopy};
use crate::disk::{Disk, Kind, soak};

const MIB: u64 = 1 << 20;
/// A disk for three clients, each in its part: a reader, a writer, and one that goes on.
const PARTS_BYTES: u64 = 96 * MIB;
const PART_BYTES: u64 = 32 * MIB;
const READERS: u64 = 0;
const WRITERS: u64 = PART_BYTES;
const OTHERS: u64 = 2 * PART_BYTES;

/// Four connections with 64 requests each, on the reading and on the writing side at once.
#[test]
fn nbd_habits_nbdcopy_from_server_to_server() {
    if !need::tools(clients::TOOLS) {
        return;
    }
    let (from, to) = (
        Disk::new(Kind::Raw, SIZE_BYTES),
        Disk::new(Kind::DynamicVhd, SIZE_BYTES),
    );
    let (source, target) = (from.serve(&["--queues", "2"]), to.serve(&["--queues", "2"]));
    let expected = exercise(source.uri(), &from.dir);
    nbdcopy(source.uri().as_ref(), target.uri().as_ref());
    source.stop();
    target.stop();
    to.holds(&expected);
}

/// nbdkit's own client, libnbd, with all of its front end before us.
#[test]
fn nbd_habits_nbdkit_as_a_proxy_in_front() {
    if !need::tools(clients::TOOLS) || !need::tools(&["nbdkit"]) {
        return;
    }
    let disk = Disk::new(Kind::DynamicVhd, SIZE_BYTES);
    let server = disk.serve(&[]);
    let uri = format!("uri={}", server.uri());
    let proxy = Nbdkit::start(&disk.dir.join("proxy"), ["nbd", &uri]);
    let expected = exercise(&proxy.uri(), &disk.dir);
    drop(proxy);
    server.stop();
    disk.holds(&expected);
}

/// QEMU's block layer and NBD server before us.
#[test]
fn nbd_habits_qemu_nbd_as_a_proxy_in_front() {
    if !need::tools(clients::TOOLS) || !need::tools(&["qemu-nbd"]) {
        return;
    }
    let disk = Disk::new(Kind::DynamicVhd, SIZE_BYTES);
    let server = disk.serve(&[]);
    let (socket, pid) = (disk.dir.join("proxy"), disk.dir.join("proxy.pid"));
    let tool = Tool::new("qemu-nbd").args(["--format=raw", "--shared=0", "--persistent", "--discard=unmap"]);
    let tool = tool
        .arg("-k")
        .arg(&socket)
        .arg("--pid-file")
        .arg(&pid)
        .arg(server.uri());
    let proxy = Process::start(tool, Stdio::null(), Stdio::inherit());
    assert!(wait::until(|| pid.exists()), "qemu-nbd does not serve");
    let expected = exercise(&format!("nbd+unix:///?socket={}", socket.display()), &disk.dir);
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.exit_code(), 0, "qemu-nbd");
    server.stop();
    disk.holds(&expected);
}

/// fio, which writes at a steady pace with many requests in flight, then reads everything back and verifies it: one
/// process, whose id is that of all its work.
fn writer(server: &Server) -> Process {
    let fio = Tool::new("fio").args(["--name=job", "--thread", "--ioengine=nbd", "--rw=randwrite", "--bs=16k"]);
    let fio = fio.args([format!("--offset={WRITERS}"), format!("--size={PART_BYTES}")]);
    let fio = fio.args(["--iodepth=64", "--rate_iops=4000,4000", "--loops=4"]);
    let fio = fio.args([
        "--verify=crc32c",
        "--verify_fatal=1",
        "--do_verify=1",
        "--verify_state_save=0",
    ]);
    let fio = fio.arg(format!("--uri={}", server.uri()));
    Process::start(fio, Stdio::null(), Stdio::inherit())
}

/// nbdcopy, which reads with many requests on many connections, and waits for where it writes.
fn reader(server: &Server, to: &Nbdkit) -> Process {
    let nbdcopy = Tool::new("nbdcopy").args(["--connections=4", "--threads=4", "--requests=64"]);
    Process::start(nbdcopy.args([server.uri(), &to.uri()]), Stdio::null(), Stdio::inherit())
}

/// The number of requests that the disk has ended, `read` or `write`.
fn ended(disk: &Disk, direction: &str) -> u64 {
    let status = Tool::iomgr()
        .args(["status", "--json"])
        .env("IOMGR_RUNTIME_DIR", disk.dir.join("run"));
    let servers = status.json();
    let ops = &servers[0]["status"]["devices"][0]["stats"][direction]["ops"];
    ops.as_u64().unwrap_or_else(|| panic!("no {direction} in {servers}"))
}

/// Waits until clients have done so many of these.
fn at_work(disk: &Disk, direction: &str, requests: u64) {
    let enough = ended(disk, direction) + requests;
    let busy = wait::until(|| ended(disk, direction) > enough);
    assert!(busy, "nobody does any {direction}");
}

/// Another client, in its own part of the disk.
struct Other {
    client: Client,
    write: u64,
}

impl Other {
    fn connect(server: &Server) -> Other {
        Other {
            client: Client::connect(server).unwrap(),
            write: 0,
        }
    }

    /// Returns what it wrote.
    fn fills_the_readers_part(&mut self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(PART_BYTES).unwrap()];
        pattern::stamp(&mut bytes, READERS / 512, 1);
        for (offset, bytes) in (READERS..).step_by(1 << 20).zip(bytes.chunks(1 << 20)) {
            self.client.write(0, offset, bytes).unwrap().unwrap();
        }
        bytes
    }

    /// Writes a place and reads it back.
    fn works(&mut self) {
        self.write += 1;
        let offset = OTHERS + self.write % 512 * 64 * 1024;
        let mut bytes = vec![0; 16 << 10];
        pattern::stamp(&mut bytes, offset / 512, self.write);
        let flags = if self.write.is_multiple_of(16) { FUA } else { 0 };
        self.client.write(flags, offset, &bytes).unwrap().unwrap();
        pattern::assert_same(&self.client.bytes(offset, bytes.len()), &bytes);
    }
}

#[test]
fn nbd_habits_clients_stand_still_for_ten_seconds() {
    if !need::tools(&["fio", "nbdcopy", "nbdkit"]) {
        return;
    }
    let disk = Disk::new(Kind::DynamicVhd, PARTS_BYTES);
    let server = disk.serve(&[]);
    let mut other = Other::connect(&server);
    let (copy, expected) = (disk.dir.join("copy"), other.fills_the_readers_part());
    let slow = slow_file(&disk, &copy);
    let reader = reader(&server, &slow);
    at_work(&disk, "read", 20);
    reader.signal(Signal::STOP);
    let writer = writer(&server);
    at_work(&disk, "write", 100);
    writer.signal(Signal::STOP);
    let stopped = Instant::now();
    while stopped.elapsed() < Duration::from_secs(10) {
        other.works();
        for client in [&reader, &writer] {
            assert!(
                client.ended_within(Duration::from_millis(5)).is_none(),
                "stopped too late"
            );
        }
    }
    println!("another client wrote and read {} times meanwhile", other.write);
    for client in [reader, writer] {
        client.signal(Signal::CONT);
        assert_eq!(client.exit_code(), 0, "after it stood still");
    }
    let copied = std::fs::read(&copy).unwrap();
    pattern::assert_same(&copied[..expected.len()], &expected);
    server.stop();
    disk.is_valid();
}

/// A file of the disk's size that takes its time for each write.
fn slow_file(disk: &Disk, path: &std::path::Path) -> Nbdkit {
    std::fs::File::create(path).unwrap().set_len(PARTS_BYTES).unwrap();
    let file = path.display().to_string();
    Nbdkit::start(
        &disk.dir.join("slow"),
        ["--filter=delay", "file", &file, "delay-write=300ms"],
    )
}

#[test]
fn nbd_habits_clients_are_killed_in_mid_write() {
    if !need::tools(&["fio"]) {
        return;
    }
    let disk = Disk::new(Kind::DynamicVhd, PARTS_BYTES);
    let server = disk.serve(&[]);
    let mut other = Other::connect(&server);
    other.works();
    let before = descriptors(&server);
    for _ in 0..if soak() { 50 } else { 5 } {
        let writer = writer(&server);
        at_work(&disk, "write", 100);
        other.works();
        writer.signal(Signal::KILL);
        let status = writer.ended_within(wait::PATIENCE).expect("a killed process ends");
        assert!(status.code().is_none(), "it was killed while it worked, {status}");
        other.works();
        assert!(
            wait::until(|| descriptors(&server) == before),
            "a dead client's connection stays open"
        );
    }
    server.stop();
    disk.is_valid();
}

fn descriptors(server: &Server) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().count()
}
