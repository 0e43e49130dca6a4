//! Requests, from the descriptor to the commit.

use iomgr_core::test_utils::{Logged, MemDevice};
use iomgr_core::{Errno, Operation, RequestFlags, Sector, SectorCount, SectorRange};
use tqueue::EngineKind;

use super::rig::{BUFFER_BYTES, Rig};
use crate::fake::Habits;
use crate::{Attributes, Descriptor, IoOp, Server};

#[test]
fn bytes_go_there_and_back() {
    let rig = Rig::new();
    let server = rig.start().unwrap();
    let bytes: Vec<u8> = (0..BUFFER_BYTES).map(|at| (at % 251) as u8).collect();
    rig.driver.write(0, 16, &bytes).unwrap();
    assert_eq!(rig.device.bytes()[8192..8192 + bytes.len()], bytes);
    let read = rig.driver.request(0, IoOp::Read, 17, 8).unwrap();
    assert_eq!(read, bytes[512..512 + 4096]);
    rig.end(server);
}

/// The driver that is played accuses whoever commits a flush or a discard with a length, or a read with less.
#[test]
fn what_moves_no_data_is_committed_with_nothing() {
    let rig = Rig::new();
    let server = rig.start().unwrap();
    rig.driver.write(0, 0, &[1; 8192]).unwrap();
    for (op, sectors) in [(IoOp::Flush, 0), (IoOp::Discard, 8), (IoOp::WriteZeroes, 4)] {
        rig.driver.request(0, op, 0, sectors).unwrap();
        rig.driver.assert_content();
    }
    assert_eq!(rig.device.bytes()[..4096], [0; 4096]);
    rig.end(server);
}

/// Longer than any buffer, as they have no data.
#[test]
fn long_discards_and_zeroes_need_no_buffer() {
    let rig = Rig::of(MemDevice::null("disk", SectorCount(1 << 30)), Habits::default());
    let server = rig.start().unwrap();
    let most = crate::SECTORS_MAX_DISCARD;
    rig.driver.request(0, IoOp::WriteZeroes, 1 << 20, most).unwrap();
    rig.driver.request(0, IoOp::Discard, 1 << 20, most).unwrap();
    rig.end(server);
}

/// Sectors are of 512 bytes, whatever the logical block size is.
#[test]
fn units_are_sectors_whatever_a_block_is() {
    let device = MemDevice::new("disk", 1 << 20).with_limits(|limits| limits.logical_block_bytes = 4096);
    let rig = Rig::of(device, Habits::default());
    let server = rig.start().unwrap();
    assert_eq!(rig.driver.params(0).unwrap().logical_block_shift, 12);
    rig.driver.write(0, 8, &[9; 4096]).unwrap();
    assert_eq!(rig.device.bytes()[4096..8192], [9; 4096]);
    rig.end(server);
}

/// Nothing is advertised that is not there: without a cache no flush would come, and a device that is only read takes no discard.
#[test]
fn the_kernel_has_what_the_device_says() {
    let device = MemDevice::new("disk", 1 << 20).with_limits(|limits| {
        limits.logical_block_bytes = 4096;
        limits.physical_block_bytes = 16384;
        limits.optimal_io_bytes = 2 << 20;
        limits.discard_granularity_bytes = 2 << 20;
        limits.rotational = true;
    });
    let rig = Rig::of(device, Habits::default());
    let server = rig.start().unwrap();
    let told = rig.driver.params(0).unwrap();
    let cached = Attributes::VOLATILE_CACHE | Attributes::FUA;
    assert_eq!(told.attributes, Attributes::ROTATIONAL | cached);
    let shifts = [
        told.logical_block_shift,
        told.physical_block_shift,
        told.io_min_shift,
        told.io_opt_shift,
    ];
    assert_eq!((shifts, told.size.0), ([12, 14, 14, 21], 2048));
    let discard = told.discard.unwrap();
    assert_eq!(discard.granularity_bytes, 2 << 20);
    for most in [discard.max_discard_sectors, discard.max_write_zeroes_sectors] {
        assert!(most <= crate::SECTORS_MAX_DISCARD && most % 4096 == 0, "{most}");
    }
    assert_eq!(told.dma_alignment, None, "the kernel copies");
    rig.end(server);

    let device = MemDevice::new("disk", 1 << 20).with_limits(|limits| {
        (limits.read_only, limits.volatile_cache) = (true, false);
    });
    let rig = Rig::of(device, Habits::default());
    let server = rig.start().unwrap();
    let told = rig.driver.params(0).unwrap();
    assert_eq!((told.attributes, told.discard), (Attributes::READ_ONLY, None));
    rig.end(server);
}

#[test]
fn flags_reach_the_device() {
    let rig = Rig::new();
    let server = rig.start().unwrap();
    let zeroes = IoOp::WriteZeroes as u32;
    for (op_flags, sectors) in [(IoOp::Write as u32 | 1 << 13, 1), (zeroes | 1 << 15, 2), (zeroes, 3)] {
        let descriptor = Descriptor {
            op_flags,
            sectors,
            start_sector: 0,
        };
        let bytes = if sectors == 1 { vec![3; 512] } else { Vec::new() };
        rig.driver.raw(0, descriptor, &bytes).unwrap();
    }
    let logged = |op, flags, sectors| Logged {
        op,
        flags,
        range: SectorRange::new(Sector(0), SectorCount(sectors)).unwrap(),
    };
    let expected = [
        logged(Operation::Write, RequestFlags::FUA, 1),
        logged(Operation::WriteZeroes, RequestFlags::NO_UNMAP, 2),
        logged(Operation::WriteZeroes, RequestFlags::empty(), 3),
    ];
    assert_eq!(rig.device.log()[1..], expected);
    rig.end(server);
}

#[test]
fn errors_are_the_device_s_and_end_only_their_request() {
    let rig = Rig::new();
    let server = rig.start().unwrap();
    rig.device.fail(Operation::Write, Errno::NOSPC);
    assert_eq!(rig.driver.write(0, 0, &[1; 512]), Err(Errno::NOSPC.raw_os_error()));
    assert_eq!(rig.driver.request(0, IoOp::Read, 0, 1).unwrap(), [0; 512]);
    rig.end(server);
}

/// No kernel sends these; if one did, it would hear so, and nothing else would suffer.
#[test]
fn what_cannot_be_is_refused() {
    let rig = Rig::new();
    let server = rig.start().unwrap();
    let submitted = rig.device.submitted();
    let write_same = Descriptor {
        op_flags: 4,
        sectors: 1,
        start_sector: 0,
    };
    assert_eq!(rig.driver.raw(0, write_same, &[]), Err(Errno::OPNOTSUPP.raw_os_error()));
    let too_long = BUFFER_BYTES / 512 + 1;
    for (start, sectors) in [(0, too_long), (0, 0), (0, u32::MAX), (u64::MAX, 1)] {
        let answer = rig.driver.request(0, IoOp::Read, start, sectors);
        assert_eq!(answer, Err(Errno::INVAL.raw_os_error()), "{start} {sectors}");
    }
    assert_eq!(rig.device.submitted(), submitted, "the device saw none of them");
    rig.driver.request(0, IoOp::Read, 0, 1).unwrap();
    rig.end(server);
}

/// All tags at once, ended by another thread: each gets its own answer, and the figures add up.
#[test]
fn tags_are_in_flight_together() {
    let rig = Rig::new();
    let server = rig.start().unwrap();
    rig.driver
        .write(0, 0, &[[1; 512], [2; 512], [3; 512], [4; 512]].concat())
        .unwrap();
    rig.device.hold();
    let tags: Vec<usize> = (0..4).map(|sector| rig.driver.send(0, IoOp::Read, sector, 1)).collect();
    rig.device.wait_submitted(6);
    rig.device.release();
    for (tag, byte) in tags.into_iter().zip(1..) {
        assert_eq!(rig.driver.answer(0, tag).unwrap(), [byte; 512]);
    }
    rig.driver.request(0, IoOp::Flush, 0, 0).unwrap();
    let stats = server.stats();
    assert!(stats.requests_total >= 6 && stats.enters_total > 0, "{stats:?}");
    let seen = rig.manager.seen();
    assert_eq!((seen.allocs, seen.frees), (7, 7), "each passed the hooks");
    rig.end(server);
}

/// By blocking calls, and by the ring where there is one.
#[test]
fn nothing_is_allocated_for_a_request() {
    for engine in [EngineKind::Sync, EngineKind::Auto] {
        let rig = Rig::new();
        let mut config = rig.config();
        config.queue.engine = engine.clone();
        let server = Server::start_on(&rig.driver, config).unwrap();
        let round = || {
            rig.driver.write(0, 0, &[5; 8192]).unwrap();
            for op in [IoOp::Read, IoOp::WriteZeroes, IoOp::Discard, IoOp::Flush] {
                rig.driver
                    .request(0, op, 8, if op == IoOp::Flush { 0 } else { 8 })
                    .unwrap();
            }
            rig.driver.allocations()
        };
        // Until the device's log is full: then it allocates nothing, either.
        let rounds = |count| (0..count).fold(0, |_, _| round());
        let before = rounds(1000);
        let after = rounds(200);
        assert_eq!(before, after, "by {engine:?}");
        rig.end(server);
    }
}
