//! Clients that are slow, wrong or gone: each costs its own connection and nothing else.

use std::time::{Duration, Instant};

use blkdev_nbd::proto::{CommandHeader, CommandType, OptionHeader};
use blkdev_nbd::test_utils::MemDevice;

use crate::client::{Client, header, pattern};
use crate::server::{MIB, TestServer};

#[test]
fn a_bad_magic_drops_its_connection_only() {
    let server = TestServer::new();
    let mut good = server.client();
    let mut bad = server.client();
    bad.send(&[0xff; 64]);
    assert_eq!(bad.rest(), b"");
    good.write(0, &[1; 4096]);
    let mut bad = server.raw_client();
    bad.greet(3);
    bad.send(&[0xff; 64]);
    assert_eq!(bad.rest(), b"");
    assert_eq!(good.read(0, 512), [1; 512]);
    server.stop();
}

#[test]
fn requests_may_come_byte_by_byte() {
    let server = TestServer::new();
    let mut client = server.client();
    let write = [&header(CommandType::Write, 5, 1024, 512).emit()[..], &[7; 512]].concat();
    let read = header(CommandType::Read, 6, 512, 1024).emit();
    for byte in write.iter().chain(&read) {
        client.send(&[*byte]);
    }
    assert_eq!(client.reply(), (5, 0));
    assert_eq!(client.reply(), (6, 0));
    assert_eq!(client.receive_vec(1024), [[0; 512], [7; 512]].concat());
    server.stop();
}

#[test]
fn payloads_may_come_in_pieces_of_any_size() {
    let server = TestServer::new();
    let mut client = server.client();
    for (n, piece) in (0..).zip([1000, 4096, 30_000, 65_536, 200_000, 1 << 20]) {
        let bytes = pattern(MIB, n);
        // A read right behind the payload must not be taken for part of it.
        client.send(&header(CommandType::Write, 1, 0, MIB).emit());
        bytes.chunks(piece).for_each(|piece| client.send(piece));
        client.send(&header(CommandType::Flush, 2, 0, 0).emit());
        let mut replies = [client.reply(), client.reply()];
        replies.sort_unstable();
        assert_eq!(replies, [(1, 0), (2, 0)]);
        assert!(client.read(0, MIB) == bytes, "pieces of {piece}");
    }
    server.stop();
}

#[test]
fn what_is_refused_is_skipped_and_the_next_command_served() {
    let server = TestServer::new();
    let mut client = server.client();
    let end = 64 << 20;
    assert_eq!(client.ask(CommandType::Write, end - 512, 1024, &[1; 1024]), 28);
    assert_eq!(client.ask(CommandType::Read, end, 512, &[]), 22);
    assert_eq!(client.ask(CommandType::Write, 1, 512, &[1; 512]), 22);
    assert_eq!(client.ask(CommandType::Read, 0, 33 << 20, &[]), 22);
    assert_eq!(client.ask(CommandType::Write, 0, 33 << 20, &vec![1; 33 << 20]), 22);
    let unknown = CommandHeader {
        kind: 99,
        ..header(CommandType::Read, 77, 0, 0)
    };
    client.command(unknown, &[]);
    assert_eq!(client.reply(), (77, 22));
    assert_eq!(client.read(end - 512, 512), [0; 512]);
    server.stop();
}

#[test]
fn commands_before_the_handshake_has_ended_drop_their_connection_only() {
    let server = TestServer::new();
    let mut good = server.client();
    let mut early = server.raw_client();
    early.greet(3);
    early.send(&header(CommandType::Write, 1, 0, 512).emit());
    assert_eq!(early.rest(), b"");
    assert_eq!(good.read(0, 512), [0; 512]);
    assert_eq!(server.device.submitted(), 1);
    server.stop();
}

#[test]
fn unknown_and_absurd_options_are_answered_and_the_next_one_served() {
    let server = TestServer::new();
    let mut client = server.raw_client();
    client.greet(3);
    let unsupported = 1 << 31 | 1;
    let too_big = 1 << 31 | 9;
    assert_eq!(client.option(0xdead, b"beef")[0].0, unsupported);
    assert_eq!(
        client.option(0xdead, &vec![0; 1 << 20])[0].0,
        too_big,
        "skipped, never stored"
    );
    assert_eq!(client.choose("disk"), 64 << 20);
    client.write(0, &[1; 512]);
    let mut absurd = server.raw_client();
    absurd.greet(3);
    absurd.send(
        &OptionHeader {
            option: 7,
            len: u32::MAX,
        }
        .emit(),
    );
    assert_eq!(absurd.rest(), b"");
    server.stop();
}

#[test]
fn a_peer_that_closes_its_side_gets_what_it_asked_for() {
    let server = TestServer::with(MemDevice::new("disk", 1 << 20), |config| config.depth = 2);
    let mut client = server.client();
    (0..16).for_each(|n| client.command(header(CommandType::Read, n, 0, 4096), &[]));
    client.half_close();
    assert_eq!(client.rest().len(), 16 * (16 + 4096));
    // Half a command, and half a payload.
    let mut half = server.client();
    half.send(&header(CommandType::Read, 1, 0, 512).emit()[..13]);
    half.half_close();
    assert_eq!(half.rest(), b"");
    let mut half = server.client();
    half.send(&header(CommandType::Write, 1, 0, 65536).emit());
    half.send(&[1; 1000]);
    half.half_close();
    assert_eq!(half.rest(), b"");
    assert!(server.device.bytes().iter().all(|byte| *byte == 0));
    server.stop();
}

#[test]
fn a_client_that_goes_in_the_middle_of_a_write_leaves_nothing() {
    let server = TestServer::new();
    // Each holds 32 of 48 MiB: the next one can only go on if the memory came back.
    for _ in 0..4 {
        let mut client = server.client();
        client.send(&header(CommandType::Write, 1, 0, 32 * MIB).emit());
        client.send(&vec![1; 3 * MIB as usize]);
    }
    let mut client = server.client();
    assert!(client.read(0, 32 * MIB).iter().all(|byte| *byte == 0));
    assert_eq!(server.device.submitted(), 1, "no half write was run");
    server.stop();
}

#[test]
fn a_client_that_goes_before_its_replies_makes_room_for_the_next() {
    let server = TestServer::with(MemDevice::new("disk", 1 << 20), |config| {
        config.limits.connections = 1;
    });
    for round in 0..3 {
        let mut client = admitted(&server);
        server.device.hold();
        for n in 0..8 {
            client.command(header(CommandType::Read, n, 0, 4096), &[]);
        }
        server.device.wait_submitted(8 * (round + 1));
        drop(client);
        server.device.release();
    }
    let mut client = admitted(&server);
    client.write(0, &[1; 512]);
    server.stop();
}

#[test]
fn no_more_clients_are_let_in_than_the_limit_says_on_however_many_threads() {
    let server = TestServer::with(MemDevice::new("disk", 1 << 20), |config| {
        config.limits.connections = 2;
        config.threads = 3;
    });
    let _inside = [server.client(), server.client()];
    assert_eq!(server.raw_client().rest(), b"");
    server.stop();
}

#[test]
fn clients_that_come_and_go_at_any_moment_leave_nothing() {
    let server = TestServer::with(MemDevice::new("disk", 1 << 20), |config| {
        config.limits.connections = 2;
        config.threads = 2;
    });
    let payload = [7; 4096];
    let whole = [&header(CommandType::Write, 1, 0, 4096).emit()[..], &payload].concat();
    for round in 0..300 {
        match round % 4 {
            0 => drop(server.raw_client()),
            1 => drop(admitted(&server)),
            2 => admitted(&server).send(&whole[..round * 13 % whole.len()]),
            _ => admitted(&server).send(&whole.repeat(20)),
        }
    }
    let mut clients = [admitted(&server), admitted(&server)];
    clients.iter_mut().for_each(|client| client.write(0, &payload));
    let stats = server.server.as_ref().unwrap().stats();
    assert_eq!((stats.connections, stats.in_flight), (2, 0));
    server.stop();
}

/// Connects until the server has a place: one that has not let go of the last client yet closes the next at once.
fn admitted(server: &TestServer) -> Client {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(60) {
        let mut client = server.raw_client();
        if client.try_greet(3) {
            client.choose("disk");
            return client;
        }
    }
    panic!("the server has no place: {:?}", server.server.as_ref().unwrap().stats());
}
