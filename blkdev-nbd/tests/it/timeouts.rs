//! Clients that take their time: each is dropped when its time is over and it is in somebody's way, and not before.
//!
//! Nothing here looks at a clock. A timeout that must come is short, and the test waits for what it does; one that must not
//! come is an hour.

use std::io::Write;
use std::time::Duration;

use blkdev_nbd::proto::{CommandType, OptionCode, OptionHeader};
use blkdev_nbd::test_utils::MemDevice;

use crate::client::{Client, header, pattern};
use crate::server::{MIB, TestServer};

/// Longer than an honest client needs from one step to the next on a machine that is busy.
const SOON: Duration = Duration::from_millis(250);
const LATE: Duration = Duration::from_secs(3600);

fn server(change: impl FnOnce(&mut blkdev_nbd::ConnectionLimits)) -> TestServer {
    TestServer::with(MemDevice::new("disk", 64 << 20), |config| {
        config.limits.handshake_timeout = LATE;
        config.limits.stall_timeout = LATE;
        change(&mut config.limits);
    })
}

/// A client that sends a part of a long write and stops.
fn stalled_writer(server: &TestServer, len: u32) -> Client {
    let mut client = server.client();
    client.send(&header(CommandType::Write, 1, 0, len).emit());
    client.send(&vec![1; len as usize / 2]);
    client
}

/// A client that asks for much and takes nothing.
fn stalled_reader(server: &TestServer, count: u64, len: u32) -> Client {
    let mut client = server.client();
    (0..count).for_each(|n| client.command(header(CommandType::Read, n, 0, len), &[]));
    client
}

#[test]
fn who_says_nothing_is_dropped() {
    let server = server(|limits| limits.handshake_timeout = SOON);
    assert_eq!(server.raw_client().rest().len(), 18, "a greeting, and the end");
    let mut patient = server.client();
    assert_eq!(server.raw_client().rest().len(), 18);
    patient.write(0, &[1; 512]);
    server.stop();
}

#[test]
fn who_drips_through_the_handshake_is_dropped() {
    let server = server(|limits| limits.handshake_timeout = SOON);
    let mut client = server.raw_client();
    client.greet(3);
    let (option, len) = (OptionCode::List as u32, 32 << 20);
    client.send(&OptionHeader { option, len }.emit());
    let sent = (0..len).take_while(|_| client.stream.write_all(&[0]).is_ok()).count();
    assert!(sent < len as usize, "it was not waited for");
    server.stop();
}

#[test]
fn who_does_not_take_the_replies_of_the_handshake_is_dropped() {
    let server = server(|limits| limits.handshake_timeout = SOON);
    let mut client = server.raw_client();
    client.greet(3);
    let option = OptionCode::Abort as u32;
    client.send(&OptionHeader { option, len: 0 }.emit());
    assert_eq!(client.rest().len(), 20);
    server.stop();
}

#[test]
fn who_asks_for_nothing_is_dropped_and_who_waits_for_a_reply_is_not() {
    let server = server(|limits| limits.idle_timeout = Some(SOON));
    let mut waiting = server.client();
    server.device.hold();
    waiting.command(header(CommandType::Read, 1, 0, 512), &[]);
    server.device.wait_submitted(1);
    // They came later, and their time is over.
    assert_eq!(server.client().rest(), b"");
    let mut half = server.client();
    half.send(&header(CommandType::Read, 1, 0, 512).emit()[..20]);
    assert_eq!(half.rest(), b"", "half a command is none");
    server.device.release();
    assert_eq!(waiting.reply(), (1, 0));
    assert_eq!(waiting.receive_vec(512), [0; 512]);
    assert_eq!(waiting.rest(), b"");
    server.stop();
}

#[test]
fn a_stalled_client_is_in_nobodys_way_who_asks_for_little() {
    let server = server(|_| ());
    let writer = stalled_writer(&server, 32 * MIB);
    let readers: Vec<_> = (0..8).map(|_| stalled_reader(&server, 64, MIB)).collect();
    server.device.wait_submitted(8);
    let mut client = server.client();
    for n in 0..32 {
        let bytes = pattern(65536, n);
        client.write(u64::from(n) << 16, &bytes);
        assert!(client.read(u64::from(n) << 16, 65536) == bytes);
    }
    drop((writer, readers));
    server.stop();
}

#[test]
fn a_stalled_client_leaves_room_for_more_than_a_little() {
    let server = server(|_| ());
    let writer = stalled_writer(&server, MIB);
    let reader = stalled_reader(&server, 128, 4 * MIB);
    server.device.wait_submitted(4);
    let mut client = server.client();
    for len in [MIB, 2 * MIB, 4 * MIB] {
        client.write(0, &pattern(len, 1));
        assert!(client.read(0, len) == pattern(len, 1));
    }
    drop((writer, reader));
    server.stop();
}

#[test]
fn who_waits_for_a_stalled_clients_memory_gets_it() {
    let server = server(|limits| limits.stall_timeout = SOON);
    for seed in 0..2 {
        let before = server.device.submitted();
        let stalled = match seed {
            0 => stalled_writer(&server, 32 * MIB),
            _ => stalled_reader(&server, 1, 32 * MIB),
        };
        server.device.wait_submitted(before + u64::from(seed));
        let mut client = server.client();
        let bytes = pattern(32 * MIB, seed);
        client.write(0, &bytes);
        assert!(client.read(0, 32 * MIB) == bytes);
        assert!(stalled.rest().len() < 32 << 20, "the other one was dropped");
    }
    server.stop();
}

#[test]
fn a_stalled_client_that_nobody_waits_for_stays() {
    let server = server(|limits| {
        limits.stall_timeout = SOON;
        limits.handshake_timeout = SOON;
    });
    let mut reader = stalled_reader(&server, 1, 32 * MIB);
    for _ in 0..4 {
        // Each takes as long as a stalled client would be suffered.
        assert_eq!(server.raw_client().rest().len(), 18);
        server.client().write(0, &[0; 65536]);
    }
    assert_eq!(reader.reply(), (0, 0));
    assert_eq!(reader.receive_vec(32 << 20).len(), 32 << 20);
    server.stop();
}

#[test]
fn a_device_that_takes_its_time_is_not_the_clients_fault() {
    let server = server(|limits| {
        limits.stall_timeout = SOON;
        limits.handshake_timeout = SOON;
    });
    server.device.hold();
    let mut first = server.client();
    first.command(header(CommandType::Read, 1, 0, 32 * MIB), &[]);
    server.device.wait_submitted(1);
    let mut second = server.client();
    second.command(header(CommandType::Read, 2, 0, 32 * MIB), &[]);
    for _ in 0..4 {
        assert_eq!(server.raw_client().rest().len(), 18);
    }
    let connections = server.server.as_ref().unwrap().connections();
    let waiting = connections.iter().filter(|connection| connection.in_flight == 1);
    assert_eq!(waiting.count(), 2, "nobody was dropped");
    drop((first, second));
    server.device.release();
    server.stop();
}
