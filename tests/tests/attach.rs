//! Disks come and go a hundred times while another works, in a process of its own: descriptors and memory are those of the
//! process.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use iomgr_tests::{Client, TempDir, Tool, need, wait};
use vbd::iomgr_core::Sector;
use vbd::tqueue::EngineKind;
use vbd::{BlockingDisk, ControlClient, CreateOptions, Disk, DiskOptions, Server, ServerOptions, check, create};

const SIZE_BYTES: u64 = 64 << 20;
const ROUNDS: usize = 100;
/// NBD's number of `ESHUTDOWN`.
const SHUTDOWN: u32 = 108;
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn hooks_disks_come_and_go_100_times_under_load() {
    if !need::tools(&["fio", "nbdinfo"]) {
        return;
    }
    let dir = TempDir::new();
    let (stays, comes) = (dir.join("stays.vhd"), ["b.vhd", "c.img"].map(|name| dir.join(name)));
    for path in comes.iter().chain([&stays]) {
        create(path, &CreateOptions::new(SIZE_BYTES)).unwrap();
    }
    let options = ServerOptions {
        socket: Some(dir.join("nbd")),
        control: Some(dir.join("control")),
        threads: 2,
        ..ServerOptions::default()
    };
    let server = Server::start(open(&stays), &options).unwrap();
    let (uri, over) = (server.addresses()[0].uri("stays"), AtomicBool::new(false));
    // Whatever grows once has grown then.
    fio_verify(&uri);
    for round in 0..10 {
        come_and_go(&server, &comes, round);
    }
    let before = (descriptors(&server), resident_bytes());
    let mut took: Vec<_> = thread::scope(|scope| {
        let load = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                fio_verify(&uri);
            }
        });
        let took = (0..ROUNDS).map(|round| come_and_go(&server, &comes, round)).collect();
        over.store(true, Ordering::Relaxed);
        load.join().unwrap();
        took
    });
    // The server lets go of a control client's in a thread of its own.
    assert!(wait::until(|| descriptors(&server) <= before.0));
    let grown = resident_bytes().saturating_sub(before.1);
    took.sort();
    println!(
        "{ROUNDS} disks came and went: detach median {:?}, worst {:?}; {} KiB more memory",
        took[ROUNDS / 2],
        took[ROUNDS - 1],
        grown >> 10
    );
    // A single queue of a disk that was kept each time would be several times this.
    assert!(grown < 8 << 20, "{grown} bytes more");
    server.stop().unwrap();
    for path in [&stays, &comes[0]] {
        assert!(check(path, None).unwrap().findings.is_empty(), "{}", path.display());
    }
}

/// Attaches a disk, writes to it over two connections, and detaches it with requests on their way; how long that took.
fn come_and_go(server: &Server, images: &[PathBuf; 2], round: usize) -> Duration {
    let path = &images[round % 2];
    server.attach(open(path).into()).unwrap();
    let disk = server.disks().pop().unwrap();
    let name = disk.info().name;
    drop(disk);
    let socket = server.socket().unwrap();
    let size = Tool::new("nbdinfo")
        .arg("--size")
        .arg(server.addresses()[0].uri(&name))
        .run();
    assert_eq!(size.trim(), SIZE_BYTES.to_string());
    let mut clients = [(); 2].map(|()| Client::connect_to(socket, &name).unwrap());
    let value = u8::try_from(round % 255 + 1).unwrap();
    clients[0].write(0, 0, &[value; 4096]).unwrap().unwrap();
    for (client, at) in clients.iter_mut().zip(1..) {
        for n in 0..16 {
            client.send_write(0, (at * 16 + n) << 18, &[value; 64 << 10]).unwrap();
        }
    }
    let begin = Instant::now();
    server.detach(&name, PATIENCE).unwrap();
    let took = begin.elapsed();
    // Every write was answered, refused before it began, or not taken; then the end.
    for client in &mut clients {
        while let Ok((_, result)) = client.receive() {
            assert!(matches!(result, Ok(()) | Err(SHUTDOWN)), "{result:?}");
        }
    }
    // The image is free, and has what was acknowledged.
    let again = open(path);
    let mut bytes = vec![0; 4096];
    let mut disk = BlockingDisk::open(&again, EngineKind::Sync).unwrap();
    disk.read(&mut bytes, Sector(0)).unwrap();
    assert!(bytes.iter().all(|byte| *byte == value));
    drop(disk);
    // Unlocks it, whatever a child that is just being started has inherited.
    again.close().unwrap();
    took
}

fn open(path: &Path) -> Disk {
    let at_once = DiskOptions {
        lock_timeout: Duration::ZERO,
        ..DiskOptions::default()
    };
    Disk::open(path, &at_once).unwrap()
}

fn fio_verify(uri: &str) {
    let fio = Tool::new("fio").args([
        "--name=verify",
        "--ioengine=nbd",
        "--rw=randwrite",
        "--iodepth=32",
        "--numjobs=2",
    ]);
    let fio = fio.args(["--bssplit=4k/50:64k/50", "--size=16M", "--offset_increment=16M"]);
    let fio = fio.args([
        "--verify=crc32c",
        "--verify_fatal=1",
        "--do_verify=1",
        "--verify_state_save=0",
    ]);
    fio.args(["--output-format=terse"]).arg(format!("--uri={uri}")).run();
}

/// Descriptors that are open when all clients are gone.
fn descriptors(server: &Server) -> usize {
    let mut control = ControlClient::connect(server.control(), PATIENCE).unwrap();
    while control.status().unwrap().nbd.connections > 0 {}
    drop(control);
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Bytes of memory that the process has in use.
fn resident_bytes() -> u64 {
    let text = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = text.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}
