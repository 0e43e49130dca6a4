//! Starting, limits, stopping.

use std::error::Error as _;
use std::io::Write;
use std::net::TcpListener;
use std::time::Duration;

use blkdev_nbd::proto::CommandType;
use blkdev_nbd::test_utils::MemDevice;
use blkdev_nbd::{ErrorKind, ServerConfig};
use iomgr_core::manager::test_utils::CountingManager;
use iomgr_core::{FileHandle, Operation, SectorCount};

use crate::client::{Client, header, pattern};
use crate::server::{MIB, TestServer};

#[test]
fn a_device_that_does_not_open_is_an_error_of_start() {
    for broken in [0, 1] {
        let device = MemDevice::new("disk", 1 << 20);
        device.break_queue(broken);
        let error = TestServer::start(device, CountingManager::new("counting"), |config| config.threads = 2);
        let error = error.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Device);
        assert_eq!(
            error.to_string(),
            format!("a device cannot be opened: queue {broken} of export \"disk\"")
        );
        assert_eq!(error.source().unwrap().to_string(), format!("queue {broken} is broken"));
    }
}

#[test]
fn what_cannot_be_served_is_refused() {
    let refused = |change: fn(&mut ServerConfig)| {
        let device = MemDevice::new("disk", 1 << 20);
        let error = TestServer::start(device, CountingManager::new("counting"), change)
            .err()
            .unwrap();
        assert_eq!(error.kind(), ErrorKind::Config);
        error.to_string()
    };
    let texts = [
        refused(|config| config.listeners.clear()),
        refused(|config| config.limits.idle_timeout = Some(Duration::ZERO)),
        refused(|config| config.threads = 0),
        refused(|config| config.exports.clear()),
        refused(|config| config.exports[0].name = "x".repeat(4097)),
        refused(|config| config.exports.push(config.exports[0].clone())),
        refused(|config| {
            let mut twin = config.exports[0].clone();
            twin.name.push('2');
            config.exports.push(twin);
        }),
        refused(|config| config.limits.connections = 4001),
    ];
    insta::assert_snapshot!(texts.join("\n"), @r#"
    this cannot be served: a server has 1 to 64 listeners
    this cannot be served: a timeout is longer than nothing
    this cannot be served: a server has 1 to 64 threads
    this cannot be served: there is no export
    this cannot be served: a name or description is longer than 4096 bytes
    this cannot be served: two exports are called "disk"
    this cannot be served: the device of export "disk2" has another one
    this cannot be served: a server takes 1 to 4000 connections
    "#);
}

#[test]
fn as_many_connections_as_are_allowed_fit() {
    for engine in [tqueue::EngineKind::Auto, tqueue::EngineKind::Sync] {
        let server = TestServer::with(MemDevice::new("disk", 1 << 20), |config| {
            config.limits.connections = 4000;
            config.queue.engine = engine.clone();
            config.queue.arena_bytes = 1 << 20;
        });
        server.client().write(0, &[1; 512 << 10]);
        server.stop();
    }
}

#[test]
fn a_connection_has_no_more_in_flight_than_its_limit() {
    let server = TestServer::with(MemDevice::new("disk", 1 << 20), |config| config.limits.in_flight = 4);
    let mut client = server.client();
    server.device.hold();
    let commands: Vec<u8> = (0..10)
        .flat_map(|n| header(CommandType::Read, n, 0, 512).emit())
        .collect();
    client.send(&commands);
    server.device.wait_submitted(4);
    // When the server has answered another client that came later, it has looked at all that it wants to look at.
    server.raw_client().go("disk");
    assert_eq!(server.device.submitted(), 4);
    server.device.release();
    for _ in 0..10 {
        assert_eq!(client.reply().1, 0);
        client.receive_vec(512);
    }
    server.stop();
}

#[test]
fn the_depth_bounds_a_device_and_is_shared() {
    let server = TestServer::with(MemDevice::new("disk", 1 << 20), |config| config.depth = 3);
    let mut clients = [server.client(), server.client()];
    server.device.hold();
    for client in &mut clients {
        (0..5).for_each(|n| client.command(header(CommandType::Read, n, 0, 512), &[]));
    }
    server.device.wait_submitted(3);
    server.raw_client().go("disk");
    assert_eq!(server.device.submitted(), 3);
    server.device.release();
    for client in &mut clients {
        for n in 0..5 {
            assert_eq!(client.reply(), (n, 0));
            client.receive_vec(512);
        }
    }
    server.stop();
}

#[test]
fn slots_go_round() {
    let server = TestServer::with(MemDevice::new("disk", 1 << 20), |config| config.depth = 1);
    let mut clients: Vec<_> = (0..4).map(|_| server.client()).collect();
    server.device.hold();
    for (n, client) in (0u64..).zip(&mut clients) {
        let commands: Vec<u8> = (0..16)
            .flat_map(|m| header(CommandType::Read, m, n * 512, 512).emit())
            .collect();
        client.send(&commands);
        server.device.wait_submitted(1);
        // It waits for its slot when the server has answered another client that came later.
        server.raw_client().go("disk");
    }
    server.device.release();
    for client in &mut clients {
        for m in 0..16 {
            assert_eq!(client.reply(), (m, 0));
            client.receive_vec(512);
        }
    }
    let log = server.device.log();
    let turns: Vec<_> = log.iter().map(|request| request.range.offset_bytes() / 512).collect();
    assert!((0..4).all(|n| turns[..8].contains(&n)), "{turns:?}");
    server.stop();
}

#[test]
fn disconnecting_lets_what_was_asked_for_end() {
    let server = TestServer::new();
    let mut client = server.client();
    server.device.hold();
    for n in 0..4u8 {
        let at = u64::from(n);
        client.command(header(CommandType::Write, at, at * 512, 512), &[n + 1; 512]);
    }
    client.command(header(CommandType::Disc, 9, 0, 0), &[]);
    server.device.wait_submitted(4);
    server.device.release();
    assert_eq!(client.rest().len(), 4 * 16, "four replies, then the end");
    assert_eq!(
        server.device.bytes()[..2048],
        [[1; 512], [2; 512], [3; 512], [4; 512]].concat()
    );
    server.stop();
}

#[test]
fn closing_one_direction_is_disconnecting() {
    let server = TestServer::new();
    let mut client = server.client();
    client.command(header(CommandType::Read, 1, 0, 512), &[]);
    client.half_close();
    assert_eq!(client.rest().len(), 16 + 512);
    server.stop();
}

#[test]
fn stopping_answers_what_is_on_its_way_and_closes_queues() {
    let mut server = TestServer::with(MemDevice::new("disk", 1 << 20), |config| config.threads = 3);
    let mut clients: Vec<_> = (0..3).map(|_| server.client()).collect();
    server.device.hold();
    for client in &mut clients {
        client.command(header(CommandType::Write, 1, 0, 512), &[1; 512]);
    }
    server.device.wait_submitted(3);
    let running = server.server.take().unwrap();
    let stopping = std::thread::spawn(|| running.stop());
    // Nothing more is accepted once the listener is gone, which happens when the first worker has ended; commands end first.
    server.device.release();
    for client in clients {
        assert_eq!(client.rest().len(), 16, "one reply, then the end");
    }
    stopping.join().unwrap().unwrap();
    assert_eq!(server.device.open_queues(), 0);
    server.manager.assert_quiet();
    assert!(std::os::unix::net::UnixStream::connect(&server.socket).is_err());
}

#[test]
fn a_device_that_works_for_itself_is_closed_when_that_has_ended() {
    let device = MemDevice::new("disk", 1 << 20);
    let (reader, mut writer) = std::io::pipe().unwrap();
    device.read_for_itself(FileHandle::new(reader));
    let mut server = TestServer::with(device, |_| ());
    let client = server.client();
    let running = server.server.take().unwrap();
    let stopping = std::thread::spawn(|| running.stop());
    // No client is left, and the device is still reading.
    assert_eq!(client.rest(), b"");
    writer.write_all(b"x").unwrap();
    stopping.join().unwrap().unwrap();
    assert_eq!(server.device.open_queues(), 0);
}

#[test]
fn a_stop_loses_no_reply_to_a_tcp_client_that_has_said_more() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut server = TestServer::with(MemDevice::new("disk", 8 << 20), |config| {
        config.listeners.push(listener.into());
        config.limits.in_flight = 4;
    });
    let mut client = Client::connect_tcp(address);
    client.go("disk");
    server.device.hold();
    // Many more than the server takes in at a time.
    let commands: Vec<u8> = (0..10_000)
        .flat_map(|n| header(CommandType::Read, n, 0, MIB).emit())
        .collect();
    client.send(&commands);
    server.device.wait_submitted(4);
    let running = server.server.take().unwrap();
    let stopping = std::thread::spawn(|| running.stop());
    server.device.release();
    let mut replies: Vec<_> = (0..4)
        .map(|_| {
            let reply = client.reply();
            client.receive_vec(1 << 20);
            reply
        })
        .collect();
    replies.sort_unstable();
    assert_eq!(replies, [(0, 0), (1, 0), (2, 0), (3, 0)]);
    drop(client);
    stopping.join().unwrap().unwrap();
}

#[test]
fn a_client_that_does_not_read_holds_no_stop_for_ever() {
    let server = TestServer::with(MemDevice::new("disk", 64 << 20), |config| {
        config.limits.stop_timeout = Duration::from_millis(50);
    });
    let mut client = server.client();
    client.command(header(CommandType::Read, 1, 0, 16 * MIB), &[]);
    server.device.wait_submitted(1);
    server.stop();
    drop(client);
}

#[test]
fn a_tcp_client_that_does_not_go_holds_no_stop_for_ever() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut server = TestServer::with(MemDevice::new("disk", 1 << 20), |config| {
        config.listeners.push(listener.into());
        config.limits.stop_timeout = Duration::from_millis(50);
    });
    let mut client = Client::connect_tcp(address);
    client.go("disk");
    server.device.hold();
    client.command(header(CommandType::Read, 1, 0, 512), &[]);
    server.device.wait_submitted(1);
    let running = server.server.take().unwrap();
    let stopping = std::thread::spawn(|| running.stop());
    server.device.release();
    stopping.join().unwrap().unwrap();
    assert!([0, 16 + 512].contains(&client.rest().len()));
}

#[test]
fn the_largest_payload_fits_the_arena() {
    let device = MemDevice::null("disk", SectorCount(1 << 30));
    let server = TestServer::with(device, |config| {
        config.queue.arena_bytes = 16 << 20;
        config.limits.connections = 4;
    });
    let mut client = server.client();
    assert_eq!(client.ask(CommandType::Read, 0, 8 * MIB + 512, &[]), 22);
    assert_eq!(client.read(0, 8 * MIB).len(), 8 << 20);
    server.stop();
}

#[test]
fn a_worker_that_panics_ends_the_server_and_hangs_nobody() {
    let mut server = TestServer::with(MemDevice::new("disk", 1 << 20), |config| {
        config.threads = 2;
        config.limits.stop_timeout = Duration::from_millis(50);
    });
    let (mut bomber, mut victim) = (server.client(), server.client());
    server.device.hold();
    victim.command(header(CommandType::Read, 1, 0, 512), &[]);
    server.device.wait_submitted(1);
    server.device.explode(Operation::Flush);
    bomber.command(header(CommandType::Flush, 2, 0, 0), &[]);
    assert_eq!((bomber.rest(), victim.rest()), (vec![], vec![]));
    let running = server.server.take().unwrap();
    assert_eq!(running.stop().unwrap_err().kind(), ErrorKind::Panicked);
}

#[test]
fn the_synchronous_engine_serves_as_well() {
    let server = TestServer::with(MemDevice::new("disk", 16 << 20), |config| {
        config.queue.engine = tqueue::EngineKind::Sync;
        config.threads = 2;
    });
    let mut clients = [server.client(), server.client()];
    for (seed, client) in (1..).zip(&mut clients) {
        let bytes = pattern(3 * MIB, seed);
        client.write(u64::from(seed) << 22, &bytes[..MIB as usize]);
        client.write(0, &bytes);
        assert!(client.read(0, 3 * MIB) == bytes);
    }
    let [client, _] = clients;
    client.half_close();
    assert_eq!(client.rest(), b"");
    server.stop();
}
