//! What each command does.

use blkdev_nbd::proto::{CommandFlags, CommandHeader, CommandType};
use blkdev_nbd::test_utils::{Logged, MemDevice};
use iomgr_core::{Errno, Operation, RequestFlags, Sector, SectorCount, SectorRange};

use crate::client::{header, pattern};
use crate::server::{MIB, TestServer};

#[test]
fn what_was_written_is_read() {
    let server = TestServer::new();
    let mut client = server.client();
    for (offset, len) in [(0, 512), (1 << 20, 4096), (5 << 20, 65536 + 512), (8 << 20, 3 * MIB)] {
        let bytes = pattern(len, 3);
        client.write(offset, &bytes);
        assert!(client.read(offset, len) == bytes, "{offset}+{len}");
    }
    server.stop();
}

#[test]
fn the_handshake_tells_the_size_and_the_old_way_works() {
    let server = TestServer::new();
    assert_eq!(server.raw_client().go(""), 64 << 20, "the default export");
    let mut client = server.raw_client();
    client.greet(3);
    client.send(&[&b"IHAVEOPT\0\0\0\x01\0\0\0\x04disk"[..]].concat());
    let export: [u8; 10] = client.receive();
    assert_eq!(u64::from_be_bytes(export[..8].try_into().unwrap()), 64 << 20);
    client.write(0, &[1; 512]);
    server.stop();
}

#[test]
fn list_and_abort() {
    let server = TestServer::new();
    let mut client = server.raw_client();
    client.greet(3);
    let replies = client.option(3, b"");
    assert_eq!(replies[0], (2, b"\0\0\0\x04diskfor tests".to_vec()));
    assert_eq!(client.option(2, b""), [(1, vec![])]);
    assert_eq!(client.rest(), b"");
    server.stop();
}

#[test]
fn zeroes_and_trims_reach_the_device_with_their_flags() {
    let server = TestServer::new();
    let mut client = server.client();
    client.write(0, &[9; 8192]);
    let flagged = |kind, flags, len| CommandHeader {
        flags,
        ..header(kind, 1, 0, len)
    };
    let mut run = |command| {
        client.command(command, &[]);
        assert_eq!(client.reply(), (1, 0));
    };
    run(flagged(
        CommandType::WriteZeroes,
        CommandFlags::NO_HOLE | CommandFlags::FUA,
        1024,
    ));
    run(flagged(CommandType::Trim, CommandFlags::FUA, 512));
    run(flagged(CommandType::Flush, CommandFlags::empty(), 0));
    let range = |count| SectorRange::new(Sector(0), SectorCount(count)).unwrap();
    let logged = |op, flags, count| Logged {
        op,
        flags,
        range: range(count),
    };
    let expected = [
        logged(Operation::Write, RequestFlags::empty(), 16),
        logged(Operation::WriteZeroes, RequestFlags::FUA | RequestFlags::NO_UNMAP, 2),
        logged(Operation::Discard, RequestFlags::FUA, 1),
        logged(Operation::Flush, RequestFlags::empty(), 0),
    ];
    assert_eq!(server.device.log(), expected);
    assert_eq!(client.read(512, 1024), [[0; 512], [9; 512]].concat());
    server.stop();
}

#[test]
fn errors_of_the_device_are_told_and_the_connection_goes_on() {
    let server = TestServer::new();
    let mut client = server.client();
    server.device.fail(Operation::Write, Errno::NOSPC);
    assert_eq!(client.ask(CommandType::Write, 0, 512, &[1; 512]), 28);
    server.device.fail(Operation::Read, Errno::IO);
    assert_eq!(client.ask(CommandType::Read, 0, 512, &[]), 5, "and no data follows");
    client.write(0, &[1; 512]);
    server.stop();
}

#[test]
fn a_read_only_device_refuses_writes() {
    let device = MemDevice::new("disk", 1 << 20).with_limits(|limits| limits.read_only = true);
    let server = TestServer::with(device, |_| ());
    let mut client = server.client();
    assert_eq!(client.ask(CommandType::Write, 0, 512, &[1; 512]), 1);
    assert_eq!(client.ask(CommandType::WriteZeroes, 0, 512, &[]), 1);
    assert_eq!(client.read(0, 512), [0; 512]);
    server.stop();
}

#[test]
fn blocks_of_4096_bytes_are_the_unit_where_the_device_says_so() {
    let device = MemDevice::new("disk", 1 << 20).with_limits(|limits| limits.logical_block_bytes = 4096);
    let server = TestServer::with(device, |_| ());
    let mut client = server.client();
    assert_eq!(client.ask(CommandType::Read, 512, 4096, &[]), 22);
    assert_eq!(client.ask(CommandType::Write, 0, 512, &[1; 512]), 22);
    client.write(4096, &pattern(4096, 1));
    server.stop();
}

#[test]
fn sixty_four_requests_are_in_flight_and_answered_by_cookie() {
    let server = TestServer::new();
    let mut client = server.client();
    client.write(0, &pattern(64 * 4096, 5));
    server.device.hold();
    let commands: Vec<u8> = (0..64)
        .flat_map(|n| header(CommandType::Read, n, n * 4096, 4096).emit())
        .collect();
    client.send(&commands);
    server.device.wait_submitted(65);
    server.device.release();
    let all = pattern(64 * 4096, 5);
    let mut seen = [false; 64];
    for _ in 0..64 {
        let (cookie, error) = client.reply();
        assert_eq!(error, 0);
        let at = usize::try_from(cookie).unwrap();
        assert!(client.receive_vec(4096) == all[at * 4096..][..4096], "cookie {cookie}");
        assert!(!std::mem::replace(&mut seen[at], true), "cookie {cookie} came once");
    }
    server.stop();
}

#[test]
fn connections_on_two_threads_see_one_disk() {
    let server = TestServer::with(MemDevice::new("disk", 8 << 20), |config| config.threads = 2);
    let mut clients: Vec<_> = (0..4).map(|_| server.client()).collect();
    for (n, client) in (0u8..).zip(&mut clients) {
        client.write(u64::from(n) * 4096, &[n + 1; 4096]);
        assert_eq!(client.ask(CommandType::Flush, 0, 0, &[]), 0);
    }
    for client in &mut clients {
        assert_eq!(
            client.read(0, 16384),
            [[1; 4096], [2; 4096], [3; 4096], [4; 4096]].concat()
        );
    }
    assert_eq!(server.server.as_ref().unwrap().stats().connections, 4);
    drop(clients);
    server.stop();
}
