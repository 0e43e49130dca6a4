//! Crowds at the door, in a process of its own: descriptors and memory are those of the process.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "tests")]
#![allow(dead_code, reason = "the helpers serve another test as well")]

use std::collections::HashSet;
use std::fs;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};

use blkdev_nbd::test_utils::MemDevice;

#[path = "it/client.rs"]
mod client;
#[path = "it/server.rs"]
mod server;

use client::Client;
use server::{MIB, TestServer};

/// One crowd at a time.
static DOOR: Mutex<()> = Mutex::new(());

/// Descriptors that are open, but the one that lists them.
fn descriptors() -> HashSet<String> {
    let entries = fs::read_dir("/proc/self/fd").unwrap();
    let links = entries.filter_map(|entry| {
        let entry = entry.unwrap();
        let target = fs::read_link(entry.path()).ok()?;
        (!target.ends_with("fd")).then(|| entry.file_name().into_string().unwrap())
    });
    links.collect()
}

/// Bytes of memory that the process has in use.
fn resident_bytes() -> u64 {
    let text = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = text.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// Reads until the server has let go of everybody but `count`: each read is a pass of its loop.
fn wait_for_connections(server: &TestServer, client: &mut Client, count: u32) {
    while server.server.as_ref().unwrap().stats().connections > count {
        client.read(0, 512);
    }
}

fn crowded(connections: u32, threads: u16) -> TestServer {
    TestServer::with(MemDevice::new("disk", 64 << 20), |config| {
        config.limits.connections = connections;
        config.threads = threads;
    })
}

#[test]
fn a_thousand_idle_connections_are_cheap_and_go_without_a_trace() {
    let _door = DOOR.lock().unwrap_or_else(PoisonError::into_inner);
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    if limit.current.is_some_and(|limit| limit < 2200) {
        return println!("skipped: {limit:?} descriptors are too few for 1000 connections from one process");
    }
    let server = crowded(1000, 1);
    let mut active = server.client();
    active.write(0, &[1; 65536]);
    let (descriptors_before, resident_before) = (descriptors().len(), resident_bytes());
    let mut crowd: Vec<_> = (1..1000).map(|_| server.client()).collect();
    assert_eq!(active.read(0, 65536), [1; 65536]);
    assert_eq!(server.raw_client().rest(), b"", "one more is closed at once");
    let grown = resident_bytes().saturating_sub(resident_before);
    println!("999 idle connections: {} KiB each", grown / 999 / 1024);
    assert!(grown < 999 * 65536, "{grown} bytes");
    crowd.iter_mut().for_each(|client| client.write(512, &[2; 512]));
    drop(crowd);
    wait_for_connections(&server, &mut active, 1);
    assert_eq!(descriptors().len(), descriptors_before);
    // All memory is one run again.
    active.write(0, &vec![3; 32 << 20]);
    assert_eq!(active.read(0, 32 * MIB).len(), 32 << 20);
    server.stop();
}

#[test]
fn ten_thousand_connects_and_drops_leave_nothing() {
    let _door = DOOR.lock().unwrap_or_else(PoisonError::into_inner);
    let server = crowded(16, 2);
    let mut active = server.client();
    let descriptors_before = descriptors().len();
    let mut resident_before = 0;
    for round in 0..10_000u32 {
        match round % 5 {
            0..3 => drop(UnixStream::connect(&server.socket).unwrap()),
            3 => drop(server.raw_client().try_greet(3)),
            _ => {
                let mut client = server.raw_client();
                if client.try_greet(3) {
                    client.send(b"IHAVEOPT\0\0\0\x01\0\0\0\x04disk");
                }
            }
        }
        if round == 1000 {
            resident_before = resident_bytes();
        }
        if round % 100 == 0 {
            assert_eq!(active.read(0, 512), [0; 512]);
        }
    }
    wait_for_connections(&server, &mut active, 1);
    assert_eq!(descriptors().len(), descriptors_before);
    let grown = resident_bytes().saturating_sub(resident_before);
    println!("9000 connects and drops: {} KiB in all", grown >> 10);
    assert!(grown < 8 << 20, "{grown} bytes");
    let mut clients: Vec<_> = (1..16).map(|_| server.client()).collect();
    clients.iter_mut().for_each(|client| client.write(0, &[1; 512]));
    let connections = server.server.as_ref().unwrap().connections();
    assert!(connections.iter().all(|connection| connection.held_bytes == 0));
    assert_eq!(connections.len(), 16);
    server.stop();
}

#[test]
fn no_child_inherits_a_descriptor() {
    let _door = DOOR.lock().unwrap_or_else(PoisonError::into_inner);
    let before = descriptors();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = TestServer::with(MemDevice::new("disk", 1 << 20), |config| {
        config.listeners.push(listener.into());
        config.threads = 2;
    });
    let mut clients = [server.client(), Client::connect_tcp(address)];
    clients[1].go("disk");
    clients.iter_mut().for_each(|client| client.write(0, &[1; 512]));
    let opened: Vec<_> = descriptors().difference(&before).cloned().collect();
    assert!(opened.len() > 8, "listeners, rings, wakers, connections: {opened:?}");
    for number in opened {
        let info = match fs::read_to_string(format!("/proc/self/fdinfo/{number}")) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            info => info.unwrap(),
        };
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
        let flags = u32::from_str_radix(flags.trim(), 8).unwrap();
        assert!(
            flags & rustix::fs::OFlags::CLOEXEC.bits() != 0,
            "descriptor {number}: {info}"
        );
    }
    server.stop();
}
