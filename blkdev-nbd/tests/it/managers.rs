//! The hooks of I/O request managers, called as their contract says whatever clients do.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::thread;

use blkdev_nbd::proto::CommandType;
use blkdev_nbd::test_utils::MemDevice;
use iomgr_core::Class;
use iomgr_core::manager::test_utils::CountingManager;
use iomgr_core::manager::{Verdict, Wait};
use tqueue::Watchdog;

use crate::client::{Client, header};
use crate::server::TestServer;

/// Reads and writes of 512 bytes, `rounds` times `depth` at a time.
fn load(mut client: Client, rounds: u64, depth: u64) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        for _ in 0..rounds {
            for n in 0..depth {
                match n % 2 {
                    0 => client.command(header(CommandType::Read, n, n * 512, 512), &[]),
                    _ => client.command(header(CommandType::Write, n, n * 512, 512), &[1; 512]),
                }
            }
            for _ in 0..depth {
                let (cookie, error) = client.reply();
                assert_eq!(error, 0);
                if cookie % 2 == 0 {
                    client.receive_vec(512);
                }
            }
        }
    })
}

#[test]
fn every_request_passes_the_hooks_once() {
    let server = TestServer::new();
    load(server.client(), 50, 32).join().unwrap();
    let seen = server.manager.seen();
    assert_eq!((seen.allocs, seen.frees, seen.pending), (1600, 1600, 0));
    server.stop();
}

#[test]
fn a_limit_is_kept_over_connections_and_threads() {
    let manager = CountingManager::with_limit("limit", 3);
    let threads = |config: &mut blkdev_nbd::ServerConfig| config.threads = 2;
    let server = TestServer::start(MemDevice::new("disk", 1 << 20), manager, threads).unwrap();
    let clients: Vec<_> = (0..4).map(|_| load(server.client(), 25, 16)).collect();
    clients.into_iter().for_each(|client| client.join().unwrap());
    let seen = server.manager.seen();
    assert_eq!(seen.frees, 4 * 25 * 16);
    assert!(seen.ngs > 0);
    server.stop();
}

#[test]
fn managers_are_swapped_under_load_without_loss() {
    let server = TestServer::with(MemDevice::new("disk", 1 << 20), |config| config.threads = 2);
    let clients: Vec<_> = (0..4).map(|_| load(server.client(), 100, 16)).collect();
    let mut managers = Vec::new();
    while !clients.iter().all(thread::JoinHandle::is_finished) && managers.len() < 1000 {
        let manager = CountingManager::with_limit(&format!("m{}", managers.len()), 2 + managers.len() as u64 % 7);
        server.registry.replace(Arc::clone(&manager) as _).unwrap();
        managers.push(manager);
    }
    clients.into_iter().for_each(|client| client.join().unwrap());
    let registry = server.registry.counters();
    assert_eq!((registry.pending(), registry.frees), (0, 4 * 100 * 16));
    server.stop();
    managers.iter().for_each(|manager| manager.assert_quiet());
}

#[test]
fn held_writes_hold_neither_reads_nor_flushes() {
    let manager = CountingManager::with_policy("no-writes", |ask| match ask.head.class {
        Class::Write => Verdict::No(Wait::Until(ask.now + std::time::Duration::from_secs(3600))),
        _ => Verdict::Go,
    });
    let server = TestServer::start(MemDevice::new("disk", 1 << 20), manager, |_| ()).unwrap();
    let (mut writer, mut other) = (server.client(), server.client());
    writer.command(header(CommandType::Write, 1, 0, 512), &[1; 512]);
    assert_eq!(other.read(0, 512), [0; 512]);
    assert_eq!(other.ask(CommandType::Flush, 0, 0, &[]), 0);
    assert_eq!(
        writer.ask(CommandType::Read, 0, 512, &[]),
        0,
        "the writer's own reads pass as well"
    );
    writer.receive_vec(512);
    // A manager that lets writes go takes over: the held one goes on at once, an hour early.
    server.registry.replace(CountingManager::new("free") as _).unwrap();
    assert_eq!(writer.reply(), (1, 0));
    assert_eq!(other.read(0, 512), [1; 512]);
    server.stop();
}

#[test]
fn a_hook_that_does_not_return_is_told_of_and_requests_go_on_when_it_does() {
    let (gate, is_shut) = (Arc::new(Barrier::new(2)), AtomicBool::new(true));
    let its_gate = Arc::clone(&gate);
    let manager = CountingManager::with_policy("blocking", move |_| {
        if is_shut.swap(false, Ordering::Relaxed) {
            its_gate.wait();
        }
        Verdict::Go
    });
    let (tell, told) = mpsc::channel();
    let watchdog = Watchdog::start_with(move |stuck| tell.send(stuck.clone()).unwrap()).unwrap();
    let given = Some(Arc::clone(&watchdog));
    let server = TestServer::start(MemDevice::new("disk", 1 << 20), manager, |config| {
        config.watchdog = given
    })
    .unwrap();
    let mut client = server.client();
    client.command(header(CommandType::Read, 1, 0, 512), &[]);
    let stuck = told.recv().unwrap();
    assert_eq!((&*stuck.manager, &*stuck.thread), ("blocking", "nbd-0"));
    assert_eq!(server.server.as_ref().unwrap().stats().stuck_passes_total, 1);
    gate.wait();
    assert_eq!(client.reply(), (1, 0));
    client.receive_vec(512);
    assert_eq!(client.read(512, 512), [0; 512]);
    assert_eq!(
        watchdog.watch().counts().slow_passes,
        1,
        "the pass is over, and was slow"
    );
    server.stop();
}
