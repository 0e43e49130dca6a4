//! Structured replies: holes in reads, errors in words, block status.

use blkdev_nbd::proto::{ChunkHeader, ChunkType, CommandFlags, CommandHeader, CommandType, SparseRead};
use blkdev_nbd::test_utils::MemDevice;
use iomgr_core::{BlockStatus, Errno, Operation, SectorRange};
use proptest::prelude::*;

use crate::client::{Client, header, pattern};
use crate::server::{MIB, TestServer};

/// The bytes of a read, and the ranges of it that came as holes.
#[derive(Debug, Default, PartialEq)]
struct Read {
    bytes: Vec<u8>,
    holes: Vec<(u64, u32)>,
    chunks: usize,
}

fn be32(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes[..4].try_into().unwrap())
}

fn be64(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(bytes[..8].try_into().unwrap())
}

/// Reads; checks that each byte comes once.
fn read(client: &mut Client, flags: CommandFlags, offset: u64, len: u32) -> Read {
    client.command(
        CommandHeader {
            flags,
            ..header(CommandType::Read, 7, offset, len)
        },
        &[],
    );
    let mut read = Read::default();
    for (chunk, payload) in client.chunks() {
        let at = be64(&payload);
        assert_eq!(at, offset + read.bytes.len() as u64, "in order, without gaps");
        if chunk.kind == ChunkType::OffsetHole as u16 {
            let len = be32(&payload[8..]);
            read.holes.push((at, len));
            read.bytes.resize(read.bytes.len() + len as usize, 0);
        } else {
            assert_eq!(chunk.kind, ChunkType::OffsetData as u16);
            read.bytes.extend_from_slice(&payload[8..]);
        }
        read.chunks += 1;
    }
    assert_eq!(read.bytes.len(), len as usize);
    read
}

/// Number, message and place of an error.
fn error(client: &mut Client) -> (u32, String, Option<u64>) {
    let (chunk, payload) = client.chunk();
    assert!(chunk.is_last);
    let end = 6 + usize::from(u16::from_be_bytes(payload[4..6].try_into().unwrap()));
    let text = String::from_utf8(payload[6..end].to_vec()).unwrap();
    let place = (chunk.kind == ChunkType::ErrorOffset as u16).then(|| be64(&payload[end..]));
    assert!(chunk.kind == ChunkType::Error as u16 || place.is_some());
    (be32(&payload), text, place)
}

/// A command without payload that goes well.
fn good(client: &mut Client, command: CommandHeader, payload: &[u8]) {
    client.command(command, payload);
    let (chunk, payload) = client.chunk();
    let wanted = ChunkHeader {
        is_last: true,
        kind: ChunkType::None as u16,
        cookie: command.cookie,
        len: 0,
    };
    assert_eq!((chunk, payload), (wanted, vec![]));
}

fn write(client: &mut Client, offset: u64, bytes: &[u8]) {
    let len = u32::try_from(bytes.len()).unwrap();
    good(client, header(CommandType::Write, 3, offset, len), bytes);
}

/// The extents of one answer: length and state.
fn status(client: &mut Client, flags: CommandFlags, offset: u64, len: u32) -> Vec<(u32, u32)> {
    client.command(
        CommandHeader {
            flags,
            ..header(CommandType::BlockStatus, 8, offset, len)
        },
        &[],
    );
    let (chunk, payload) = client.chunk();
    assert_eq!((chunk.is_last, chunk.kind), (true, ChunkType::BlockStatus as u16));
    assert_eq!(be32(&payload), 1, "the context that was chosen");
    payload[4..]
        .chunks(8)
        .map(|extent| (be32(extent), be32(&extent[4..])))
        .collect()
}

const NONE: CommandFlags = CommandFlags::empty();

#[test]
fn holes_are_left_out_and_need_no_device() {
    let server = TestServer::new();
    let mut client = server.structured_client();
    let zeros = read(&mut client, NONE, 1 << 20, 32 * MIB);
    assert_eq!((zeros.chunks, &zeros.holes[..]), (1, &[(1 << 20, 32 * MIB)][..]));
    assert_eq!(server.device.submitted(), 0);
    let bytes = pattern(8192, 1);
    write(&mut client, 65536, &bytes);
    let mixed = read(&mut client, NONE, 0, 128 << 10);
    assert_eq!(mixed.holes, [(0, 65536), (65536 + 8192, 65536 - 8192)]);
    assert_eq!(mixed.bytes, server.device.bytes()[..128 << 10]);
    server.stop();
}

#[test]
fn reads_of_zeros_need_no_memory() {
    // Room for one payload of 2 MiB, which a write in the device holds.
    let server = TestServer::with(MemDevice::new("disk", 8 << 20), |config| {
        config.queue.arena_bytes = 3 << 20;
        config.limits.connections = 8;
    });
    let (mut writer, mut reader) = (server.structured_client(), server.structured_client());
    server.device.hold();
    writer.command(header(CommandType::Write, 1, 0, 2 * MIB), &pattern(2 * MIB, 1));
    server.device.wait_submitted(1);
    assert_eq!(read(&mut reader, NONE, 4 << 20, 2 * MIB).holes, [(4 << 20, 2 * MIB)]);
    server.device.release();
    assert_eq!(writer.chunk().0.kind, ChunkType::None as u16);
    server.stop();
}

#[test]
fn short_zeros_are_sent() {
    let server = TestServer::new();
    let mut client = server.structured_client();
    write(&mut client, 0, &[1; 512]);
    write(&mut client, 4096, &[2; 512]);
    let read = read(&mut client, NONE, 0, 8192);
    assert_eq!((read.chunks, &read.holes[..]), (1, &[][..]));
    assert_eq!(read.bytes, server.device.bytes()[..8192]);
    server.stop();
}

#[test]
fn unfragmented_reads_come_in_one_chunk() {
    let server = TestServer::new();
    let mut client = server.structured_client();
    write(&mut client, 65536, &pattern(4096, 1));
    let mixed = read(&mut client, CommandFlags::DF, 0, 128 << 10);
    assert_eq!((mixed.chunks, &mixed.holes[..]), (1, &[][..]));
    assert_eq!(mixed.bytes, server.device.bytes()[..128 << 10]);
    assert_eq!(
        read(&mut client, CommandFlags::DF, 1 << 20, 4096).holes,
        [(1 << 20, 4096)]
    );
    server.stop();
}

#[test]
fn a_patchwork_comes_in_a_bounded_number_of_chunks() {
    let server = TestServer::new();
    let mut client = server.structured_client();
    (0..256u64).for_each(|n| write(&mut client, n * 16384, &pattern(4096, 9)));
    let read = read(&mut client, NONE, 0, 4 * MIB);
    assert_eq!(read.chunks, SparseRead::<fn(SectorRange) -> BlockStatus>::PIECES_MAX);
    assert!(read.bytes == server.device.bytes()[..4 << 20]);
    server.stop();
}

#[test]
fn many_sparse_reads_at_once_are_told_apart() {
    let server = TestServer::new();
    let mut client = server.structured_client();
    for n in 0..64u64 {
        (0..8).for_each(|m| write(&mut client, n << 17 | m << 14, &pattern(4096, n.to_le_bytes()[0])));
    }
    server.device.hold();
    let before = server.device.submitted();
    (0..64).for_each(|n| client.command(header(CommandType::Read, n, n << 17, 128 << 10), &[]));
    server.device.wait_submitted(before + 64);
    server.device.release();
    let disk = server.device.bytes();
    for _ in 0..64 {
        let chunks = client.chunks();
        let start = usize::try_from(chunks[0].0.cookie).unwrap() << 17;
        let mut seen = 0;
        for (chunk, payload) in chunks {
            let at = usize::try_from(be64(&payload)).unwrap();
            assert_eq!(at, start + seen);
            if chunk.kind == ChunkType::OffsetHole as u16 {
                seen += be32(&payload[8..]) as usize;
            } else {
                assert!(payload[8..] == disk[at..at + payload.len() - 8]);
                seen += payload.len() - 8;
            }
        }
        assert_eq!(seen, 128 << 10);
    }
    server.stop();
}

#[test]
fn errors_come_with_words_and_the_connection_goes_on() {
    let server = TestServer::new();
    let mut client = server.structured_client();
    write(&mut client, 65536, &pattern(4096, 1));
    server.device.fail(Operation::Read, Errno::IO);
    client.command(header(CommandType::Read, 7, 0, 128 << 10), &[]);
    assert_eq!(
        error(&mut client),
        (5, "the device failed".into(), None),
        "although its front is a hole"
    );
    let size = 64 << 20;
    client.command(header(CommandType::Read, 7, size - 512, 1024), &[]);
    assert_eq!(
        error(&mut client),
        (22, "that is beyond the end of the export".into(), Some(size))
    );
    client.command(header(CommandType::Write, 7, size, 512), &[1; 512]);
    assert_eq!(error(&mut client).0, 28);
    client.command(
        CommandHeader {
            kind: 99,
            ..header(CommandType::Read, 7, 0, 0)
        },
        &[],
    );
    assert_eq!(error(&mut client), (22, "the command is not known".into(), None));
    write(&mut client, 0, &[1; 512]);
    server.stop();
}

#[test]
fn block_status_sees_what_was_answered() {
    let server = TestServer::new();
    let mut client = server.structured_client();
    write(&mut client, 4096, &[1; 8192]);
    let zeroes = CommandHeader {
        flags: CommandFlags::NO_HOLE,
        ..header(CommandType::WriteZeroes, 1, 12288, 4096)
    };
    good(&mut client, zeroes, &[]);
    let all = [(4096, 3), (8192, 0), (4096, 2), ((64 << 20) - 16384, 3)];
    assert_eq!(status(&mut client, NONE, 0, 64 * MIB), all);
    assert_eq!(status(&mut client, CommandFlags::REQ_ONE, 8192, 65536), [(4096, 0)]);
    assert_eq!(
        status(&mut client, NONE, 8192, 512),
        [(512, 0)],
        "no more than was asked for"
    );
    good(&mut client, header(CommandType::Trim, 2, 4096, 12288), &[]);
    assert_eq!(status(&mut client, NONE, 0, 64 * MIB), [(64 << 20, 3)]);
    server.stop();
}

#[test]
fn block_status_needs_its_context_and_its_export() {
    let server = TestServer::new();
    let mut plain = server.client();
    assert_eq!(plain.ask(CommandType::BlockStatus, 0, 4096, &[]), 22);
    let mut client = server.raw_client();
    client.greet(3);
    assert_eq!(client.option(8, b"")[0].0, 1);
    client.choose("disk");
    client.command(header(CommandType::BlockStatus, 7, 0, 4096), &[]);
    assert_eq!(error(&mut client), (22, "no metadata context was chosen".into(), None));
    server.stop();
}

#[test]
fn connections_tell_how_they_are_spoken_to() {
    let server = TestServer::new();
    let mut clients = [server.structured_client(), server.client()];
    // Once a command is answered, the handshake is behind us.
    good(&mut clients[0], header(CommandType::Flush, 1, 0, 0), &[]);
    assert_eq!(clients[1].ask(CommandType::Flush, 0, 0, &[]), 0);
    let connections = server.server.as_ref().unwrap().connections();
    let mut structured: Vec<_> = connections.iter().map(|connection| connection.structured).collect();
    structured.sort_unstable();
    assert_eq!(structured, [false, true]);
    drop(clients);
    server.stop();
}

#[test]
fn cache_is_a_hint_that_reaches_the_device() {
    let server = TestServer::new();
    let mut client = server.structured_client();
    good(&mut client, header(CommandType::Cache, 4, 4096, 32 * MIB), &[]);
    let logged = server.device.log();
    assert_eq!(
        (logged.len(), logged[0].op, logged[0].range.len_bytes()),
        (1, Operation::Prefetch, 32 << 20)
    );
    let mut plain = server.client();
    assert_eq!(plain.ask(CommandType::Cache, 0, 512, &[]), 0);
    server.stop();
}

#[test]
fn fast_zeroes_fail_where_they_are_slow() {
    let server = TestServer::new();
    let mut client = server.structured_client();
    let zeroes = |flags| CommandHeader {
        flags,
        ..header(CommandType::WriteZeroes, 1, 0, 4096)
    };
    good(&mut client, zeroes(CommandFlags::FAST_ZERO), &[]);
    server.device.slow_down_zeroes();
    client.command(zeroes(CommandFlags::FAST_ZERO | CommandFlags::NO_HOLE), &[]);
    assert_eq!(
        error(&mut client),
        (95, "zeros cannot be written fast here".into(), None)
    );
    good(&mut client, zeroes(NONE), &[]);
    let mut plain = server.client();
    plain.command(zeroes(CommandFlags::FAST_ZERO), &[]);
    assert_eq!(plain.reply(), (1, 95));
    server.stop();
}

#[test]
fn a_read_only_device_tells_its_holes() {
    let device = MemDevice::new("disk", 1 << 20).with_limits(|limits| limits.read_only = true);
    let server = TestServer::with(device, |_| ());
    let mut client = server.structured_client();
    assert_eq!(status(&mut client, NONE, 0, MIB), [(MIB, 3)]);
    assert_eq!(read(&mut client, NONE, 0, MIB).holes, [(0, MIB)]);
    client.command(header(CommandType::Write, 7, 0, 512), &[1; 512]);
    assert_eq!(error(&mut client).0, 1);
    server.stop();
}

/// Random writes, trims and zeros, each in units of `unit` bytes.
fn scribble(client: &mut Client, ops: &[(u8, u64, u32)], unit: u64) {
    for (kind, at, count) in ops {
        let (offset, len) = (at * unit, count * u32::try_from(unit).unwrap());
        match kind {
            0 => write(client, offset, &pattern(len, 5)),
            1 => good(client, header(CommandType::Trim, 1, offset, len), &[]),
            kind => {
                let flags = if *kind == 2 { CommandFlags::NO_HOLE } else { NONE };
                let command = header(CommandType::WriteZeroes, 1, offset, len);
                good(client, CommandHeader { flags, ..command }, &[]);
            }
        }
    }
}

/// All extents of the first MiB, asked for in steps of `step` bytes: a state for each sector.
fn map(client: &mut Client, flags: CommandFlags, step: u32) -> Vec<u32> {
    let mut states = Vec::new();
    while states.len() < 2048 {
        let left = (2048 - u32::try_from(states.len()).unwrap()) << 9;
        let wanted = step.min(left);
        let extents = status(client, flags, (states.len() as u64) << 9, wanted);
        let total: u32 = extents.iter().map(|(len, _)| len).sum();
        assert!(total > 0 && total <= wanted && extents.len() <= 512);
        assert!(
            extents.windows(2).all(|pair| pair[0].1 != pair[1].1),
            "neighbours differ"
        );
        assert!(!flags.contains(CommandFlags::REQ_ONE) || extents.len() == 1);
        extents
            .iter()
            .for_each(|(len, state)| states.resize(states.len() + (*len as usize >> 9), *state));
    }
    states
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn block_status_and_sparse_reads_equal_the_device(
        ops in proptest::collection::vec((0u8..4, 0u64..2000, 1u32..48), 0..60),
        step in 1u32..2048,
        reads in proptest::collection::vec((0u64..2000, 1u32..48), 8),
    ) {
        let server = TestServer::with(MemDevice::new("disk", 1 << 20), |_| ());
        let mut client = server.structured_client();
        scribble(&mut client, &ops, 512);
        let states = server.device.states();
        prop_assert_eq!(&map(&mut client, NONE, step << 9), &states);
        prop_assert_eq!(&map(&mut client, CommandFlags::REQ_ONE, step << 9), &states);
        let disk = server.device.bytes();
        for (at, count) in reads {
            let (offset, len) = (at * 512, count * 512);
            let read = read(&mut client, NONE, offset, len);
            let at = usize::try_from(offset).unwrap();
            prop_assert!(read.bytes == disk[at..at + len as usize]);
        }
        server.stop();
    }
}
