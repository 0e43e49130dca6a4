//! More asked for than there is memory: everybody gets it in turn, and nobody starves.

use std::thread;

use blkdev_nbd::ServerConfig;
use blkdev_nbd::proto::CommandType;
use blkdev_nbd::test_utils::MemDevice;

use crate::client::{Client, header, pattern};
use crate::server::{MIB, TestServer};

/// Payloads up to 2 MiB, and room for one such at a time.
fn tight(config: &mut ServerConfig) {
    config.queue.arena_bytes = 3 << 20;
    config.limits.connections = 8;
}

#[test]
fn reads_that_find_no_memory_come_later() {
    let server = TestServer::with(MemDevice::new("disk", 8 << 20), tight);
    let bytes = pattern(2 * MIB, 1);
    let mut client = server.client();
    client.write(0, &bytes);
    for n in 0..6 {
        client.command(header(CommandType::Read, n, 0, 2 * MIB), &[]);
    }
    for n in 0..6 {
        assert_eq!(client.reply(), (n, 0));
        assert!(client.receive_vec(2 << 20) == bytes);
    }
    assert_eq!(server.manager.seen().aborts, 0, "what was granted had its memory");
    server.stop();
}

#[test]
fn large_requests_are_not_starved_by_small_ones() {
    let server = TestServer::with(MemDevice::new("disk", 8 << 20), tight);
    let small = |mut client: Client| {
        move || {
            for n in 0..400 {
                client.send(
                    &(0..16)
                        .flat_map(|m| header(CommandType::Read, m, n * 512, 16384).emit())
                        .collect::<Vec<_>>(),
                );
                for _ in 0..16 {
                    assert_eq!(client.reply().1, 0);
                    client.receive_vec(16384);
                }
            }
        }
    };
    let large = |mut client: Client, seed: u8| {
        move || {
            for _ in 0..20 {
                let bytes = pattern(2 * MIB, seed);
                client.write(u64::from(seed) << 21, &bytes);
                assert!(client.read(u64::from(seed) << 21, 2 * MIB) == bytes);
            }
        }
    };
    let small: Vec<_> = (0..3).map(|_| thread::spawn(small(server.client()))).collect();
    let large: Vec<_> = (1..3).map(|seed| thread::spawn(large(server.client(), seed))).collect();
    small.into_iter().chain(large).for_each(|thread| thread.join().unwrap());
    server.stop();
}

#[test]
fn writes_that_wait_for_memory_let_reads_end_first() {
    let server = TestServer::with(MemDevice::new("disk", 8 << 20), tight);
    let (mut reader, mut writer) = (server.client(), server.client());
    server.device.hold();
    reader.command(header(CommandType::Read, 1, 0, 2 * MIB), &[]);
    server.device.wait_submitted(1);
    let bytes = pattern(2 * MIB, 7);
    let writing = thread::spawn(move || {
        writer.write(4 << 20, &bytes);
        writer
    });
    server.device.release();
    assert_eq!(reader.reply(), (1, 0));
    reader.receive_vec(2 << 20);
    writing.join().unwrap();
    assert!(server.device.bytes()[4 << 20..6 << 20] == pattern(2 * MIB, 7));
    server.stop();
}
