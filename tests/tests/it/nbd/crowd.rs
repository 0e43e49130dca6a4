//! Crowds: many idle connections, and many that come and go. What they cost is bounded, and they cost nobody else.

use std::fs;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use iomgr_tests::nbd::Span;
use iomgr_tests::{Client, Server, need, wait};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::disk::{Disk, Kind, soak};

const MIB: u64 = 1 << 20;
const SIZE_BYTES: u64 = 64 * MIB;
const IDLE: usize = 1000;
const COMERS: u32 = 10_000;
const MAX_CONNECTIONS: u64 = 1200;

/// What the server holds: resident memory in KiB, and open descriptors.
#[derive(Debug, Clone, Copy)]
struct Held {
    resident_kib: u64,
    descriptors: usize,
}

impl Held {
    fn by(server: &Server) -> Held {
        let entry = format!("/proc/{}", server.pid());
        let status = fs::read_to_string(format!("{entry}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        Held {
            resident_kib: line.trim().trim_end_matches(" kB").parse().unwrap(),
            descriptors: fs::read_dir(format!("{entry}/fd")).unwrap().count(),
        }
    }

    fn print(self, when: &str) {
        println!(
            "{when}: {} KiB resident, {} descriptors",
            self.resident_kib, self.descriptors
        );
    }
}

/// An active client, which reads at depth 1.
struct Active {
    client: Client,
    random: fastrand::Rng,
}

impl Active {
    fn connect(server: &Server) -> Active {
        Active {
            client: Client::connect(server).unwrap(),
            random: fastrand::Rng::with_seed(1),
        }
    }

    fn read(&mut self) -> Duration {
        let offset = self.random.u64(0..SIZE_BYTES / 4096) * 4096;
        let started = Instant::now();
        self.client.read(Span { offset, len: 4096 }).unwrap().unwrap();
        started.elapsed()
    }

    fn p99(&mut self, reads: usize) -> Duration {
        p99((0..reads).map(|_| self.read()).collect())
    }
}

fn p99(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() * 99 / 100]
}

fn served(disk: &Disk) -> Server {
    let server = disk.serve(&["--max-connections", &MAX_CONNECTIONS.to_string(), "--queues", "2"]);
    let mut client = Client::connect(&server).unwrap();
    for mib in 0..SIZE_BYTES / MIB {
        client.write(0, mib * MIB, &[0x5a; 1 << 20]).unwrap().unwrap();
    }
    client.disconnect().unwrap();
    // After the server was started: that one must see to its own limit.
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, raised).unwrap();
    server
}

/// An active client's 99th percentiles, alone and beside others in turns: a noisy host does to both what it does.
#[derive(Debug, Default)]
struct Turns {
    alone: Vec<Duration>,
    beside: Vec<Duration>,
}

impl Turns {
    fn rounds() -> u32 {
        if soak() { 9 } else { 3 }
    }

    /// Prints the medians; their ratio is held to 2 in the long form only, on a machine that does nothing else.
    fn compare(mut self, what: &str) {
        let median = |times: &mut Vec<Duration>| {
            times.sort_unstable();
            times[times.len() / 2]
        };
        let (alone, beside) = (median(&mut self.alone), median(&mut self.beside));
        let ratio = beside.as_secs_f64() / alone.as_secs_f64();
        println!("an active client's p99: {alone:?} alone, {beside:?} {what}, {ratio:.2} times as long");
        assert!(!soak() || ratio <= 2.0, "{what}: {ratio:.2} times as long");
    }
}

/// Waits until the server has let go of every connection but those of before.
fn let_go(server: &Server, before: Held) -> Held {
    assert!(
        wait::until(|| Held::by(server).descriptors == before.descriptors),
        "{before:?} before, {:?} now",
        Held::by(server)
    );
    Held::by(server)
}

#[test]
fn nbd_crowd_of_idle_connections_is_borne() {
    if !need::descriptors(MAX_CONNECTIONS + 100) {
        return;
    }
    let disk = Disk::new(Kind::DynamicVhd, SIZE_BYTES);
    let server = served(&disk);
    let mut active = Active::connect(&server);
    let (before, mut turns) = (Held::by(&server), Turns::default());
    before.print("before");
    let mut after = before;
    for round in 1..=Turns::rounds() {
        turns.alone.push(active.p99(20_000));
        let crowd: Vec<_> = (0..IDLE).map(|_| Client::connect(&server).unwrap()).collect();
        let during = Held::by(&server);
        during.print(&format!("with {IDLE} idle connections, round {round}"));
        assert_eq!(during.descriptors, before.descriptors + IDLE);
        let bound = before.resident_kib + IDLE as u64 * 32;
        assert!(
            during.resident_kib < bound,
            "more than {bound} KiB: 32 for each connection"
        );
        turns.beside.push(active.p99(20_000));
        drop(crowd);
        let last = std::mem::replace(&mut after, let_go(&server, before));
        after.print("after");
        let grows = after.resident_kib > last.resident_kib + 1024;
        assert!(round == 1 || !grows, "memory grows by rounds");
    }
    turns.compare(&format!("beside {IDLE} idle connections"));
    server.stop();
    disk.is_valid();
}

#[test]
fn nbd_crowd_that_comes_and_goes_leaves_nothing() {
    if !need::descriptors(MAX_CONNECTIONS + 100) {
        return;
    }
    let disk = Disk::new(Kind::DynamicVhd, SIZE_BYTES);
    let server = served(&disk);
    let mut active = Active::connect(&server);
    let (before, mut turns) = (warm(&server), Turns::default());
    before.print("before");
    for round in 0..Turns::rounds() {
        turns.alone.push(active.p99(20_000));
        let comers = round * COMERS / Turns::rounds()..(round + 1) * COMERS / Turns::rounds();
        let times = comers.map(|comer| {
            come_and_go(&server, comer);
            active.read()
        });
        turns.beside.push(p99(times.collect()));
    }
    let after = let_go(&server, before);
    after.print(&format!("after {COMERS} connects and drops"));
    let bound = before.resident_kib + 1024;
    assert!(
        after.resident_kib < bound,
        "more than {bound} KiB: memory grows by connections"
    );
    turns.compare("while others come and go");
    server.stop();
    disk.is_valid();
}

/// What it holds when it has all that the first few connections make for good.
fn warm(server: &Server) -> Held {
    let before = Held::by(server);
    for comer in 0..500 {
        come_and_go(server, comer);
    }
    let_go(server, before)
}

/// Silent, in mid-handshake, after it, or with a request that nobody waits for.
fn come_and_go(server: &Server, comer: u32) {
    match comer % 4 {
        0 => drop(UnixStream::connect(server.socket()).unwrap()),
        1 => {
            let mut stream = UnixStream::connect(server.socket()).unwrap();
            std::io::Write::write_all(&mut stream, b"\0\0\0\x03IHAVE").unwrap();
        }
        2 => Client::connect(server).unwrap().disconnect().unwrap(),
        _ => {
            let mut client = Client::connect(server).unwrap();
            client.send_write(0, 0, &[0x5a; 4096]).unwrap();
        }
    }
}
