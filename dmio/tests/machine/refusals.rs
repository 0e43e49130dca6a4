//! What is refused, and in which words.

use dmio::{DeviceConfig, Io, IoFlags, Machine, MachineConfig, MemoryKind, Region};
use iomgr_core::{Errno, Operation, Sector, SectorCount, SectorRange, Timestamp};

use crate::story::{OWN, POOL, config, io, read, region, write};

#[test]
fn refusals_say_what_is_wrong() {
    let mut config = config();
    config.devices[2] = DeviceConfig {
        logical_block_bytes: 4096,
        read_only: true,
        ..config.devices[2]
    };
    let mut machine = Machine::new(config).unwrap();
    let at = [
        region(0, 0),
        region(0, 4),
        region(1, 0),
        region(2, 8),
        region(2, 1),
        region(0, 996),
        region(7, 0),
    ];
    let long = Region {
        range: SectorRange::new(Sector(0), SectorCount(65)).unwrap(),
        ..at[0]
    };
    let other = Region {
        range: SectorRange::new(Sector(64), SectorCount(12)).unwrap(),
        ..at[0]
    };
    let empty = Region {
        range: SectorRange::default(),
        ..at[0]
    };
    let (both, many) = ([at[0], at[2]], [at[0]; 65]);
    let choice = |io| Io { choice: true, ..io };
    let bad = [
        write(&[]),
        write(&many),
        write(&at[6..]),
        write(&at[5..6]),
        write(&at[3..4]),
        read(&at[4..5]),
        write(&[long]),
        write(&[empty]),
        write(&at[..2]),
        write(&[at[0], other]),
        choice(write(&both)),
        Io {
            choice: false,
            ..read(&both)
        },
        io(Operation::Read, &both[..1], MemoryKind::None),
        io(Operation::Discard, &both, POOL),
        io(Operation::Flush, &both, MemoryKind::None),
        Io {
            flags: IoFlags::CANCEL_ON_TIMEOUT,
            ..io(Operation::Read, &both[..1], OWN)
        },
    ]
    .map(|io| {
        let error = machine.start(Timestamp::ZERO, &io).unwrap_err();
        assert_eq!(error.errno(), Errno::INVAL);
        error.to_string()
    });
    insta::assert_snapshot!(bad.join("\n"), @r"
    a request has 1 to 64 regions
    a request has 1 to 64 regions
    region 0: no device has this number
    region 0: the range does not lie on the device
    region 0: the device is read-only
    region 0: the range is no multiple of the device's logical block size
    region 0: the range is longer than the client was made for
    region 0: the range is empty
    region 1: it overlaps an earlier region of the write
    the regions differ in length, and one buffer serves all
    only a read can choose among regions
    several regions are read only as a choice
    a read or a write needs memory
    only reads and writes have memory
    region 0: a flush is about the whole device; leave the range empty
    I/O on one's own memory cannot be cancelled at a timeout; use the pool's or have it copied
    ");
}

#[test]
fn a_machine_that_no_memory_would_hold_is_not_made() {
    let good = config();
    let bad = [
        MachineConfig {
            devices: Vec::new(),
            ..good.clone()
        },
        MachineConfig {
            requests: 0,
            ..good.clone()
        },
        MachineConfig {
            legs: u32::MAX,
            ..good.clone()
        },
        MachineConfig {
            devices: vec![good.devices[0]; 1000],
            legs: 1 << 16,
            ..good.clone()
        },
        MachineConfig {
            devices: vec![DeviceConfig {
                logical_block_bytes: 768,
                ..good.devices[0]
            }],
            ..good.clone()
        },
    ]
    .map(|config| Machine::new(config).unwrap_err().to_string());
    insta::assert_snapshot!(bad.join("\n"), @r"
    devices: there are 0; give 1 to 65536
    requests: 0 is out of range; give 1 to 65536
    legs: 4294967295 is out of range; give 1 to 65536
    legs: 1000 devices with 65536 legs are too many
    logical_block_bytes: 768 is no power of two from 512
    ");
}
