//! When a merged operation fails, exactly the parts fail that would have failed alone.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use iomgr_core::{Action, Errno, FileHandle, FileSlot, Lease, Op, OpError, OpQueue, Owner, Token};
use iomgr_tests::nbd::ENOSPC;
use iomgr_tests::{Client, Loop, Mount, Server, TempDir, Tool, need};
use tqueue::{Config, EngineKind, ErrorKind as QueueErrorKind, Features, PlanLimits, Queue};

const LEN: u32 = 4096;
const PARTS: u64 = 16;
/// The first part that cannot be had, where there is an end to it.
const FIRST_BAD: u64 = 9;

/// A queue, the file that it works on, and memory for each part.
struct Rig {
    queue: Queue,
    file: FileSlot,
    leases: Vec<Lease>,
}

impl Rig {
    fn new(mut queue: Queue, file: &File) -> Rig {
        let file = queue.add_file(&FileHandle::new(file.try_clone().unwrap())).unwrap();
        let leases = (0..PARTS).map(|_| queue.alloc(LEN).unwrap()).collect();
        Rig { queue, file, leases }
    }

    /// Pushes an op for each part, the last one first, and runs them.
    fn run(&mut self, action: impl Fn(u64, &Lease) -> Action) -> HashMap<u64, Result<u32, OpError>> {
        for (at, lease) in (0..PARTS).rev().zip(self.leases.iter().rev()) {
            let (token, file, action) = (Token::new(Owner(1), at), self.file, action(at, lease));
            self.queue.push(Op { token, file, action }).unwrap();
        }
        let mut results = HashMap::new();
        while !self.queue.is_idle() {
            self.queue.submit_and_wait(None).unwrap();
            while let Some(done) = self.queue.next_completion() {
                results.insert(done.token.value(), done.result);
            }
        }
        results
    }
}

/// On each engine, and on the ring without what can be masked.
fn on_each_engine(test: impl Fn(Queue)) {
    let engines = [
        (EngineKind::Uring, Features::empty()),
        (EngineKind::Uring, Features::PLAIN_MEMORY_FILES),
        (EngineKind::Uring, Features::all()),
        (EngineKind::Sync, Features::empty()),
    ];
    for (engine, mask) in engines {
        let plan = PlanLimits {
            max_bytes: 1 << 20,
            max_segments: 64,
        };
        let config = Config {
            engine,
            mask,
            plan,
            ..Config::default()
        };
        match Queue::new(&config) {
            Err(error) if error.kind() == QueueErrorKind::Denied => need::skip(&error.to_string()),
            made => test(made.unwrap()),
        }
    }
}

/// A loop device whose file was made shorter behind its back.
fn truncated_loop(dir: &TempDir) -> Loop {
    let file = dir.join("backing");
    let mut backing = File::create_new(&file).unwrap();
    for (_, value) in (0..PARTS).zip(1..) {
        backing.write_all(&[value; LEN as usize]).unwrap();
    }
    let device = Loop::attach(&file);
    backing.set_len(FIRST_BAD * u64::from(LEN)).unwrap();
    device
}

fn open(path: &Path, direct: bool) -> File {
    let flags = if direct { rustix::fs::OFlags::DIRECT.bits() } else { 0 };
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(flags.cast_signed());
    options.open(path).unwrap()
}

#[test]
fn queue_guilty_reads_of_a_truncated_loop_device_fail_alone() {
    if !need::loop_devices() {
        return;
    }
    let dir = TempDir::new();
    let device = truncated_loop(&dir);
    for direct in [true, false] {
        on_each_engine(|queue| {
            let mut rig = Rig::new(queue, &open(device.path(), direct));
            let results = rig.run(|at, lease| Action::Read {
                offset: at * u64::from(LEN),
                data: lease.data(),
            });
            for (at, lease) in (0..).zip(&rig.leases) {
                if at < FIRST_BAD {
                    assert_eq!(results[&at], Ok(LEN), "part {at}");
                    let bytes = rig.queue.bytes(lease.data()).unwrap();
                    assert!(bytes.iter().all(|&byte| u64::from(byte) == at + 1), "part {at}");
                } else {
                    assert_eq!(results[&at], Err(OpError::Os(Errno::IO)), "part {at}");
                }
            }
            let counters = rig.queue.counters();
            assert!(counters.merges >= PARTS - 1 && counters.splits > 0, "{counters:?}");
        });
    }
}

/// The same through a server, by a client that keeps all of them in flight.
#[test]
fn queue_guilty_reads_fail_alone_behind_a_server() {
    if !need::loop_devices() || !need::tools(&["qemu-io"]) {
        return;
    }
    let dir = TempDir::new();
    let device = truncated_loop(&dir);
    let server = Server::start(&dir.join("run"), device.path(), &["--format", "raw", "--cache", "none"]);
    let reads: Vec<String> = (0..PARTS)
        .map(|at| format!("aio_read -P {} {} {LEN}", at + 1, at * u64::from(LEN)))
        .collect();
    let commands = reads.iter().flat_map(|read| ["-c", read]);
    let flushed = ["-c", "aio_flush"];
    let tool = Tool::new("qemu-io")
        .args(["-r", "-f", "raw"])
        .args(commands)
        .args(flushed);
    // What it exits with depends on whether it still had a read to send when the first one failed.
    let said = tool.arg(server.uri()).end();
    let count = |what: &str| said.stdout.matches(what).count() as u64;
    let good = format!("read {LEN}/{LEN} bytes");
    assert_eq!(
        (count(&good), count("failed: Input/output error")),
        (FIRST_BAD, PARTS - FIRST_BAD),
        "{}{}",
        said.stdout,
        said.stderr
    );
    assert_eq!(count("Pattern verification failed"), 0);
    server.stop();
}

/// Parts that a full file system has no page for.
const HOLES: [u64; 3] = [5, 6, 11];

/// A tmpfs without a free page, and a file on it that has pages for all parts but those in [`HOLES`].
fn full_tmpfs(dir: &TempDir) -> (Mount, File) {
    let mount = Mount::tmpfs(&dir.join("small"), "4M");
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create_new(true);
    let file = options.open(mount.join("sparse")).unwrap();
    file.set_len(PARTS * u64::from(LEN)).unwrap();
    for at in (0..PARTS).filter(|at| !HOLES.contains(at)) {
        file.write_all_at(&[0xff; LEN as usize], at * u64::from(LEN)).unwrap();
    }
    let mut filler = File::create_new(mount.join("filler")).unwrap();
    let full = (0..).find_map(|_| filler.write_all(&[1; LEN as usize]).err()).unwrap();
    assert_eq!(full.kind(), ErrorKind::StorageFull);
    (mount, file)
}

#[test]
fn queue_guilty_writes_on_a_full_tmpfs_fail_alone() {
    if !need::root() {
        return;
    }
    on_each_engine(|queue| {
        let dir = TempDir::new();
        let (_mount, file) = full_tmpfs(&dir);
        let mut rig = Rig::new(queue, &file);
        for (at, lease) in (0..).zip(&rig.leases) {
            rig.queue.bytes_mut(lease.data()).unwrap().fill(at + 1);
        }
        let results = rig.run(|at, lease| Action::Write {
            offset: at * u64::from(LEN),
            data: lease.data(),
            durable: false,
        });
        let mut bytes = [0; LEN as usize];
        for at in 0..PARTS {
            file.read_exact_at(&mut bytes, at * u64::from(LEN)).unwrap();
            let is_hole = HOLES.contains(&at);
            let expected = if is_hole {
                Err(OpError::Os(Errno::NOSPC))
            } else {
                Ok(LEN)
            };
            assert_eq!(results[&at], expected, "part {at}");
            assert!(
                bytes
                    .iter()
                    .all(|&byte| u64::from(byte) == if is_hole { 0 } else { at + 1 })
            );
        }
        let counters = rig.queue.counters();
        assert!(counters.merges >= PARTS - 1 && counters.splits > 0, "{counters:?}");
    });
}

#[test]
fn queue_guilty_writes_fail_alone_behind_a_server() {
    if !need::root() {
        return;
    }
    let dir = TempDir::new();
    let (mount, _file) = full_tmpfs(&dir);
    let server = Server::start::<&str>(&dir.join("run"), &mount.join("sparse"), &["--format", "raw"]);
    let mut client = Client::connect(&server).unwrap();
    let mut sent = HashMap::new();
    for (at, value) in (0..PARTS).zip(1..) {
        let cookie = client.send_write(0, at * u64::from(LEN), &[value; LEN as usize]);
        sent.insert(cookie.unwrap(), at);
    }
    for _ in 0..PARTS {
        let (cookie, result) = client.receive().unwrap();
        let at = sent.remove(&cookie).unwrap();
        let expected = if HOLES.contains(&at) { Err(ENOSPC) } else { Ok(()) };
        assert_eq!(result, expected, "part {at}");
    }
    client.disconnect().unwrap();
    server.stop();
}
