//! Exports that come and go again and again, in a process of its own: descriptors and memory are those of the process.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "tests")]
#![allow(dead_code, reason = "the helpers serve other tests as well")]

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use blkdev_nbd::Export;
use blkdev_nbd::proto::CommandType;
use blkdev_nbd::test_utils::MemDevice;
use iomgr_core::Class;
use iomgr_core::manager::test_utils::CountingManager;
use iomgr_core::manager::{DeviceId, Verdict, Wait};

#[path = "it/client.rs"]
mod client;
#[path = "it/server.rs"]
mod server;

use client::{Client, header, pattern};
use server::{MIB, TestServer};

const ROUNDS: usize = 100;
const HOUR: Duration = Duration::from_secs(3600);
const SHUTDOWN: u32 = 108;

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Bytes of memory that the process has in use.
fn resident_bytes() -> u64 {
    let text = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = text.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// Writes and reads back what it wrote until it is told to end; how many times.
fn load(mut client: Client, over: &AtomicBool) -> usize {
    let mut rounds = 0;
    while !over.load(Ordering::Relaxed) {
        let bytes = pattern(MIB / 4, u8::try_from(rounds % 251).unwrap());
        client.write(0, &bytes);
        assert_eq!(client.ask(CommandType::Flush, 0, 0, &[]), 0);
        assert!(client.read(0, MIB / 4) == bytes);
        rounds += 1;
    }
    rounds
}

/// An export comes, is written to by a client whose writes are held, and goes; how long that took.
fn come_and_go(server: &TestServer) -> Duration {
    let running = server.server.as_ref().unwrap();
    let managed = server.registry.attach("late").unwrap();
    assert!(managed.info().id().0 < 3, "numbers are used again");
    let device = Arc::new(MemDevice::new("late", 1 << 20));
    let export = Export {
        name: "late".to_owned(),
        description: String::new(),
        device: device.clone(),
        managed,
    };
    running.attach(export).unwrap();
    let mut clients = [server.raw_client(), server.raw_client()];
    for client in &mut clients {
        client.go("late");
        assert_eq!(client.read(0, 512), [0; 512]);
        for cookie in 0..32 {
            client.command(header(CommandType::Write, cookie, 0, 4096), &[1; 4096]);
        }
        // All of them are there when this is answered.
        client.command(header(CommandType::Flush, 99, 0, 0), &[]);
        assert_eq!(client.reply(), (99, 0));
    }
    let begin = Instant::now();
    running.detach("late", HOUR).unwrap();
    let took = begin.elapsed();
    for mut client in clients {
        (0..32).for_each(|cookie| assert_eq!(client.reply(), (cookie, SHUTDOWN)));
        assert_eq!(client.rest(), b"");
    }
    assert_eq!((device.open_queues(), Arc::strong_count(&device)), (0, 1));
    took
}

#[test]
fn exports_come_and_go_under_the_load_of_another_and_leave_nothing() {
    let manager = CountingManager::with_policy("throttled", |ask| {
        match ask.head.class == Class::Write && ask.device != DeviceId(0) {
            true => Verdict::No(Wait::Until(ask.now + HOUR)),
            false => Verdict::Go,
        }
    });
    let server = TestServer::start(MemDevice::new("disk", 1 << 20), manager, |config| {
        config.threads = 2;
        config.spare_exports = 1;
    });
    let (server, over) = (server.unwrap(), AtomicBool::new(false));
    let mut took = Vec::new();
    let rounds = thread::scope(|scope| {
        let client = server.client();
        let load = scope.spawn(|| load(client, &over));
        // Whatever grows once (tables, the allocator's own) has grown.
        for _ in 0..ROUNDS / 4 {
            come_and_go(&server);
        }
        let before = (descriptors(), resident_bytes());
        took.extend((0..ROUNDS).map(|_| come_and_go(&server)));
        assert_eq!(descriptors(), before.0);
        let grown = resident_bytes().saturating_sub(before.1);
        over.store(true, Ordering::Relaxed);
        println!("{} KiB more memory after {ROUNDS} exports", grown >> 10);
        // A queue that was not given back would be a hundred times this, a connection's buffers ten times.
        assert!(grown < 4 << 20, "{grown} bytes more");
        load.join().unwrap()
    });
    took.sort();
    println!(
        "S0-4: detach with 64 waiters: median {:?}, worst {:?}; {rounds} rounds of load meanwhile",
        took[ROUNDS / 2],
        took[ROUNDS - 1]
    );
    assert!(rounds > 0);
    server.stop();
}
